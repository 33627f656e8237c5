"""Events for the tests of everything that keeps, lists or sends them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import line
import numpy as np

from mtkd_edge.device import health
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.draft import Maker
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.events.recorder import Listener, Recorder, RecorderOptions
from mtkd_edge.verdict import Region, State, Verdict

MAKER = Maker(line.SPEC, line.THRESHOLD, "e" * 64)
DEFAULT = RecorderOptions()
MAP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


class Clocks:
    """A wall and a monotonic clock that the test sets."""

    def __init__(self, wall: float = 1.8e9) -> None:
        self.wall, self.monotonic = wall, 1000.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def clock(self, boot: str = "boot-1") -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic, boot)


def verdict(seq: int = 0, state: State = State.ANOMALOUS, source: str = "camera", **more: Any) -> Verdict:
    score = {State.ANOMALOUS: 0.9, State.NORMAL: 0.1, State.INVALID: None}[state]
    return Verdict(source, seq, 1.8e9 + seq, state, score, 0.5, (Region((1, 2, 3, 4), 12, 0.9, (2, 3)),), **more)


def event(id_: str, **more: Any) -> Event:
    base = {"kind": Kind.VERDICT, "source": "camera", "seq": 0, "wall": 1.8e9, "monotonic": 1.0, "boot": "b"}
    return Event(id=id_, **{**base, "state": "anomalous", **more})


def recorder(
    root: Path,
    options: RecorderOptions = DEFAULT,
    clock: Clock | None = None,
    told: list[health.Event] | None = None,
    listeners: tuple[Listener, ...] = (),
) -> Recorder:
    tell = health.untold if told is None else told.append
    return Recorder(root, MAKER, options, clock or Clock(), tell, listeners)


def fill(root: Path, count: int, **options: Any) -> None:
    """A store with so many anomalous events, each with its pictures."""
    keeper = recorder(root, RecorderOptions(lossless=True, **options))
    for seq in range(count):
        keeper(verdict(seq), line.part(defect=True), MAP)
    keeper.close()


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something holds; fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def settle(keeper: Recorder) -> None:
    """Wait until everything is on the disk."""
    until(lambda: keeper.waiting() == 0)
