"""When things were noticed, and when they were well again: read from what the station said, by the soak's own clock."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from soak_faults import Happened
from soak_station import Life, Sample

if TYPE_CHECKING:
    from soak_judge import Bounds, Check
    from soak_run import Record

__all__ = ["Sample", "of_life", "outages", "waiting", "well"]
TIMED = ("camera_kill", "camera_freeze", "worker_kill", "worker_freeze")
BUSY = 0.4
"""The share of a time in which something waited for a processor, from which on times are not judged."""
ALONE = 6.0
"""Seconds after a worker's fault in which no camera has one: how long the schedule leaves them alone."""
SETTLED = 1.0
"""Seconds after a first verdict from which on every frame is expected to arrive."""


def of_life(life: Life, at: float) -> bool:
    """Whether a moment lies in a life of the station."""
    return life.began <= at <= (life.ended or float("inf"))


def _arrivals(record: Record, source: str) -> list[float]:
    return [said.at for life in record.lives for said in life.said if said.source == source]


def _next(times: Sequence[float], after: float) -> float | None:
    place = bisect_left(times, after)
    return times[place] if place < len(times) else None


def _of(record: Record, *kinds: str) -> Iterator[Happened]:
    return (fault for fault in record.faults if fault.kind in kinds and not fault.skipped)


def outages(record: Record, bounds: Bounds) -> list[Check]:
    """How fast a camera's silence was told and how fast it was back; what the other camera felt; killed workers."""
    from soak_judge import Check

    times = {name: _arrivals(record, name) for name in record.shown}
    noticed, back, others = [], [], []
    sound = functools.partial(_meanwhile, {name: well(record, name) for name in record.shown})
    idle = [fault for fault in record.faults if not busy(record, fault)]
    of = {kind: [fault for fault in idle if fault.kind == kind and not fault.skipped] for kind in TIMED}
    for fault in of["camera_kill"] + of["camera_freeze"]:
        away = sorted(at for life in record.lives for at, words in life.away if words.startswith(f"{fault.target}: "))
        told = _next(away, fault.began)
        if _worth_telling(fault, times[fault.target], bounds.noticed):
            noticed.append(told - fault.began if told is not None and told < fault.healed + 1.5 else float("inf"))
        first = _next(times[fault.target], fault.healed)
        back.append(first - fault.healed if first is not None else float("inf"))
        others += [
            longest(times[name], stretch) for name in times if name != fault.target for stretch in sound(name, fault)
        ]
    gaps = {
        kind: [max(longest(each, (fault.began, fault.began + ALONE)) for each in times.values()) for fault in of[kind]]
        for kind in ("worker_kill", "worker_freeze")
    }
    starts = [life.first - life.began for life in record.lives if life.first]
    return [
        _bounded(Check, "silence of a camera is told", noticed, bounds.noticed),
        _bounded(Check, "first verdict after the camera is back", back, bounds.back),
        _bounded(Check, "longest pause of the other camera meanwhile", others, bounds.others),
        _bounded(Check, "pause after a killed worker", gaps["worker_kill"], bounds.worker),
        _bounded(Check, "pause after a frozen worker", gaps["worker_freeze"], bounds.worker + bounds.noticed),
        _bounded(Check, "first verdicts of all cameras after a start of the program", starts, None),
    ]


def busy(record: Record, fault: Happened) -> bool:
    """Whether too much else was computed while a fault lasted for its times to say anything about the station."""
    stretch = [s for life in record.lives for s in life.samples if fault.began - 4 <= s.at <= fault.healed + 6]
    if len(stretch) < 2:
        return True
    return stretch[-1].stalled - stretch[0].stalled > BUSY * (stretch[-1].at - stretch[0].at)


def waiting(record: Record) -> float:
    """The share of the whole time in which something waited for a processor."""
    samples = [sample for life in record.lives for sample in life.samples]
    if len(samples) < 2:
        return 0.0
    return (samples[-1].stalled - samples[0].stalled) / (samples[-1].at - samples[0].at)


def _worth_telling(fault: Happened, times: Sequence[float], noticed: float) -> bool:
    """Whether it lasted, and the camera gave frames before it."""
    lasted = fault.healed - fault.began > noticed
    return lasted and longest(times, (fault.began - SETTLED, fault.began)) < SETTLED


def longest(times: Sequence[float], stretch: tuple[float, float]) -> float:
    """The longest time without a verdict within an interval."""
    inside = times[bisect_left(times, stretch[0]) : bisect_left(times, stretch[1])]
    return float(np.diff([stretch[0], *inside, stretch[1]]).max())


def _meanwhile(
    well: Mapping[str, list[tuple[float, float]]], camera: str, fault: Happened
) -> Iterator[tuple[float, float]]:
    """When, from a fault's beginning until a second after its cure, nothing was wrong with a camera itself."""
    for begin, end in well[camera]:
        if max(begin, fault.began) < min(end, fault.healed + 1):
            yield max(begin, fault.began), min(end, fault.healed + 1)


def with_a_worker(record: Record, at: float) -> bool:
    """Whether a worker was killed or frozen just then: what it was judging may be invalid, and nothing else."""
    return any(fault.began - 1 <= at <= fault.began + 8 for fault in _of(record, "worker_kill", "worker_freeze"))


def _bounded(check: type[Check], name: str, seconds: list[float], bound: float | None) -> Check:
    if not seconds:
        return check(name, "none to judge", "" if bound is None else f"{bound:g} s", None)
    found = f"{len(seconds)} times: {np.median(seconds):.2f} s p50, {max(seconds):.2f} s at most"
    if bound is None:
        return check(name, found, "", None)
    return check(name, found, f"{bound:g} s", bool(max(seconds) <= bound))


def well(record: Record, camera: str) -> list[tuple[float, float]]:
    """When a camera, and the station, had nothing wrong with them, as intervals."""
    times = _arrivals(record, camera)
    intervals = []
    for life in record.lives:
        first = next((said.at for said in life.said if said.source == camera), None)
        if first is not None:
            asked_to_stop = life.ended - life.stopped_in if life.ended else record.broken_until
            intervals.append((first + SETTLED, min(asked_to_stop - 2.0, record.broken_until)))
    for fault in _of(record, "camera_kill", "camera_freeze", "worker_kill", "worker_freeze"):
        if fault.kind.startswith("worker") or fault.target == camera:
            healed = max(fault.healed, fault.began + (8 if fault.kind.startswith("worker") else 0))
            end = (_next(times, healed) or float("inf")) + SETTLED
            intervals = [piece for each in intervals for piece in _without(each, fault.began - 0.5, end)]
    return intervals


def _without(interval: tuple[float, float], begin: float, end: float) -> list[tuple[float, float]]:
    pieces = [(interval[0], min(interval[1], begin)), (max(interval[0], end), interval[1])]
    return [piece for piece in pieces if piece[0] < piece[1]]
