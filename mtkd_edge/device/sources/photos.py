"""Photos from files: a folder, a glob, single files, and the hot folder where photos arrive later.

Every photo is given exactly once, in the order of its path (a followed folder: of its arrival); one that cannot be read
is given with its problem. Decoding runs ahead of the reader in a few threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mtkd_edge import frames
from mtkd_edge.device.sources.base import Captured, Lost, SourceOptions, untold
from mtkd_edge.errors import DataError, SourceError

AHEAD = 64 << 20
"""Decoded bytes that may wait for the reader, one photo at least."""
WORKERS = min(4, os.cpu_count() or 1)
PATIENCE = 10
"""An empty file is given this many times `settle` to become a photo before it is called one that cannot be read."""

Listing = Callable[[], list[Path]]
Key = tuple[str, int, int]
"""Path, size and modification time: a file written anew under its old name is a new photo."""


def walk(root: Path) -> list[Path]:
    """All photos below `root`, sorted. Hidden files, and the masks of an MVTec layout (`ground_truth`), are no photos.

    Raises SourceError for a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}", "check the path and its permissions")

    found: list[Path] = []
    for folder, below, names in os.walk(root, onerror=refuse):
        masks = {"ground_truth"} if "test" in below else set()
        below[:] = [name for name in below if name[0] != "." and name not in masks]
        found += [Path(folder, name) for name in names if is_photo(name)]
    return sorted(found)


def is_photo(name: str) -> bool:
    """Whether a file of this name counts as a photo: by its ending, and not hidden."""
    return name[0] != "." and Path(name).suffix.lower() in frames.SUFFIXES


class Photos:
    """The photos of a listing, once; with `follow` also those that join it later, until closed."""

    live = False

    def __init__(self, name: str, listing: Listing, options: SourceOptions, follow: bool = False) -> None:
        self.name = name
        self._listing = listing
        self._options = options
        self._follow = follow
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends `frames` after the photo in hand."""
        self._closed.set()

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        """Every photo, decoded ahead. Raises SourceError when a folder that is not followed cannot be listed."""
        seq = 0
        groups = self._arrivals(lost) if self._follow else iter([self._listing()])
        with ThreadPoolExecutor(WORKERS, "decode") as pool:
            for group in groups:
                for path, photo, problem, took in self._decoded(pool, group):
                    yield Captured(self.name, seq, time.time(), time.monotonic(), photo, path, problem, took)
                    seq += 1

    def _decoded(self, pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Iterator[Decoded]:
        """The photos in order; as many are decoded ahead as fit in AHEAD bytes, judged by the latest one."""
        waiting: deque[Future[Decoded]] = deque()
        upcoming = iter(paths)
        window = WORKERS
        while not self._closed.is_set():
            while len(waiting) < window and (path := next(upcoming, None)) is not None:
                waiting.append(pool.submit(_decode, path))
            if not waiting:
                return
            decoded = waiting.popleft().result()
            if decoded[1] is not None:
                window = max(1, min(2 * WORKERS, AHEAD // decoded[1].nbytes))
            yield decoded
        for future in waiting:
            future.cancel()

    def _arrivals(self, lost: Lost) -> Iterator[list[Path]]:
        """Groups of photos that have become complete, oldest first."""
        done: set[Key] = set()
        since: dict[Key, float] = {}
        pause = 0.0
        while not self._closed.wait(pause):
            began = time.monotonic()
            try:
                present = _snapshot(self._listing())
            except SourceError as error:
                lost(error.message)
                pause = self._options.retry_most
                continue
            since = {key: since.get(key, began) for key in present if key not in done}
            ready = [key for key, first in since.items() if began - first >= self._settle(key)]
            done = done.intersection(present).union(ready)
            if ready:
                yield [Path(key[0]) for key in sorted(ready, key=lambda key: (key[2], key[0]))]
            # a folder that is slow to list (a network share, 10^5 files) is looked at less often
            pause = max(self._options.poll, 4 * (time.monotonic() - began)) if not ready else self._options.poll

    def _settle(self, key: Key) -> float:
        return self._options.settle * (1 if key[1] else PATIENCE)


Decoded = tuple[Path, frames.Photo | None, str, float]
"""Path, photo or None, problem, milliseconds."""


def _decode(path: Path) -> Decoded:
    began = time.perf_counter()
    try:
        photo, problem = frames.read(path), ""
    except DataError as error:
        photo, problem = None, error.message
    return path, photo, problem, (time.perf_counter() - began) * 1e3


def _snapshot(paths: list[Path]) -> set[Key]:
    keys: set[Key] = set()
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue  # taken away between the listing and here: it was never complete
        keys.add((str(path), status.st_size, status.st_mtime_ns))
    return keys
