"""The rules of one line as pure functions: memory and verdict in, memory and what is to be told out.

    judged frames -> votes (hysteresis) -> bad (m of n) -> latched until acknowledged -> answer
                                              '-> alarms (rate limited)

Fail-safe: the answer is `good` only while a judged frame is fresh; without one it is `invalid`, never what it was. Bad
outlives silence: a line that was bad and whose camera then died does not turn into "unknown". Times are monotonic
seconds. Nothing here knows of clocks, threads or outputs.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.verdict import State

SILENT = "no fresh verdict"
STALE = 1.0
"""Seconds without a beat of the station after which no output lets an old answer stand."""
START = 10.0
"""Seconds that a source gets for its first frame before somebody is called; the answer is `invalid` all the while."""


class Answer(str, Enum):
    """What the machine is told."""

    GOOD = "good"
    BAD = "bad"
    INVALID = "invalid"


class Memory(msgspec.Struct, frozen=True):
    """What a line remembers.

    `since`: when the line began. `votes`: True for bad, the newest last, at most `of`. `judged`: when the newest judged
    frame was captured, None before the first; `invalid`: why the newest frame could not be judged. `pending`: an alarm
    that the rate limit keeps back. `skipped`: alarms that were never raised since the last one. `silent`: the loss of
    freshness has been noticed.
    """

    since: float = 0.0
    votes: tuple[bool, ...] = ()
    bad: bool = False
    latched: bool = False
    judged: float | None = None
    invalid: str = ""
    alarmed: float | None = None
    pending: str = ""
    skipped: int = 0
    silent: bool = False


class Alarm(msgspec.Struct, frozen=True):
    """To be told now. `skipped`: alarms that were kept back since the one before."""

    answer: Answer
    reason: str
    skipped: int


def step(
    memory: Memory, rules: Rules, state: State, score: float | None, captured: float, now: float, reason: str = ""
) -> tuple[Memory, Alarm | None]:
    """One verdict. An invalid one has no vote, and the answer is not good until a frame has been judged again."""
    if state is State.INVALID or score is None:
        return _raise(msgspec.structs.replace(memory, invalid=reason or "the frame could not be judged"), rules, now)
    last = memory.votes[-1] if memory.votes else False
    held = last and rules.release is not None and score > rules.release
    votes = (*memory.votes, state is State.ANOMALOUS or held)[-rules.of :]
    bad = sum(votes) >= rules.votes
    fresh = captured if memory.judged is None else max(memory.judged, captured)
    changed = msgspec.structs.replace(memory, votes=votes, bad=bad, judged=fresh, invalid="")
    if not silent(changed, rules, now):
        changed = msgspec.structs.replace(changed, silent=False)
    if bad and not memory.bad:
        why = f"{sum(votes)} of the last {len(votes)} frames are anomalous" if rules.of > 1 else "an anomalous frame"
        changed = _want(msgspec.structs.replace(changed, latched=memory.latched or rules.latch), why)
    return _raise(changed, rules, now)


def tick(memory: Memory, rules: Rules, now: float) -> tuple[Memory, Alarm | None]:
    """Time has passed: freshness may be lost, an alarm that was kept back may be due."""
    if silent(memory, rules, now) and not memory.silent:
        memory = _want(msgspec.structs.replace(memory, silent=True), f"{SILENT} for {rules.fresh:g} s")
    return _raise(memory, rules, now)


def acknowledge(memory: Memory) -> Memory:
    """Somebody has seen it: the latch opens; the line is good once its votes are."""
    return msgspec.structs.replace(memory, latched=False)


def answer(memory: Memory, rules: Rules, now: float) -> Answer:
    """What the machine is told now."""
    if memory.bad or memory.latched:
        return Answer.BAD
    return Answer.GOOD if valid(memory, rules, now) else Answer.INVALID


def valid(memory: Memory, rules: Rules, now: float) -> bool:
    """Whether the newest frame was judged and is fresh: the valid bit, also beside `bad`."""
    return memory.judged is not None and not memory.invalid and not silent(memory, rules, now)


def silent(memory: Memory, rules: Rules, now: float) -> bool:
    """Whether the newest judged frame is too old, or the first one does not come."""
    if rules.fresh is None:
        return False
    if memory.judged is None:
        return now - memory.since > max(START, rules.fresh)
    return now - memory.judged > rules.fresh


def _want(memory: Memory, reason: str) -> Memory:
    """An alarm is due; one that was still kept back is never raised, and counted."""
    skipped = memory.skipped + bool(memory.pending)
    return msgspec.structs.replace(memory, pending=reason, skipped=skipped)


def _raise(memory: Memory, rules: Rules, now: float) -> tuple[Memory, Alarm | None]:
    if not memory.pending:
        return memory, None
    if memory.alarmed is not None and now - memory.alarmed < rules.alarm_every:
        if memory.bad or memory.latched or memory.silent:
            return memory, None
        # what it was about is over: nobody is called for it any more
        return msgspec.structs.replace(memory, pending="", skipped=memory.skipped + 1), None
    bad = memory.bad or memory.latched
    alarm = Alarm(Answer.BAD if bad else Answer.INVALID, memory.pending, memory.skipped)
    return msgspec.structs.replace(memory, pending="", skipped=0, alarmed=now), alarm
