"""A verdict as one line for people, and the findings of a report in columns."""

from __future__ import annotations

from mtkd_edge.cli import console
from mtkd_edge.verdict import State, Verdict

COLOURS = {State.NORMAL: console.BLUE, State.ANOMALOUS: console.ORANGE, State.INVALID: console.GREY}


def line(verdict: Verdict) -> str:
    """`anomalous   4.21 > 3.50  bottle/001.png #17  1 region: 31 x 18 at 412,96  9.1 ms`."""
    state = console.colour(verdict.state.value.ljust(9), COLOURS[verdict.state])
    where = f"{verdict.source} #{verdict.seq}"
    if verdict.score is None or verdict.state is State.INVALID:
        return f"{state}  {where}  {verdict.reason}".rstrip()
    sign = ">" if verdict.state is State.ANOMALOUS else "<="
    parts = [state, f"{verdict.score:8.4g} {sign:2} {verdict.threshold:.4g}", where, regions(verdict)]
    if verdict.latency_ms:
        parts.append(f"{verdict.latency_ms.get('total', sum(verdict.latency_ms.values())):.1f} ms")
    return "  ".join(filter(None, parts))


def regions(verdict: Verdict) -> str:
    """How many regions there are, and where the one with the highest peak lies."""
    if not verdict.regions:
        return ""
    x, y, width, height = max(verdict.regions, key=lambda region: region.peak).box
    count = len(verdict.regions)
    return f"{count} region{'s' if count > 1 else ''}: {width} x {height} at {x},{y}"
