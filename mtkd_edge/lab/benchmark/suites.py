"""Where the photos of a benchmark come from: folders in the layout of MVTec AD, or CIFAR-10 with one class as normal.

A `Task` is one category. Good photos to train on fall on two sides: nine tenths train, and one tenth only says what
the terms of the score are on good photos (`tune`). The labels of the test photos are behind a function, which a cell
calls once, after every score is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import dataset, files, frames
from mtkd_edge.dataset import Dataset
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.frames import Frame, FrameSpec, cv2
from mtkd_edge.lab.benchmark import cifar10
from mtkd_edge.lab.benchmark.settings import Settings
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.listing import THREADS, photos_under
from mtkd_edge.progress import Progress

TENTH = 10
GOOD = "good"
Frames = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Task:
    """One category. Frames are uint8 [N, side, side, 3]; `labels()` is True for anomalous test photos, [N].

    `left_out`: test photos that cannot be read or are others' copies.
    """

    name: str
    train: Frames
    tune: Frames
    test: Frames
    labels: Callable[[], NDArray[np.bool_]]
    left_out: int = 0


class Suite(Protocol):
    """A set of categories."""

    def categories(self) -> tuple[str, ...]:
        """Their names, in the order of the tables."""

    def digest(self, name: str, settings: Settings, progress: Progress) -> str:
        """sha256 over all that a cell of the category reads: another one says that photos, labels or masks differ."""

    def task(self, name: str, settings: Settings, progress: Progress) -> Task:
        """The frames of a category. Raises DataError."""

    def folder(self, name: str, settings: Settings, scratch: Path) -> Path:
        """The category as photos in the layout of MVTec AD; `scratch` is there to write them to."""


def open_suite(settings: Settings) -> Suite:
    """The suite of the settings. Raises DataError where nothing of the kind is there."""
    root = Path(settings.root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", f"mtkd-edge benchmark {settings.suite} FOLDER")
    return Cifar10(root) if settings.suite == "cifar10" else Folders(root)


def choose(suite: Suite, asked: Sequence[str]) -> tuple[str, ...]:
    """The categories that were asked for; all where none were. Raises UsageError for one that is not there."""
    there = suite.categories()
    if missing := [name for name in asked if name not in there]:
        raise UsageError(f"no category is called {', '.join(missing)}", f"choose from {', '.join(there)}")
    return tuple(dict.fromkeys(asked)) or there


def spread(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of at most `limit` of `count`, evenly spread: a choice that looks at nothing."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


class Folders:
    """A folder of categories, or one category: train/good, test/<kind>."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def categories(self) -> tuple[str, ...]:
        """Folder names; raises DataError where there is no train/good/ at all."""
        if (self.root / "train" / GOOD).is_dir():
            return (self.root.resolve().name,)
        found = tuple(sorted(p.name for p in self.root.iterdir() if (p / "train" / GOOD).is_dir()))
        if not found:
            raise DataError(
                f"{self.root} holds no category: neither train/{GOOD}/ nor <category>/train/{GOOD}/",
                "name a folder in the layout of MVTec AD",
            )
        return found

    def folder(self, name: str, settings: Settings, scratch: Path) -> Path:
        """Where the photos are already."""
        return self.root if (self.root / "train" / GOOD).is_dir() else self.root / name

    def digest(self, name: str, settings: Settings, progress: Progress) -> str:
        """Over the path and the bytes of every photo and mask; a path tells the kind. Nothing is decoded."""
        root = self.folder(name, settings, Path()).resolve()
        paths = [path for part in (f"train/{GOOD}", "test", "ground_truth") for path in photos_under(root, part)[0]]
        total = hashlib.sha256()
        with ThreadPoolExecutor(THREADS) as pool:
            for n, (path, found) in enumerate(
                zip(paths, pool.map(lambda path: _sha256(root, path), paths), strict=True)
            ):
                total.update(f"{path}\n{found}\n".encode())
                progress("comparing photos", n + 1, len(paths))
        return total.hexdigest()

    def task(self, name: str, settings: Settings, progress: Progress) -> Task:
        """Photos resized to the settings' size; which side a good photo falls on, `dataset.scan` says."""
        listing = dataset.scan(self.folder(name, settings, Path()), progress)
        spec = FrameSpec(settings.size, settings.size, "squash", listing.white)
        good = [*listing.side("train"), *listing.side("held-out")]
        test = [listing.test[n] for n in spread(len(listing.test), settings.test_photos)]
        kinds = [photo.kind for photo in test]
        demand_both(kinds, listing.root)

        def read(paths: Sequence[Path]) -> Frames:
            return load_frames(paths, spec, progress, "reading photos")

        return Task(
            name,
            read([good[n] for n in spread(len(good), settings.train_photos)]),
            read(listing.side("tune")),
            read([Path(listing.root, photo.path) for photo in test]),
            lambda: anomalous(kinds),
            left_out(listing),
        )


def demand_both(kinds: Iterable[str], root: Path | str) -> None:
    """Raises DataError where test photos of these kinds are not both good and defective ones."""
    found = set(kinds)
    if GOOD not in found or found == {GOOD}:
        raise DataError(
            f"{root} gives test photos of {', '.join(sorted(found)) or 'no kind'}, wanted {GOOD} and others",
            f"put photos into test/{GOOD}/ and test/<defect>/, or let --test-photos take more of those that are there",
        )


def anomalous(kinds: Sequence[str]) -> NDArray[np.bool_]:
    """True for all kinds but good, [N]."""
    return np.array([kind != GOOD for kind in kinds], np.bool_)


def left_out(listing: Dataset) -> int:
    """How many test photos the listing names as unusable."""
    return len({problem.path for problem in listing.problems if problem.path.startswith("test/")}
               - {photo.path for photo in listing.test})  # fmt: skip


class Cifar10:
    """One class is normal, all others are anomalous (one-class protocol). Every tenth normal photo is on `tune`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def parts(self) -> tuple[cifar10.Part, cifar10.Part]:
        """The training part and the test part, read once."""
        return cifar10.load(self.root)

    def categories(self) -> tuple[str, ...]:
        """The classes that there are training photos of."""
        return tuple(cifar10.CLASSES[label] for label in np.unique(self.parts[0].labels))

    def chosen(self, name: str, settings: Settings) -> tuple[Frames, Frames, Frames, NDArray[np.int64]]:
        """Pixels to train on, to tune on and to test, [n, 32, 32, 3]; and which test photos they are."""
        train, test = self.parts
        rows = np.flatnonzero(train.labels == cifar10.CLASSES.index(name))
        rows = rows[spread(len(rows), settings.train_photos)]
        tuned = np.arange(len(rows)) % TENTH == TENTH - 1
        shown = spread(len(test.labels), settings.test_photos)
        return train.pixels[rows[~tuned]], train.pixels[rows[tuned]], test.pixels[shown], shown

    def digest(self, name: str, settings: Settings, progress: Progress) -> str:
        """Over the pixels of all three sides and the test labels."""
        *sides, shown = self.chosen(name, settings)
        total = hashlib.sha256()
        for array in (*sides, self.parts[1].labels[shown]):
            total.update(f"{array.shape}\n".encode() + array.tobytes())
        return total.hexdigest()

    def task(self, name: str, settings: Settings, progress: Progress) -> Task:
        """Photos resized, and of them the crop in the middle. Raises DataError without good or others to test."""
        *sides, shown = self.chosen(name, settings)
        kinds = self._kinds(name, shown)
        demand_both(kinds, self.root)
        train, tune, test = (_middle(side, settings, progress) for side in sides)
        return Task(name, train, tune, test, lambda: anomalous(kinds))

    def _kinds(self, name: str, shown: NDArray[np.int64]) -> list[str]:
        """What each of these test photos is: good, or of the kind that is called as its class is."""
        classes = (cifar10.CLASSES[label] for label in self.parts[1].labels[shown])
        return [GOOD if found == name else found for found in classes]

    def folder(self, name: str, settings: Settings, scratch: Path) -> Path:
        """The same photos written as PNG files under `scratch`, once; other classes are the kinds of defect."""
        root = scratch / name
        if root.is_dir():
            return root
        train, tune, test, shown = self.chosen(name, settings)
        half = scratch / f".{name}"
        for n, photo in enumerate(np.concatenate([train, tune])):
            _write(half / "train" / GOOD / f"{n:05}.png", photo)
        for n, (photo, kind) in enumerate(zip(test, self._kinds(name, shown), strict=True)):
            _write(half / "test" / kind / f"{n:05}.png", photo)
        half.rename(root)  # whole or not at all
        return root


def _sha256(root: Path, path: str) -> str:
    try:
        return hashlib.sha256(files.read(root / path, frames.MAX_BYTES, root)).hexdigest()
    except DataError:
        return "unreadable"  # whoever reads the photos leaves it out and says so


def _middle(pixels: Frames, settings: Settings, progress: Progress) -> Frames:
    spec, edge = FrameSpec(settings.size, settings.size), (settings.size - settings.crop) // 2
    inside = slice(edge, edge + settings.crop)
    out = np.empty((len(pixels), settings.crop, settings.crop, 3), np.uint8)
    for n, photo in enumerate(pixels):
        out[n] = frames.to_frame(photo, spec)[inside, inside]
        progress("resizing photos", n + 1, len(pixels))
    return out


def _write(path: Path, photo: Frame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), photo[:, :, ::-1]):
        raise DataError(f"{path} cannot be written", "check the free space and permissions")
