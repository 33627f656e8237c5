"""CIFAR-10 (Krizhevsky 2009) from disk, in any of three layouts; nothing is ever downloaded.

    cifar-10-batches-py/     data_batch_1 .. data_batch_5, test_batch            the "python version", pickles
    cifar-10-batches-bin/    data_batch_1.bin .. data_batch_5.bin, test_batch.bin    rows of one label and 3072 pixels
    train*.npz, test*.npz    jpeg uint8 [bytes], offsets int64 [n + 1], labels uint8 [n]

The npz layout is our own compact one: photo i is the JPEG (or PNG) file jpeg[offsets[i]:offsets[i + 1]]. The root may
be the folder with these files, or the one above it.

Pickles can run any code. These are read by an unpickler that knows numpy's arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import frames, npz
from mtkd_edge.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
PIXELS = 3 * SIDE * SIDE
ARRAYS = {"_reconstruct", "ndarray", "dtype", "encode"}
"""What pickled arrays name, of numpy and of _codecs."""
WRONG = (
    OSError, ValueError, LookupError, EOFError, TypeError, ArithmeticError, AttributeError, ImportError, MemoryError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What a damaged file raises: an unpickler does whatever its bytes say, and fails in as many ways."""
AGAIN = "unpack the archive again"


class Part(NamedTuple):
    """pixels: uint8 [n, 32, 32, 3], RGB. labels: uint8 [n], indices of CLASSES."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load(root: Path) -> tuple[Part, Part]:
    """The training part and the test part. Raises DataError naming what is missing or damaged."""
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin"):
        for train, test, read in LAYOUTS:
            files, tests = sorted(folder.glob(train)), sorted(folder.glob(test))
            if files and tests:
                return _joined(files, read), _joined(tests, read)
    raise DataError(
        f"{root} holds no CIFAR-10: no data_batch_1 with test_batch, the same with .bin, or train*.npz with test*.npz",
        "unpack the python or binary version of CIFAR-10 and name its folder",
    )


def _joined(files: Sequence[Path], read: Callable[[Path], Part]) -> Part:
    parts = [_checked(path, read) for path in files]
    return Part(np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]))


def _checked(path: Path, read: Callable[[Path], Part]) -> Part:
    try:
        part = read(path)
    except WRONG as error:
        raise DataError(f"{path} is not a part of CIFAR-10: {error}", AGAIN) from error
    shapes = part.pixels.shape, part.labels.shape
    if shapes != ((part.labels.size, SIDE, SIDE, 3), (part.labels.size,)) or part.labels.max(initial=0) >= len(CLASSES):
        raise DataError(
            f"{path} holds pixels {shapes[0]} and labels {shapes[1]}, wanted [n, 32, 32, 3] and [n] of ten", AGAIN
        )
    return part


def _binary(path: Path) -> Part:
    rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 1 + PIXELS)
    return Part(_upright(rows[:, 1:]), rows[:, 0])


def _python(path: Path) -> Part:
    held = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    _need(held, b"data", b"labels")
    return Part(_upright(np.asarray(held[b"data"], np.uint8)), np.asarray(held[b"labels"], np.uint8))


class _Arrays(pickle.Unpickler):
    """Rebuilds arrays and refuses everything else by name."""

    def find_class(self, module: str, name: str) -> Any:
        """The constructor that a pickle asks for."""
        if (module.split(".")[0] == "numpy" or module == "_codecs") and name in ARRAYS:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no photo needs")


def _compact(path: Path) -> Part:
    held = npz.read(path)
    _need(held, "jpeg", "offsets", "labels")
    data, offsets, labels = held["jpeg"], held["offsets"], held["labels"]
    photos = [frames.decode(data[a:b].tobytes(), str(path)) for a, b in pairwise(offsets)]
    return Part(np.asarray(photos, np.uint8), labels.astype(np.uint8))


def _need(held: object, *keys: str | bytes) -> None:
    if not isinstance(held, dict):
        raise ValueError(f"it holds one {type(held).__name__}, wanted a table with {_listed(keys)}")
    if missing := [key for key in keys if key not in held]:
        raise ValueError(f"it has no {_listed(missing)}")


def _listed(keys: Sequence[str | bytes]) -> str:
    return ", ".join(key if isinstance(key, str) else key.decode() for key in keys)


def _upright(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n, 3072], channel by channel -> [n, 32, 32, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


LAYOUTS: tuple[tuple[str, str, Callable[[Path], Part]], ...] = (
    ("data_batch_[1-5]", "test_batch", _python),
    ("data_batch_[1-5].bin", "test_batch.bin", _binary),
    ("train*.npz", "test*.npz", _compact),
)
