"""What a watch did: every frame accounted for, verdicts, latency by stage, throughput, outages; for people and as JSON.

Latencies are kept as counts in classes 2 % wide, so that weeks of frames need no more memory than one: a percentile is
right to 1 %.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from mtkd_edge.device.health import Condition, Health, Outage
from mtkd_edge.device.ledger import Account
from mtkd_edge.device.sinks import Guard, SinkReport
from mtkd_edge.verdict import State, Verdict

CLASS = math.log(1.02)
SHOWN_OUTAGES = 3


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p90: float
    p99: float


class SourceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One source. captured = scored + invalid + the sum of dropped; scored = normal + anomalous.

    `replaced`: processes that decoded its photos and died, by what they died of.
    """

    source: str
    captured: int
    scored: int
    invalid: int
    dropped: dict[str, int]
    replaced: dict[str, int] = {}
    normal: int
    anomalous: int
    condition: Condition
    reason: str
    outages: tuple[Outage, ...]
    outage_count: int
    outage_seconds: float
    restarts: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole watch. `throughput`: verdicts a second between the first frame and the last verdict.

    `engine_restarts`, and `restarts` of a source, count processes that crashed or hung and were started anew.
    """

    engine: str
    engine_restarts: int
    began: float
    seconds: float
    throughput: float
    sources: tuple[SourceSummary, ...]
    latency_ms: dict[str, Percentiles]
    sinks: tuple[SinkReport, ...]


class Tally:
    """Counts verdicts while they pass. Used from one thread; read when that has ended."""

    def __init__(self) -> None:
        self.began = time.time()
        self.verdicts: Counter[tuple[str, State]] = Counter()
        self._classes: dict[str, Counter[int]] = {}
        self._first = self._last = 0.0

    def add(self, verdict: Verdict, captured: float) -> None:
        """One more verdict; `captured` is the monotonic time of its frame."""
        self._last = time.monotonic()
        self._first = min(self._first, captured) if self.verdicts else captured
        self.verdicts[verdict.source, verdict.state] += 1
        for stage, milliseconds in verdict.latency_ms.items():
            self._classes.setdefault(stage, Counter())[_class(milliseconds)] += 1

    def throughput(self) -> float:
        """Verdicts a second; 0 without any."""
        seconds = self._last - self._first
        return self.verdicts.total() / seconds if seconds > 0 else 0.0

    def latency(self) -> dict[str, Percentiles]:
        """By stage, in the order in which the stages came up; `total` last."""
        stages = sorted(self._classes, key=lambda stage: stage == "total")
        return {stage: percentiles(self._classes[stage]) for stage in stages}


def _class(milliseconds: float) -> int:
    return round(math.log(max(milliseconds, 1e-3)) / CLASS)


def percentiles(classes: Mapping[int, int]) -> Percentiles:
    """Counts by class of duration -> the middle of the classes in which the percentiles lie."""
    total = sum(classes.values())
    found, seen = [], 0
    wanted = [0.5, 0.9, 0.99]
    for number in sorted(classes):
        seen += classes[number]
        while wanted and seen >= wanted[0] * total:
            found.append(round(math.exp(number * CLASS), 4))
            wanted.pop(0)
    return Percentiles(*found)


def summarise(
    engine: str,
    accounts: Mapping[str, Account],
    health: Health,
    tally: Tally,
    guards: Sequence[Guard],
    seconds: float,
    replaced: Mapping[str, Mapping[str, int]],
) -> Summary:
    """Everything that was counted, as one value."""
    sources = []
    for name, account in accounts.items():
        record = health.record(name)
        sources.append(
            SourceSummary(
                source=name,
                captured=account.captured,
                scored=account.scored,
                invalid=account.invalid,
                dropped=account.dropped,
                replaced=dict(replaced.get(name, {})),
                normal=tally.verdicts[name, State.NORMAL],
                anomalous=tally.verdicts[name, State.ANOMALOUS],
                condition=record.condition,
                reason=record.reason,
                outages=record.outages,
                outage_count=record.outage_count,
                outage_seconds=record.outage_seconds,
                restarts=record.restarts,
            )
        )
    return Summary(
        engine=engine,
        engine_restarts=health.engine_restarts,
        began=tally.began,
        seconds=seconds,
        throughput=tally.throughput(),
        sources=tuple(sources),
        latency_ms=tally.latency(),
        sinks=tuple(guard.report() for guard in guards),
    )


def text(summary: Summary) -> str:
    """For people: a few lines for each source, then latency, then whatever was lost on the way out."""
    lines = []
    for source in summary.sources:
        lines.append(f"{source.source}: {_count(source.captured, 'frame')} captured, {source.condition.value}")
        dropped = "".join(f", {count} dropped ({reason})" for reason, count in source.dropped.items())
        lines.append(f"  {source.normal} normal, {source.anomalous} anomalous, {source.invalid} invalid{dropped}")
        if source.condition is Condition.ENDED and source.reason:
            lines.append(f"  ended: {source.reason}")
        lines += [f"  {count} decoders replaced ({why})" for why, count in source.replaced.items()]
        lines += _outages(source)
        lines += [f"  its process was restarted {_count(source.restarts, 'time')}"] if source.restarts else []
    if summary.engine_restarts:
        lines.append(f"the engine was restarted {_count(summary.engine_restarts, 'time')}")
    if summary.latency_ms:
        lines.append(f"{summary.throughput:.1f} frames a second over {summary.seconds:.1f} s with {summary.engine}")
        width = max(map(len, summary.latency_ms))
        lines.append(f"{'milliseconds':{max(width, 12)}}      p50      p90      p99")
        for stage, p in summary.latency_ms.items():
            lines.append(f"{stage:{max(width, 12)}} {p.p50:8.2f} {p.p90:8.2f} {p.p99:8.2f}")
    for sink in summary.sinks:
        lines += [f"{sink.name}: {_count(count, 'verdict')} lost ({why})" for why, count in sink.lost.items()]
    return "\n".join(lines)


def _outages(source: SourceSummary) -> list[str]:
    if not source.outage_count:
        return []
    lines = [f"  {_count(source.outage_count, 'outage')}, {source.outage_seconds:.1f} s together"]
    for outage in source.outages[-SHOWN_OUTAGES:]:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(outage.began))
        lines.append(f"    {began} for {outage.seconds:.1f} s{'' if outage.over else ' so far'}: {outage.reason}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
