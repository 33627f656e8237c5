"""Photos from files: a folder, a glob, single files, and the hot folder where photos arrive later.

Every photo is given exactly once, in the order of its path (a followed folder: of its arrival); one that cannot be
read, or is not what a photo in a folder should be (a link out of it, a pipe, a name with control characters), is given
with its problem. Decoding runs ahead of the reader, in processes of its own (`decoding/`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mtkd_edge import files, frames
from mtkd_edge.device.decoding.pool import POOL
from mtkd_edge.device.sources.base import Captured, Loss, Lost, Mark, SourceOptions, untold
from mtkd_edge.errors import DataError, SourceError

AHEAD = 64 << 20
"""Decoded bytes that may wait for the reader, one photo at least."""
WORKERS = min(4, os.cpu_count() or 1)
PATIENCE = 10
"""An empty file is given this many times `settle` to become a photo before it is called one that cannot be read."""

Listing = Callable[[], list[Path]]
Key = tuple[str, int, int]
"""Path, size and modification time: a file written anew under its old name is a new photo."""
Gone = Callable[[Iterable[str]], None]


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
    """The photos of a listing, once; with `follow` also those that join it later, until closed.

    `within`: the folder that no link may leave, None where every photo was named by the user. `replaced` counts the
    decoders that died, by what they died of.
    """

    live = False

    def __init__(
        self, name: str, listing: Listing, options: SourceOptions, follow: bool = False, within: Path | None = None
    ) -> None:
        self.name = name
        self.replaced: Counter[str] = Counter()
        self._listing, self._options, self._follow = listing, options, follow
        self._within = None if within is None else Path(os.path.realpath(within))
        self._closed = threading.Event()
        self._done: set[Key] = set()
        self._given: set[Key] = set()
        self._seq = 0
        self._gone: Gone = _unheard

    def resume(self, marks: Sequence[Mark], seq: int, gone: Gone) -> None:
        """Leave out what is done, as long as it is still the same file; `seq` is what the next photo will be.

        `gone` hears of files of a followed folder that are there no more.
        """
        self._done, self._seq, self._gone = {(m.item, m.size, m.changed) for m in marks}, seq, gone

    def close(self) -> None:
        """Ends `frames` after the photo in hand."""
        self._closed.set()

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        """Every photo, decoded ahead. Raises SourceError when a folder that is not followed cannot be listed."""
        seq = self._seq
        groups = self._arrivals(lost) if self._follow else iter([self._left(self._listing())])
        with ThreadPoolExecutor(WORKERS, "decode") as pool:
            for group in groups:
                for key, (path, photo, problem, took) in self._decoded(pool, group):
                    mark, times = Mark(*_marked(key), 1, seq), (time.time(), time.monotonic())
                    yield Captured(self.name, seq, *times, photo, path, problem, took, mark=mark)
                    seq += 1

    def _left(self, paths: list[Path]) -> list[Path]:
        return [path for path in paths if _marked(_key(path)) not in self._done] if self._done else paths

    def _decoded(self, pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Iterator[tuple[Key, Decoded]]:
        """The photos in order; as many are decoded ahead as fit in AHEAD bytes, judged by the latest one."""
        waiting: deque[tuple[Key, Future[Decoded]]] = deque()
        upcoming = iter(paths)
        window = WORKERS
        while not self._closed.is_set():
            while len(waiting) < window and (path := next(upcoming, None)) is not None:
                key = _key(path)
                if self._follow:
                    self._given.add(_marked(key))
                waiting.append((key, pool.submit(self._decode, path)))
            if not waiting:
                return
            key, future = waiting.popleft()
            decoded = future.result()
            if decoded[1] is not None:
                window = max(1, min(2 * WORKERS, AHEAD // decoded[1].nbytes))
            yield key, decoded
        for _, future in waiting:
            future.cancel()

    def _arrivals(self, lost: Lost) -> Iterator[list[Path]]:
        """Groups of photos that have become complete, oldest first."""
        done = self._done
        since: dict[Key, float] = {}
        pause, away = 0.0, False
        while not self._closed.wait(pause):
            began = time.monotonic()
            try:
                present = {_marked(key): key for key in _snapshot(self._listing())}
            except SourceError as error:
                lost(error.message)
                pause, away = self._options.retry_most, True
                continue
            if away:
                lost("", Loss.OVER)
                away = False
            done, self._given = done | self._given, set()  # what was rewritten while it waited was given as it is now
            since = {key: since.get(key, began) for key in present if key not in done}
            ready = [key for key, first in since.items() if began - first >= self._settle(key)]
            if present:  # an empty folder may be a share that is away: nothing in it is forgotten
                if absent := {key[0] for key in done.difference(present)}.difference(key[0] for key in present):
                    self._gone(absent)
                done = done.intersection(present).union(ready)
            if ready:
                yield [Path(present[key][0]) for key in sorted(ready, key=lambda key: (key[2], key[0]))]
            # a folder that is slow to list (a network share, 10^5 files) is looked at less often
            pause = max(self._options.poll, 4 * (time.monotonic() - began)) if not ready else self._options.poll

    def _decode(self, path: Path) -> Decoded:
        began = time.perf_counter()
        photo, problem, name = None, "", Path(files.shown(str(path)))
        try:
            if name != path:
                raise DataError(f"{name} is refused: a name with control characters, or none that is text")
            photo = POOL.decode(path, self._within, self.replaced)
        except (DataError, SourceError) as error:  # a photo for which no decoder starts is not judged, the next may be
            problem = error.message
        return name, photo, problem, (time.perf_counter() - began) * 1e3

    def _settle(self, key: Key) -> float:
        return self._options.settle * (1 if key[1] else PATIENCE)


def _unheard(items: Iterable[str]) -> None:
    """Nobody remembers them anyway."""


Decoded = tuple[Path, frames.Photo | None, str, float]
"""Path as it may be shown, photo or None, problem, milliseconds."""


def _key(path: Path) -> Key:
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, -1  # it is read next, and says why it cannot be
    return str(path), status.st_size, status.st_mtime_ns


def _marked(key: Key) -> Key:
    """The same by a name that can be written down: a file's name need not be text."""
    return files.shown(key[0]), key[1], key[2]


def _snapshot(paths: list[Path]) -> set[Key]:
    keys = map(_key, paths)
    # what was taken away between the listing and here was never complete
    return {key for key in keys if key[1] >= 0}
