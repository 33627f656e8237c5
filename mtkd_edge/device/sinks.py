"""Where verdicts go. A sink is anything that can be called with (verdict, photo or None, map or None).

It may also have a `name`, a `close()`, `slow = True` if it should work on a thread of its own (pictures), and
`every_map = False` if the maps of normal frames without regions may be None, which saves copying them. A sink
that raises is counted and told of once for each kind of failure; it never stops the scoring. The lines of `JsonLines`
and `CsvTable` are whole or absent: what a full disk cut off is closed by a line end before the next one.

This file knows nothing of engines and sources.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.health import Event, Tell, untold
from mtkd_edge.errors import UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import Verdict

Map = NDArray[np.float32]
Sink = Callable[[Verdict, Photo | None, Map | None], None]
COLUMNS = ("source", "seq", "captured", "state", "score", "threshold", "regions", "total_ms", "path", "reason")
ROOM = 16
"""Pictures that may wait for a slow sink."""
PATIENCE = 2.0
"""Seconds that a slow sink gets to finish once the watch has ended."""
SKIPPED = "skipped: the sink is slower than the camera"
TAIL = 4 << 20
"""Bytes at the end of a file that may hold verdicts of frames which are judged again after a crash."""
Known = tuple[str, int, str]
"""Source, seq and path of a verdict."""
UNFINISHED = "unfinished when the watch ended"


class SinkReport(msgspec.Struct, frozen=True):
    """How many verdicts a sink took, and how many it lost, by reason."""

    name: str
    delivered: int
    lost: dict[str, int]


class Guard:
    """Calls a sink and never raises: failures are counted by kind, the first of each kind is told."""

    def __init__(self, sink: Sink, tell: Tell = untold) -> None:
        self.name = str(getattr(sink, "name", "") or getattr(sink, "__name__", type(sink).__name__))
        self._sink, self._tell = sink, tell
        self._delivered = 0
        self._lost: Counter[str] = Counter()

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Hand the verdict on."""
        try:
            self._sink(verdict, photo, values)
            self._delivered += 1
        except Exception as error:  # noqa: BLE001 - a sink may be the user's own code, and scoring must go on
            self._count(_kind(error), str(error))

    def close(self) -> None:
        """Close the sink, if it can be closed."""
        try:
            getattr(self._sink, "close", lambda: None)()
        except Exception as error:  # noqa: BLE001 - as above
            self._count(_kind(error), str(error))

    def report(self) -> SinkReport:
        """The counts so far, with those of a sink that counts what it loses behind the caller's back (`lost`)."""
        return SinkReport(self.name, self._delivered, dict(self._lost + Counter(getattr(self._sink, "lost", {}))))

    def _count(self, kind: str, detail: str) -> None:
        self._lost[kind] += 1
        if self._lost[kind] == 1:
            self._tell(Event(self.name, "failing", detail or kind, time.time()))


class Background(Guard):
    """A guard with its own thread. `lossless`: the caller waits for room; else a verdict without room is skipped."""

    def __init__(self, sink: Sink, lossless: bool, tell: Tell = untold) -> None:
        super().__init__(sink, tell)
        self._lossless, self._given, self._abandoned = lossless, 0, False
        self._room: queue.Queue[tuple[Verdict, Photo | None, Map | None] | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._work, name=f"sink {self.name}", daemon=True)
        self._thread.start()

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Leave the verdict for the thread."""
        self._given += 1
        try:
            self._room.put((verdict, photo, values), block=self._lossless)
        except queue.Full:
            self._count(SKIPPED, SKIPPED)

    def close(self) -> None:
        """Let the thread finish what waits, for at most PATIENCE seconds, and close the sink."""
        with contextlib.suppress(queue.Full):
            self._room.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            return super().close()
        self._abandoned = True
        return self._lost.update({UNFINISHED: self._given - self._delivered - self._lost.total()})

    def _work(self) -> None:
        while (item := self._room.get()) is not None and not self._abandoned:
            super().__call__(*item)


def guard(sink: Sink, lossless: bool, tell: Tell = untold) -> Guard:
    """The guard that fits the sink."""
    return Background(sink, lossless, tell) if getattr(sink, "slow", False) else Guard(sink, tell)


class Lines:
    """Lines written whole and at once to a stream, or to the end of a file, which is then closed with this."""

    every_map = False

    def __init__(self, out: BinaryIO | Path, known: set[Known] | None = None) -> None:
        """`known`: verdicts that are not written, since they stand in the file already."""
        self._known = known or set()
        self.name = str(out) if isinstance(out, Path) else str(getattr(out, "name", "stream"))
        self._own = isinstance(out, Path)
        self._out: BinaryIO = _appended(out) if isinstance(out, Path) else out
        self._torn = isinstance(out, Path) and _torn(out)

    def known(self, verdict: Verdict) -> bool:
        """Whether it stands in the file already; it is then asked for once."""
        key = verdict.source, verdict.seq, verdict.path
        known = key in self._known
        self._known.discard(key)
        return known

    def write(self, line: bytes) -> None:
        """`line` without its end. Raises OSError where it could not be written whole."""
        data = (b"\n" if self._torn else b"") + line + b"\n"
        self._torn = True
        if (written := self._out.write(data)) != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written")
        self._out.flush()
        self._torn = False

    def close(self) -> None:
        """Close the file, if it is our own."""
        if self._own:
            self._out.close()


class JsonLines(Lines):
    """One JSON object a line, flushed, with the keys of `verdict.Verdict`."""

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Write the verdict."""
        if self.known(verdict):
            return
        self.write(msgspec.json.encode(verdict))


class CsvTable(Lines):
    """One row a verdict, for spreadsheets: the columns are COLUMNS, `regions` is their number."""

    def __init__(self, path: Path, known: set[Known] | None = None) -> None:
        super().__init__(path, known)
        self._headed = path.stat().st_size > 0
        with contextlib.suppress(OSError):  # a disk that is full at the start is no reason not to watch
            self._head()

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Write the row."""
        if self.known(verdict):
            return
        self._head()
        score = "" if verdict.score is None else f"{verdict.score:.9g}"
        when = datetime.fromtimestamp(verdict.captured, timezone.utc).isoformat(timespec="milliseconds")
        total = f"{verdict.latency_ms.get('total', 0.0):.3f}"
        row = (verdict.source, verdict.seq, when, verdict.state.value, score, f"{verdict.threshold:.9g}")
        cells = map(str, (*row, len(verdict.regions), total, verdict.path, verdict.reason))
        self.write(",".join(map(_cell, cells)).encode())

    def _head(self) -> None:
        if not self._headed:
            self.write(",".join(COLUMNS).encode())
            self._headed = True


class _Line(msgspec.Struct):
    source: str
    seq: int
    path: str = ""


_lines = msgspec.json.Decoder(_Line)


def last_lines(path: Path) -> set[Known]:
    """The verdicts at the end of a file of `JsonLines` or a table of `CsvTable`: of the last TAIL bytes."""
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().splitlines()
    if path.suffix == ".csv":
        place, rows = COLUMNS.index("path"), csv.reader(line.decode(errors="replace") for line in lines)
        return {(row[0], int(row[1]), row[place]) for row in rows if len(row) == len(COLUMNS) and row[1].isdecimal()}
    found: set[Known] = set()
    for line in lines:
        try:
            each = _lines.decode(line)
        except UNREADABLE:
            continue  # cut off, by the beginning of the tail or by the end of the power; or damaged since
        found.add((each.source, each.seq, each.path))
    return found


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _cell(text: str) -> str:
    # a spreadsheet runs what begins with = + - @: a file name is not to be trusted that far
    text = f"'{text}" if text[:1] in ("=", "@") else " ".join(text.splitlines())
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"') else text


def _appended(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another place with --out") from error


def _kind(error: Exception) -> str:
    """Few different words, however many verdicts are lost: what a message says beyond them is told once."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    name = type(cause).__name__
    return f"{name}: {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else name
