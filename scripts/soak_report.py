"""The report of a soak: Markdown that can go into a document as it stands, and the same as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from soak_judge import Check, restarts
from soak_run import Record
from soak_times import BUSY, TIMED, busy, waiting

SIGNS = {True: "ok", False: "**broken**", None: "not judged"}


def markdown(record: Record, checks: Sequence[Check]) -> str:
    """What was done to the station, what it kept, how fast it was, on what machine."""
    lines = [heading(record), "", "| promise | found | bound | |", "|---|---|---|---|"]
    lines += [f"| {check.name} | {check.found} | {check.bound} | {SIGNS[check.ok]} |" for check in checks]
    lines += ["", "| fault | times | not made because |", "|---|--:|---|"]
    lines += [f"| {kind} | {count} | {why} |" for kind, count, why in faults(record)]
    lines += ["", "| source | verdicts | p50 ms | p99 ms |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {count} | {p50:.1f} | {p99:.1f} |" for name, count, p50, p99 in latencies(record)]
    lines += ["", "Latency is from reading a frame to its verdict, faults included. " + resident(record), ""]
    lines += ["Machine: " + "; ".join(f"{key}: {value}" for key, value in record.machine.items()) + load(record)]
    return "\n".join(lines) + "\n"


def heading(record: Record) -> str:
    """One sentence."""
    verdicts = sum(len(life.said) for life in record.lives)
    made = sum(not fault.skipped for fault in record.faults)
    ends = restarts(record)
    return (
        f"{record.seconds / 60:g} minutes, seed {record.seed}, {time.strftime('%Y-%m-%d')}: {made} faults, "
        f"{verdicts} verdicts, {len(record.events)} events; the station was killed {ends['station_kill']} times and "
        f"stopped {ends['station_stop']} times in between."
    )


def faults(record: Record) -> list[tuple[str, int, str]]:
    """(kind, how often, why not) of every fault."""
    kinds = sorted({fault.kind for fault in record.faults})
    found = []
    for kind in kinds:
        these = [fault for fault in record.faults if fault.kind == kind]
        why = ", ".join(sorted({fault.skipped for fault in these if fault.skipped}))
        found.append((kind, sum(not fault.skipped for fault in these), why))
    return found


def latencies(record: Record) -> list[tuple[str, int, float, float]]:
    """(source, verdicts, p50, p99 in ms) of every source."""
    totals: dict[str, list[float]] = {}
    for life in record.lives:
        for said in life.said:
            totals.setdefault(said.source, []).append(said.total_ms)
    return [
        (name, len(values), float(np.percentile(values, 50)), float(np.percentile(values, 99)))
        for name, values in sorted(totals.items())
    ]


def resident(record: Record) -> str:
    """Resident memory over the longest life, in tenths of it."""
    life = max(record.lives, key=lambda life: len(life.samples))
    if len(life.samples) < 10:
        return ""
    minutes = (life.samples[-1].at - life.began) / 60
    together, alone = ([getattr(sample, name) / 1e6 for sample in life.samples] for name in ("rss", "own"))
    rows = [", ".join(f"{np.median(part):.0f}" for part in np.array_split(row, 10)) for row in (together, alone)]
    return (
        f"Resident memory in the tenths of the longest life ({minutes:.0f} minutes), MB: {rows[0]}; "
        f"the first process alone, which no fault replaces: {rows[1]}."
    )


def load(record: Record) -> str:
    """How busy the machine was, and how many times of faults were not judged because of it."""
    if not record.load:
        return "."
    waited = waiting(record)
    left_out = sum(busy(record, fault) for fault in record.faults if fault.kind in TIMED and not fault.skipped)
    return (
        f"; load average {np.median(record.load):.1f} (median); something waited for a processor in {waited:.0%} of "
        f"the time; of {left_out} faults the times are not judged: that was over {BUSY:.0%} while they lasted."
    )


def report(record: Record, checks: Sequence[Check]) -> dict[str, Any]:
    """For programs: the checks, and the figures they come from; not every verdict."""
    return {
        "seconds": record.seconds,
        "seed": record.seed,
        "machine": record.machine,
        "ok": all(check.ok is not False for check in checks),
        "checks": msgspec.to_builtins(checks),
        "faults": msgspec.to_builtins(record.faults),
        "latency_ms": {name: {"p50": p50, "p99": p99} for name, _, p50, p99 in latencies(record)},
        "lives": [
            {
                "began": life.began,
                "ended": life.ended,
                "killed": life.killed,
                "totals": msgspec.to_builtins(life.totals),
            }
            for life in record.lives
        ],
        "samples": [msgspec.to_builtins(sample) for life in record.lives for sample in life.samples],
    }
