"""How each source is: starting, running, stalled, blocked, reconnecting, auth-failed, ended; when and how long away.

    starting -> running <-> stalled -> reconnecting | auth-failed -> running ... -> ended
                running <-> blocked

`stalled`: a live source has sent nothing for `silence` seconds, its connection still stands. `blocked`: its frames
come, and for as long none was taken: whoever scores is slow, which is never a reason to restart a camera.
`auth-failed`: it refuses our login. While a source runs, its reason is what is odd about its frames, or nothing. An
outage begins with the last frame before it and ends with the first one after it; being blocked is none. Processes that
crashed or hung and were started anew are counted, of sources and the engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec

from mtkd_edge.device.sources.base import Loss

KEPT = 1000
"""Outages remembered per source; the number and the seconds of all are kept beside them."""
BLOCKED = "its frames are not taken: the engine or a sink is slow"
NOBODY: Mapping[str, float] = {}


class Condition(str, Enum):
    """What a source is doing."""

    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    BLOCKED = "blocked"
    RECONNECTING = "reconnecting"
    AUTH_FAILED = "auth-failed"
    ENDED = "ended"


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a source or a sink, for people and logs. `at` is seconds since the epoch."""

    subject: str
    what: str
    reason: str
    at: float


Tell = Callable[[Event], None]


def untold(event: Event) -> None:
    """The listener that does not listen."""


class Outage(msgspec.Struct, frozen=True):
    """A time without frames: its beginning (seconds since the epoch), length so far, reason, and whether it is over."""

    began: float
    seconds: float
    reason: str
    over: bool


class Record(msgspec.Struct, frozen=True):
    """One source's condition, the reason for it, its outages (the latest KEPT of them), and its lost processes."""

    condition: Condition
    reason: str
    outages: tuple[Outage, ...]
    outage_count: int
    outage_seconds: float
    restarts: int


class _Entry:
    """What is known of one source; `last` is the monotonic time of its latest frame, or of its start."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.condition = Condition.STARTING
        self.reason = ""
        self.last = time.monotonic()
        self.away = ""
        self.blocked = False
        self.remark = ""
        self.restarts = 0
        self.outages: deque[Outage] = deque(maxlen=KEPT)
        self.count, self.seconds = 0, 0.0

    def at_work(self) -> tuple[Condition, str]:
        """Its condition while frames come, and the reason."""
        return (Condition.BLOCKED, BLOCKED) if self.blocked else (Condition.RUNNING, self.remark)


class Health:
    """Keeps the record of every source and tells each change once. `live` maps the source's name to whether it is."""

    def __init__(self, live: Mapping[str, bool], silence: float, tell: Tell = untold) -> None:
        self._lock = threading.Lock()
        self._silence = silence
        self._tell = tell
        self._entries = {name: _Entry(is_live) for name, is_live in live.items()}
        self._engine_restarts = 0

    def frame(self, source: str, remark: str | None = "") -> None:
        """A frame has come. `remark`: what is odd about it; None where it could not be looked at."""
        now = time.monotonic()
        with self._lock:
            entry = self._entries[source]
            self._over(entry, now)
            entry.last = now
            entry.remark = entry.remark if remark is None else remark
            event = self._change(source, entry, *entry.at_work())
        self._send(event)

    def lost(self, source: str, reason: str, loss: Loss = Loss.CONNECTION) -> None:
        """What gives the frames is gone, or could not be had; the source goes on trying."""
        with self._lock:
            entry, now = self._entries[source], time.monotonic()
            entry.restarts += loss is Loss.WORKER
            if not entry.live and not entry.away:
                entry.last = now  # its last photo may be hours old: that was no outage
            if loss is Loss.OVER:
                self._over(entry, now)
                event = self._change(source, entry, Condition.RUNNING, entry.remark)
            else:
                condition = Condition.AUTH_FAILED if loss is Loss.LOGIN else Condition.RECONNECTING
                event = self._leave(source, entry, condition, reason)
        self._send(event)

    def engine_restarted(self, reason: str) -> None:
        """The engine has crashed, hung or failed, and was started anew."""
        with self._lock:
            self._engine_restarts += 1
        self._send(Event("engine", "restarted", reason, time.time()))

    @property
    def engine_restarts(self) -> int:
        """How often."""
        return self._engine_restarts

    def ended(self, source: str, reason: str) -> None:
        """No further frame will come."""
        with self._lock:
            event = self._change(source, self._entries[source], Condition.ENDED, reason)
        self._send(event)

    def check(self, waits: Mapping[str, float] = NOBODY) -> None:
        """Call this several times a second: notices sources that are silent, and those that nobody takes frames from.

        `waits`: for how many seconds a source's frames have been waiting without one being taken.
        """
        for source, entry in self._entries.items():
            with self._lock:
                entry.blocked = waits.get(source, 0.0) > self._silence
                silent = time.monotonic() - entry.last > self._silence
                event = None
                if entry.condition in (Condition.RUNNING, Condition.BLOCKED):
                    if entry.live and silent:
                        event = self._leave(source, entry, Condition.STALLED, f"no frame for {self._silence:g} s")
                    else:
                        event = self._change(source, entry, *entry.at_work())
            self._send(event)

    def record(self, source: str) -> Record:
        """The source's record at this moment; an outage that is not over counts with its length so far."""
        now = time.monotonic()
        with self._lock:
            entry = self._entries[source]
            current = [self._outage(entry, now, over=False)] if entry.away else []
            return Record(
                condition=entry.condition,
                reason=entry.reason,
                outages=(*entry.outages, *current),
                outage_count=entry.count + len(current),
                outage_seconds=entry.seconds + sum(outage.seconds for outage in current),
                restarts=entry.restarts,
            )

    def _over(self, entry: _Entry, now: float) -> None:
        if entry.away:
            outage = self._outage(entry, now, over=True)
            entry.outages.append(outage)
            entry.count, entry.seconds, entry.away = entry.count + 1, entry.seconds + outage.seconds, ""

    def _leave(self, source: str, entry: _Entry, condition: Condition, reason: str) -> Event | None:
        entry.away = reason
        return self._change(source, entry, condition, reason)

    def _change(self, source: str, entry: _Entry, condition: Condition, reason: str) -> Event | None:
        if entry.condition is Condition.ENDED or (entry.condition, entry.reason) == (condition, reason):
            return None
        entry.condition, entry.reason = condition, reason
        return Event(source, condition.value, reason, time.time())

    def _outage(self, entry: _Entry, now: float, over: bool) -> Outage:
        seconds = now - entry.last
        return Outage(began=time.time() - seconds, seconds=seconds, reason=entry.away, over=over)

    def _send(self, event: Event | None) -> None:
        if event is not None:
            self._tell(event)
