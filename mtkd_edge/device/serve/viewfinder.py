"""A sink that remembers what was seen last: one frame a source, and a stretch of verdicts. A lock, no copy."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from mtkd_edge.device.sinks import Map
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict

KEPT = 240
"""Verdicts a source for the strip and the chart."""
STAGES_KEPT = 1000
"""Verdicts a source for the latencies."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The newest frame of a source. `number` counts from 1, so that whoever looks knows whether it is another."""

    number: int
    verdict: Verdict
    photo: Photo | None
    values: Map | None
    at: float


@dataclass(slots=True)
class _Stretch:
    seen: Seen | None = None
    judged_at: float | None = None
    verdicts: deque[Verdict] = field(default_factory=lambda: deque(maxlen=KEPT))
    latencies: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=STAGES_KEPT))
    states: Counter[State] = field(default_factory=Counter)


class Viewfinder:
    """Sources are known from their first verdict on. `at` of a frame is monotonic seconds."""

    name = "page"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stretches: dict[str, _Stretch] = {}

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Remember."""
        with self._lock:
            stretch = self._stretches.setdefault(verdict.source, _Stretch())
            number = stretch.seen.number + 1 if stretch.seen else 1
            stretch.seen = Seen(number, verdict, photo, values, time.monotonic())
            if verdict.state is not State.INVALID:
                stretch.judged_at = stretch.seen.at
            stretch.verdicts.append(verdict)
            stretch.latencies.append(verdict.latency_ms)
            stretch.states[verdict.state] += 1

    def seen(self, source: str) -> Seen | None:
        """The newest frame."""
        with self._lock:
            stretch = self._stretches.get(source)
            return stretch.seen if stretch else None

    def judged_at(self, source: str) -> float | None:
        """When the newest frame came that was not invalid, in monotonic seconds; None before the first."""
        with self._lock:
            stretch = self._stretches.get(source)
            return stretch.judged_at if stretch else None

    def verdicts(self, source: str) -> list[Verdict]:
        """The latest KEPT verdicts, the newest last."""
        with self._lock:
            stretch = self._stretches.get(source)
            return list(stretch.verdicts) if stretch else []

    def states(self, source: str) -> dict[State, int]:
        """How many verdicts of each state there have been."""
        with self._lock:
            stretch = self._stretches.get(source)
            return dict(stretch.states) if stretch else {}

    def latencies(self, source: str) -> dict[str, tuple[float, float]]:
        """(median, 99th percentile) in milliseconds by stage, of the latest STAGES_KEPT verdicts."""
        with self._lock:
            stretch = self._stretches.get(source)
            rows = list(stretch.latencies) if stretch else []
        stages: dict[str, list[float]] = {}
        for row in rows:
            for stage, milliseconds in row.items():
                stages.setdefault(stage, []).append(milliseconds)
        return {stage: (_rank(sorted(values), 0.5), _rank(sorted(values), 0.99)) for stage, values in stages.items()}


def _rank(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
