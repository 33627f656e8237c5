"""CIFAR-10 in its three layouts: the same photos come out, and a pickle that asks for more than arrays is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtkd_edge.errors import DataError
from mtkd_edge.lab.benchmark import cifar10
from mtkd_edge.lab.benchmark.cifar10 import Part


def photos(count: int = 20, seed: int = 0) -> Part:
    rng = np.random.default_rng(seed)
    return Part(rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), (np.arange(count) % 10).astype(np.uint8))


def rows(part: Part) -> np.ndarray:
    return part.pixels.transpose(0, 3, 1, 2).reshape(len(part.pixels), -1)


def write_python(folder: Path, train: Part, test: Part) -> None:
    """Like the original: written by Python 2, protocol 2, bytes as keys."""
    folder.mkdir()
    for name, part in {"data_batch_1": train, "test_batch": test}.items():
        held = {b"data": rows(part), b"labels": part.labels.tolist(), b"batch_label": b"one of one"}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))


def write_binary(folder: Path, train: Part, test: Part) -> None:
    folder.mkdir()
    for name, part in {"data_batch_1.bin": train, "test_batch.bin": test}.items():
        (folder / name).write_bytes(np.concatenate([part.labels[:, None], rows(part)], 1).tobytes())


def write_compact(folder: Path, train: Part, test: Part) -> None:
    folder.mkdir()
    for name, part in {"train_all.npz": train, "test.npz": test}.items():
        files = [cv2.imencode(".png", photo[:, :, ::-1])[1].ravel() for photo in part.pixels]
        offsets = np.cumsum([0, *map(len, files)])
        np.savez(folder / name, jpeg=np.concatenate(files), offsets=offsets, labels=part.labels)


@pytest.mark.parametrize("write", [write_python, write_binary, write_compact])
@pytest.mark.parametrize("name", ["cifar-10-batches-py", "photos"])
def test_every_layout_gives_the_same_photos(write, name: str, tmp_path: Path) -> None:
    train, test = photos(), photos(10, seed=1)
    write(tmp_path / name, train, test)
    # the folder itself, or for the usual names the one above it
    root = tmp_path if name.startswith("cifar") else tmp_path / name
    for wanted, found in zip((train, test), cifar10.load(root), strict=True):
        assert np.array_equal(found.pixels, wanted.pixels) and np.array_equal(found.labels, wanted.labels)


def test_a_pickle_that_asks_for_a_command_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/harmed",)

    write_python(tmp_path / "cifar", photos(), photos())
    (tmp_path / "cifar" / "data_batch_1").write_bytes(pickle.dumps({b"data": Harm(), b"labels": []}))
    with pytest.raises(DataError, match="which no photo needs"):
        cifar10.load(tmp_path / "cifar")
    assert not (tmp_path / "harmed").exists()


def test_what_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no CIFAR-10"):
        cifar10.load(tmp_path)
    write_binary(tmp_path / "cifar", photos(), photos())
    path = tmp_path / "cifar" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        cifar10.load(tmp_path / "cifar")


def test_a_label_beyond_ten_classes_is_refused(tmp_path: Path) -> None:
    part = photos()
    write_binary(tmp_path / "cifar", Part(part.pixels, part.labels + 5), part)
    with pytest.raises(DataError, match="labels"):
        cifar10.load(tmp_path / "cifar")


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ([1, 2], "holds one list, wanted a table with data, labels"),
        (7, "holds one int"),
        ({b"data": rows(photos())}, "has no labels"),
        ({"data": rows(photos()), "labels": [0]}, "has no data, labels"),
        ({b"data": None, b"labels": [0]}, "is not a part of CIFAR-10"),
        ({b"data": rows(photos()), b"labels": ["x"] * 20}, "is not a part of CIFAR-10"),
        ({b"data": rows(photos()), b"labels": 3}, "labels \\(\\)"),
    ],
)
def test_a_pickle_that_is_something_else_is_named(held: object, why: str, tmp_path: Path) -> None:
    write_python(tmp_path / "cifar", photos(), photos())
    (tmp_path / "cifar" / "test_batch").write_bytes(pickle.dumps(held))
    with pytest.raises(DataError, match=rf"test_batch.*{why}") as caught:
        cifar10.load(tmp_path / "cifar")
    assert caught.value.hint == "unpack the archive again"


def test_an_npz_without_its_arrays_is_named(tmp_path: Path) -> None:
    write_compact(tmp_path / "cifar", photos(), photos())
    np.savez(tmp_path / "cifar" / "test.npz", jpeg=np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"test\.npz is not a part of CIFAR-10: it has no offsets, labels"):
        cifar10.load(tmp_path / "cifar")
