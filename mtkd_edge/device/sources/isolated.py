"""A camera, stream or video in a process of its own, as a source: frames come over shared memory.

The process says within what time it will be heard of again. One that is not heard of then hangs, in a decoder or a
driver; it is killed and started anew, as is one that has crashed. A consumer that is slow is no reason: while a frame
waits to be taken, no time runs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from mtkd_edge.device.sources.address import redact
from mtkd_edge.device.sources.base import Captured, Loss, Lost, Mark, untold
from mtkd_edge.device.sources.messages import (
    End,
    Frame,
    Gone,
    Plan,
    Ready,
    Refused,
    Soon,
    Word,
    encode,
    word,
)
from mtkd_edge.device.workers.child import Child
from mtkd_edge.device.workers.shared import Torn
from mtkd_edge.errors import SourceError

WORKER = "mtkd_edge.device.sources.worker:run"
START = 20.0
"""Seconds that the process gets to load OpenCV, and a video to be opened."""
MARGIN = 0.5
"""Seconds by which the process may be late."""
TICK = 0.1
GRACE = 0.3
"""Seconds that the process gets to take leave of its camera."""
ATTEMPTS = 3
"""Processes that may die on one frame of a video before the rest of it is given up."""


class WorkerGone(Exception):  # noqa: N818 - what happened, not whose error it was
    """The process has crashed, hangs, or cannot be started."""


class Isolated:
    """What `plan` says. A video is opened at once: raises SourceError where that is not possible."""

    def __init__(self, plan: Plan, worker: str = WORKER) -> None:
        self.name = plan.name
        self.live = plan.kind != "video"
        self._child: Child | None = None
        self._opened = self._reading = False
        self._plan, self._worker = plan, worker
        self._closed = threading.Event()
        self._seq = self._skip = 0
        if not self.live:
            self._file = _identity(Path(plan.target))
            self._open_now()

    def close(self) -> None:
        """Ends `frames` within TICK, whatever the process does."""
        self._closed.set()
        if not self._reading:
            self._end(0.0)

    def __del__(self) -> None:
        self.close()  # a video that was opened and is never read leaves no process behind

    def resume(self, marks: Sequence[Mark], seq: int, gone: object = None) -> None:
        """Skip what is done, if the video is still the same file. `seq` is what the next frame will be.

        It goes on also where another video has taken the file's name: no two frames of a source have one number.
        """
        if self.live:
            return
        self._seq = seq
        for mark in marks:
            if (mark.item, mark.size, mark.changed) == self._file:
                self._skip = mark.frames

    @property
    def pid(self) -> int | None:
        """The number of the process, None where there is none just now."""
        return None if self._child is None else self._child.pid

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        """Frames of one process after the other, until closed or, for a video, over. Raises SourceError."""
        deaths = 0
        self._reading = True
        try:
            while not self._closed.is_set():
                before = self._seq
                try:
                    yield from self._read(lost)
                    return
                except WorkerGone as gone:
                    deaths = 1 if self._seq > before else deaths + 1
                    if deaths >= ATTEMPTS and not self.live:
                        yield self._given_up(str(gone))
                        return
                    lost(str(gone), Loss.WORKER)
                self._end(0.0)
                if deaths > 1:
                    self._closed.wait(self._plan.options.pause(deaths - 2))
        finally:
            self._end(GRACE)

    def _read(self, lost: Lost) -> Iterator[Captured]:
        """What one process says, to its end. Raises WorkerGone."""
        child = self._child or self._start()
        for said in self._words(child):
            if isinstance(said, Ready):
                _tell(child, self._skip)
            elif isinstance(said, Frame):
                captured = self._captured(child, said)
                self._skip += 1
                self._seq = captured.seq + 1
                yield captured
            elif isinstance(said, Gone):
                lost(said.reason, said.loss)
            elif isinstance(said, Refused):
                raise SourceError(said.message, said.hint)
            elif isinstance(said, End):
                return

    def _words(self, child: Child) -> Iterator[Word]:
        """Every word, in time. Raises WorkerGone."""
        ahead: deque[Word] = deque([Ready()] if self._opened else [])
        self._opened = False
        within = START
        began = time.monotonic()
        while not self._closed.is_set():
            try:
                said = ahead.popleft() if ahead else self._next(child, TICK)
                if self.live and isinstance(said, Frame):
                    said = self._newest(child, said, ahead)
            except (EOFError, OSError) as error:
                raise WorkerGone(f"its process {redact(child.death())}") from error
            if said is not None:
                within = START if isinstance(said, Ready) and self.live else self._within(said, within)
                yield said
                began = time.monotonic()
            elif time.monotonic() - began > within + MARGIN:
                raise WorkerGone(f"its process hung for {time.monotonic() - began:.1f} s")

    def _next(self, child: Child, timeout: float) -> Word | None:
        data = child.wire.receive(timeout)
        return None if data is None else word(data)

    def _newest(self, child: Child, said: Frame, ahead: deque[Word]) -> Frame:
        """The newest frame of those that have arrived already; the others are missed, and their slots given back."""
        missed = said.missed
        while not ahead and (following := self._next(child, 0.0)) is not None:
            if not isinstance(following, Frame):
                ahead.append(following)
                break
            self._give_back(child, said)
            missed += 1 + following.missed
            said = following
        return msgspec.structs.replace(said, missed=missed)

    def _within(self, said: Word, before: float) -> float:
        if isinstance(said, (Soon, Frame)):
            return said.within
        return self._plan.options.decode_timeout if isinstance(said, Ready) else before

    def _captured(self, child: Child, said: Frame) -> Captured:
        photo, problem = None, said.problem
        if said.slot >= 0:
            try:
                photo = child.shared.read(said.slot, said.stamp, said.shape, said.kind)
            except Torn as torn:
                problem = f"the frame did not arrive whole: {torn}"
            self._give_back(child, said)
        seq = self._seq + said.missed
        times = said.captured, said.monotonic
        if self.live:
            return Captured(self.name, seq, *times, photo, None, problem, said.decode_ms, said.missed)
        mark = Mark(*self._file, self._skip + 1, seq)
        return Captured(self.name, seq, *times, photo, Path(self._plan.target), problem, said.decode_ms, mark=mark)

    def _give_back(self, child: Child, said: Frame) -> None:
        if said.slot >= 0:
            _tell(child, said.slot)

    def _given_up(self, why: str) -> Captured:
        problem = f"{self._plan.target}: {why} at frame {self._skip}, the rest is not read"
        mark = Mark(*self._file, self._skip + 1, self._seq)
        path = Path(self._plan.target)
        return Captured(self.name, self._seq, time.time(), time.monotonic(), None, path, problem, mark=mark)

    def _start(self) -> Child:
        try:
            self._child = Child(self.name, self._worker, encode(self._plan))
        except OSError as error:
            raise WorkerGone(f"no process can be started: {error.strerror}") from error
        return self._child

    def _end(self, grace: float) -> None:
        """End the process; one that hangs in the kernel is waited for: a second would only hang beside it."""
        child, self._child = self._child, None
        ended = child is None or child.close(grace)
        while not ended and child is not None and not self._closed.wait(TICK):
            ended = not child.alive()

    def _open_now(self) -> None:
        """Start, and wait for word that the file is open. Raises SourceError."""
        try:
            said = next(self._words(self._start()), None)
        except WorkerGone as gone:
            self._end(0.0)
            raise SourceError(f"{self._plan.target} cannot be opened: {gone}", "is it a video?") from gone
        if isinstance(said, Refused):
            self._end(GRACE)
            raise SourceError(said.message, said.hint)
        self._opened = True


def _tell(child: Child, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # it has died meanwhile: its next word says so
        child.wire.send(str(number).encode())


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns
