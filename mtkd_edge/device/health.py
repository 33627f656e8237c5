"""How each source is: starting, running, stalled, reconnecting, ended; and when it was away, for how long.

    starting -> running <-> stalled -> reconnecting -> running ... -> ended

`stalled`: a live source has sent nothing for `silence` seconds, its connection still stands. An outage begins with the
last frame before it and ends with the first one after it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec

KEPT = 1000
"""Outages remembered per source; the number and the seconds of all are kept beside them."""


class Condition(str, Enum):
    """What a source is doing."""

    STARTING = "starting"
    RUNNING = "running"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
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
    """One source's condition, the reason for it, and its outages (the latest KEPT of them)."""

    condition: Condition
    reason: str
    outages: tuple[Outage, ...]
    outage_count: int
    outage_seconds: float


class _Entry:
    """What is known of one source; `last` is the monotonic time of its latest frame, or of its start."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.condition = Condition.STARTING
        self.reason = ""
        self.last = time.monotonic()
        self.away = ""
        self.outages: deque[Outage] = deque(maxlen=KEPT)
        self.count, self.seconds = 0, 0.0


class Health:
    """Keeps the record of every source and tells each change once. `live` maps the source's name to whether it is."""

    def __init__(self, live: Mapping[str, bool], silence: float, tell: Tell = untold) -> None:
        self._lock = threading.Lock()
        self._silence = silence
        self._tell = tell
        self._entries = {name: _Entry(is_live) for name, is_live in live.items()}

    def frame(self, source: str) -> None:
        """A frame has come."""
        now = time.monotonic()
        with self._lock:
            entry = self._entries[source]
            if entry.away:
                outage = self._outage(entry, now, over=True)
                entry.outages.append(outage)
                entry.count, entry.seconds, entry.away = entry.count + 1, entry.seconds + outage.seconds, ""
            entry.last = now
            event = self._change(source, entry, Condition.RUNNING, "")
        self._send(event)

    def lost(self, source: str, reason: str) -> None:
        """The connection is gone, or could not be made; the source goes on trying."""
        with self._lock:
            event = self._leave(source, self._entries[source], Condition.RECONNECTING, reason)
        self._send(event)

    def ended(self, source: str, reason: str) -> None:
        """No further frame will come."""
        with self._lock:
            event = self._change(source, self._entries[source], Condition.ENDED, reason)
        self._send(event)

    def check(self) -> None:
        """Call this several times a second: notices live sources that have fallen silent."""
        for source, entry in self._entries.items():
            with self._lock:
                silent = time.monotonic() - entry.last > self._silence
                event = None
                if entry.live and entry.condition is Condition.RUNNING and silent:
                    event = self._leave(source, entry, Condition.STALLED, f"no frame for {self._silence:g} s")
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
            )

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
