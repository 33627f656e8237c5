"""A cell of a benchmark belongs to its photos: with others it is neither continued nor kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import tiny
from logit_nets import write_teachers
from test_cifar10 import Part, write_compact

from mtkd_edge.errors import DataError
from mtkd_edge.lab.benchmark import map_cell, paper_cell
from mtkd_edge.lab.benchmark.outcome import Outcome
from mtkd_edge.lab.benchmark.run import run
from mtkd_edge.lab.benchmark.settings import Settings, complete, variants
from mtkd_edge.lab.benchmark.suites import open_suite
from mtkd_edge.progress import silent

SMALL: dict[str, Any] = {"method": "paper", "student": "test_resnet", "epochs": 2, "device": "cpu", "batch": 16}
CROPS = {"size": 64, "crop": 32, "stride": 32, "crops": 2, "protocol": "oracle", "every": 1}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return write_teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    root = tmp_path / "disc"
    factory.write(root / "train" / "good", tiny.normal_frames(20))
    factory.write(root / "test" / "good", tiny.normal_frames(4, seed=1))
    factory.write(root / "test" / "blotch", tiny.with_defects(tiny.normal_frames(4, seed=2)))
    factory.write(root / "ground_truth" / "blotch", tiny.normal_frames(4, seed=3))
    for path in (root / "ground_truth" / "blotch").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    return root


def folder(root: Path, names: tuple[str, ...]) -> Settings:
    return complete("folder", str(root), {**SMALL, **CROPS, "teachers": names})


def one(settings: Settings, out: Path, category: str = "disc", seeds: int = 1) -> tuple[Outcome, ...]:
    return run(settings, variants(settings, None), [category], seeds, out).outcomes


def stop(settings: Settings, out: Path, at: str, done: int = 1) -> None:
    """Run until something says `at` for the `done`-th time."""

    def stopped(step: str, count: int, total: int, note: str = "") -> None:
        if (step, count) == (at, done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, variants(settings, None), ["disc"], 1, out, stopped)


def more(root: Path) -> None:
    factory.write(root / "test" / "scratch", tiny.normal_frames(2, seed=9))


def put(root: Path, place: str) -> None:
    """Another picture in the place of one."""
    factory.write(root / "new", tiny.normal_frames(1, seed=9))
    (root / "new" / "000.png").replace(root / place)
    (root / "new").rmdir()


def swapped(root: Path) -> None:
    put(root, "train/good/000.png")


def relabelled(root: Path) -> None:
    (root / "test" / "good" / "000.png").rename(root / "test" / "blotch" / "900.png")


def remasked(root: Path) -> None:
    put(root, "ground_truth/blotch/000_mask.png")


@pytest.mark.parametrize("change", [more, swapped, relabelled, remasked])
def test_a_stopped_cell_does_not_go_on_with_other_photos(
    change: Any, disc: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    out, settings = tmp_path / "out", folder(disc, names)
    stop(settings, out, "student", 3)
    cell = out / "unfinished" / "all" / "disc-0"
    assert (cell / "terms-1.safetensors").is_file()
    change(disc)
    with pytest.raises(DataError, match=r"all/disc-0 was run with other photos of disc") as caught:
        one(settings, out)
    assert str(cell) in caught.value.hint and "another --out" in caught.value.hint
    shutil.rmtree(cell)
    (outcome,) = one(settings, out)
    assert len(outcome.scores) == (10 if change is more else 8)


def test_a_stopped_cell_that_lists_no_photos_is_refused(disc: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    """One that an earlier version began."""
    stop(folder(disc, names), tmp_path / "out", "student", 3)
    (tmp_path / "out" / "unfinished" / "all" / "disc-0" / "photos.sha256").unlink()
    with pytest.raises(DataError, match="does not say with which photos it was run"):
        one(folder(disc, names), tmp_path / "out")


def test_a_cell_that_has_learned_nothing_takes_the_photos_that_are_there(
    disc: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    stop(folder(disc, names), tmp_path / "out", "loading teachers")
    assert (tmp_path / "out" / "unfinished" / "all" / "disc-0" / "photos.sha256").is_file()
    more(disc)
    (outcome,) = one(folder(disc, names), tmp_path / "out")
    assert len(outcome.scores) == 10


def test_a_finished_cell_is_not_kept_for_other_photos_and_nothing_is_run_before_that_is_said(
    disc: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", folder(disc, names)
    first, _ = one(settings, out, seeds=2)
    assert first.digest == open_suite(settings).digest("disc", settings, silent)
    (out / "results" / "all" / "disc-0.json").unlink()
    swapped(disc)
    monkeypatch.setattr(paper_cell, "run", lambda *arguments: pytest.fail("a cell was run"))
    with pytest.raises(DataError, match=r"disc-1\.json was run with other photos of disc"):
        one(settings, out, seeds=2)


def test_a_finished_cell_that_does_not_name_its_photos_is_refused(
    disc: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    one(folder(disc, names), tmp_path / "out")
    path = tmp_path / "out" / "results" / "all" / "disc-0.json"
    held = json.loads(path.read_text())
    del held["digest"]
    path.write_text(json.dumps(held))
    with pytest.raises(DataError, match=r"disc-0\.json does not say with which photos"):
        one(folder(disc, names), tmp_path / "out")


def test_the_same_photos_elsewhere_have_the_same_digest_and_an_unreadable_one_ends_nothing(
    disc: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    (disc / "test" / "good" / "empty.png").touch()
    shutil.copytree(disc, tmp_path / "copy" / "disc")
    found = []
    for root in (disc, tmp_path / "copy"):
        settings = folder(root, names)
        found.append(open_suite(settings).digest("disc", settings, silent))
    assert found[0] == found[1]


def test_what_is_left_of_the_test_photos_is_asked_and_not_what_there_is(
    disc: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one good photo is the second of 44, of which every second is taken, and a bit more."""
    shutil.rmtree(disc / "test")
    for kind, count in (("blotch", 1), ("good", 1), ("scratch", 42)):
        factory.write(disc / "test" / kind, tiny.normal_frames(count, seed=count))
    monkeypatch.setattr(paper_cell, "load_teachers", lambda *arguments: pytest.fail("it was trained"))
    settings = complete("folder", str(disc), {**SMALL, **CROPS, "teachers": names, "test_photos": 20})
    with pytest.raises(DataError, match="gives test photos of blotch, scratch, wanted good and others"):
        one(settings, tmp_path / "out")


def pictures(seed: int) -> tuple[Part, Part]:
    """Airplanes are discs, cats are noise."""
    rng = np.random.default_rng(seed)
    labels = np.array([0] * 30 + [3] * 10 + [0] * 6 + [3] * 6, np.uint8)
    frames = tiny.normal_frames(len(labels), size=32, seed=seed)
    frames[labels == 3] = rng.integers(0, 256, frames[labels == 3].shape)
    return Part(frames[:40], labels[:40]), Part(frames[40:], labels[40:])


def test_cells_of_cifar10_belong_to_its_photos_too(tmp_path: Path) -> None:
    root, out = tmp_path / "cifar", tmp_path / "out"
    given = {"method": "map", "preset": "offline", "size": 64, "epochs": 1, "device": "cpu"}
    write_compact(root, *pictures(0))
    settings = complete("cifar10", str(root), given)
    (first,) = one(settings, out, "airplane")
    shutil.rmtree(root)
    write_compact(root, *pictures(1))
    with pytest.raises(DataError, match="was run with other photos of airplane"):
        one(settings, out, "airplane")
    (out / "results" / "all" / "airplane-0.json").unlink()
    (other,) = one(settings, out, "airplane")
    assert other.digest != first.digest and other.scores != pytest.approx(first.scores)


@pytest.mark.parametrize(("kept", "said"), [([0], "good"), ([3], "cat")])
def test_a_class_of_cifar10_that_cannot_be_tested_is_not_trained(
    kept: list[int], said: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = pictures(0)
    rows = np.isin(test.labels, kept)
    write_compact(tmp_path / "cifar", train, Part(test.pixels[rows], test.labels[rows]))
    monkeypatch.setattr(paper_cell, "load_teachers", lambda *arguments: pytest.fail("it was trained"))
    settings = complete("cifar10", str(tmp_path / "cifar"), {**SMALL, "teachers": names})
    with pytest.raises(DataError, match=f"gives test photos of {said}, wanted good and others"):
        one(settings, tmp_path / "out", "airplane")


@pytest.mark.parametrize("method", ["map", "paper"])
def test_what_is_left_out_is_counted_and_what_cannot_be_tested_is_not_trained(
    method: str, disc: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disc / "test" / "good" / "empty.png").touch()
    shutil.copy(disc / "train" / "good" / "000.png", disc / "test" / "blotch" / "copy.png")
    given = {"method": "map", "preset": "offline", "size": 64, "epochs": 1, "device": "cpu"}
    settings = folder(disc, names) if method == "paper" else complete("folder", str(disc), given)
    (found,) = one(settings, tmp_path / "out")
    assert {side: found.photos[side] for side in ("good", "anomalous", "left_out")} == {
        "good": 4, "anomalous": 4, "left_out": 2,
    }  # fmt: skip
    monkeypatch.setattr(map_cell, "train", lambda *arguments: pytest.fail("it was trained"))
    monkeypatch.setattr(paper_cell, "load_teachers", lambda *arguments: pytest.fail("it was trained"))
    shutil.rmtree(disc / "test" / "good")
    with pytest.raises(DataError, match="gives test photos of blotch, wanted good and others"):
        one(settings, tmp_path / "other")


def test_photos_may_be_named_in_another_way(
    disc: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = one(folder(disc, names), tmp_path / "out")
    monkeypatch.chdir(disc.parent)
    monkeypatch.setattr(paper_cell, "run", lambda *arguments: pytest.fail("it was trained again"))
    (after,) = one(folder(Path(disc.name), names), tmp_path / "out")
    assert after == before
