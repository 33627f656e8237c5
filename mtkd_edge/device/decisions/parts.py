"""The parts of all triggered lines: opened from any thread, filled by the scorer, decided exactly once, in order."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mtkd_edge import files
from mtkd_edge.device.decisions import window
from mtkd_edge.device.decisions.window import CROWDED, MOST, Decision, Shot, Trigger, Window, Windows
from mtkd_edge.errors import UsageError
from mtkd_edge.verdict import State

LONGEST = 100
"""Characters of a part's id."""
OVERLAP = "triggers that ended the window before"
OUTSIDE = "frames that belong to no part"
REFUSED = "triggers beyond what may wait"

Decided = Callable[[str, Decision], None]
"""Hears the source and the decision, on the thread of the scorer or of the beats."""


class Parts:
    """`counted` says, by source, how often windows overlapped and frames had no part.

    `name` makes ids where none came.
    """

    def __init__(
        self,
        specs: Mapping[str, Trigger],
        decided: Decided,
        name: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs, self._decided, self._name, self._monotonic = dict(specs), decided, name, monotonic
        self._windows: dict[str, Windows] = dict.fromkeys(specs, ())
        self._taken: Callable[[str], int] = lambda source: 0
        self._judged = dict.fromkeys(specs, 0)
        self._newest = dict.fromkeys(specs, float("-inf"))
        self._ready: list[tuple[str, Decision]] = []
        self._closed = False
        self._lock = threading.Lock()
        # decisions are told outside the other lock, and still in their order
        self._telling = threading.Lock()
        self.counted: dict[str, Counter[str]] = {source: Counter() for source in specs}

    @property
    def sources(self) -> tuple[str, ...]:
        """The lines that are triggered."""
        return tuple(self._specs)

    def attach(self, taken: Callable[[str], int]) -> None:
        """A watch begins: `taken` says how many frames of a source were captured and not dropped since."""
        with self._lock:
            self._taken, self._judged = taken, dict.fromkeys(self._specs, 0)

    def trigger(self, source: str, part: str = "") -> str:
        """A part is there -> its id. Raises UsageError for a line without a trigger, no id, or once it is closed."""
        if source not in self._specs:
            known = ", ".join(self._specs) or "no line"
            raise UsageError(f"line {source!r} has no trigger; those with one: {known}", "[source.trigger]")
        if len(part) > LONGEST or not files.showable(part):
            raise UsageError(f"a part's id is text in one line, at most {LONGEST} characters", '"part": "4711"')
        with self._lock:
            if self._closed:
                raise UsageError(f"line {source!r} decides no more parts: the station ends")
            part, now, spec = part or self._name(), self._monotonic(), self._specs[source]
            if len(self._windows[source]) >= MOST:
                self.counted[source][REFUSED] += 1
                self._ready.append((source, Decision(State.INVALID, CROWDED, Window(part, now, now))))
            else:
                self._windows[source], cut = window.opened(self._windows[source], spec, part, now)
                self.counted[source][OVERLAP] += cut
        return part

    def frame(self, shot: Shot) -> None:
        """A verdict of a triggered line. Its age is what `latency_ms` says it is."""
        source, latency = shot.verdict.source, shot.verdict.latency_ms
        with self._lock:
            since = max(0.0, latency.get("total", 0.0) - latency.get("decode", 0.0)) / 1e3
            captured = self._monotonic() - since
            self._windows[source], belongs = window.seen(self._windows[source], shot, captured)
            self.counted[source][OUTSIDE] += not belongs
            self._judged[source] += 1
            self._newest[source] = max(self._newest[source], captured)
        self()

    def __call__(self, statuses: Sequence[object] = ()) -> None:
        """Time has passed (an output of `station/pulse.py`): tell of what is decided."""
        with self._telling:
            with self._lock:
                now = self._monotonic()
                for source, spec in self._specs.items():
                    if not self._windows[source]:
                        continue
                    owed = self._taken(source) > self._judged[source]
                    newest = self._newest[source]
                    self._windows[source], decided = window.due(self._windows[source], spec, now, newest, owed)
                    self._ready += [(source, decision) for decision in decided]
                ready, self._ready = self._ready, []
            for source, decision in ready:
                self._decided(source, decision)

    def waiting(self, source: str) -> int:
        """Parts that wait for their decision."""
        with self._lock:
            return len(self._windows[source])

    def close(self) -> None:
        """Decide what waits, with what it has: the watch has ended."""
        with self._telling:
            with self._lock:
                self._closed = True
                ready, self._ready = self._ready, []
                for source, spec in self._specs.items():
                    ready += [(source, window.decide(each, spec)) for each in self._windows[source]]
                    self._windows[source] = ()
            for source, decision in ready:
                self._decided(source, decision)
