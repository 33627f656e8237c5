"""The thread that lets time pass on a station: silence is told, acknowledgements open latches, outputs follow."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

from mtkd_edge.device.decisions.board import Board, Status
from mtkd_edge.device.decisions.line import Alarm
from mtkd_edge.device.events.clock import boot_id
from mtkd_edge.device.events.database import Filter, exists, reading
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.health import Event, Tell, untold
from mtkd_edge.device.task import Task
from mtkd_edge.errors import DataError

P = ParamSpec("P")
BEAT = 0.1
LOOK = 0.5
"""Seconds between looks for acknowledgements that others have written."""
Output = Callable[[Sequence[Status]], None]
"""Hears of all lines at every beat; must not block. One that raises is told of once; time goes on for the others."""


class Pulse:
    """Beats until closed. `alarm` hears of alarms that only time has raised."""

    def __init__(
        self,
        board: Board,
        alarm: Callable[[str, Alarm], None],
        outputs: Sequence[Output],
        events: Path | None,
        seen: str = "",
        tell: Tell = untold,
    ) -> None:
        """`seen`: the id up to which the acknowledgements in `events` are known to the board."""
        self._board, self._alarm, self._outputs, self._events = board, alarm, tuple(outputs), events
        self._tell = tell
        self.failures: Counter[str] = Counter()
        self._seen, self._boot = seen, boot_id()
        self._closing = threading.Event()
        self._task = Task("pulse", self._work)
        # apart: a disk that hangs must not stop time, and with it every answer
        self._looking = Task("acknowledgements", self._look)

    def close(self) -> None:
        """Raises what the thread died of."""
        self._closing.set()
        self._task.join(2.0)
        self._looking.join(0.5)
        self.check()

    def alive(self) -> bool:
        """Whether it still beats, and hears acknowledgements."""
        return self._task.is_alive() and self._looking.is_alive()

    def check(self) -> None:
        """Raises what the thread died of."""
        for task in (self._task, self._looking):
            if task.error is not None:
                raise task.error

    def _look(self) -> None:
        while not self._closing.wait(LOOK):
            self._acknowledged()

    def _work(self) -> None:
        while not self._closing.wait(BEAT):
            for source, alarm in self._board.tick():
                self._guarded("alarms", self._alarm, source, alarm)
            statuses = [self._board.status(source) for source in self._board.sources]
            for output in self._outputs:
                self._guarded(type(output).__name__, output, statuses)

    def _guarded(self, name: str, call: Callable[P, None], *words: P.args, **more: P.kwargs) -> None:
        try:
            call(*words, **more)
        except Exception as error:  # noqa: BLE001 - nothing here may stop time: silence would go unnoticed
            self.failures[name] += 1
            if self.failures[name] == 1:
                self._tell(Event(name, "failing", f"{type(error).__name__}: {error}", time.time()))

    def _acknowledged(self) -> None:
        """A latch opens once no alarm of its line waits any more."""
        if self._events is None or not exists(self._events):
            return
        try:
            with reading(self._events) as database:
                fresh = database.find(Filter(kind=Kind.ACKNOWLEDGED.value, after=self._seen, newest=False))
                waiting = database.open_sources()
        except (OSError, DataError):
            return  # a disk that cannot be read is the recorder's to tell; the next look may succeed
        for event in fresh:
            if event.source in self._board.sources and event.source not in waiting:
                # an alarm that was raised later, in this boot, has not been seen by whoever wrote this
                self._board.acknowledge(event.source, event.monotonic if event.boot == self._boot else None)
            self._seen = event.id


def newest(events: Path | None) -> str:
    """The greatest id in a store, "" where there is none or it cannot be read, of which the recorder tells."""
    if events is None or not exists(events):
        return ""
    try:
        with reading(events) as database:
            return database.last_id()
    except DataError:
        return ""


def latched(events: Path | None) -> frozenset[str]:
    """Sources with an alarm that waits for its acknowledgement: a latch outlives the process. Raises DataError."""
    if events is None or not exists(events):
        return frozenset()
    try:
        with reading(events) as database:
            return database.open_sources()
    except DataError as error:
        what = f"{error.message}: nobody knows which lines are latched"
        raise DataError(what, "move the folder away, or put a copy in its place") from error
