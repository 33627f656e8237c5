"""What the user sets for one line. The defaults decide by every single frame, as the verdicts themselves do."""

from __future__ import annotations

import math

import msgspec

from mtkd_edge.errors import UsageError

FRESH = 2.0
"""Seconds."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line is bad once `votes` of its last `of` judged frames were anomalous, good again below that number.

    `release`: a frame votes good again at or below this score only; None is the threshold itself. Between the two a
    frame votes as the one before (hysteresis). `latch`: bad stays bad until somebody acknowledges it. `alarm_every`:
    the fewest seconds from one alarm to the next. `fresh`: seconds after the capture of the newest judged frame from
    which the answer is `invalid`; None is FRESH where the source is live or triggered, and for ever elsewhere.
    """

    votes: int = 1
    of: int = 1
    release: float | None = None
    latch: bool = False
    alarm_every: float = 0.0
    fresh: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.votes <= self.of <= 10_000:
            raise ValueError(f"votes and of must fulfil 1 <= votes <= of <= 10000, got {self.votes} of {self.of}")
        if not 0 <= self.alarm_every < math.inf:
            raise ValueError(f"alarm_every is a number of seconds from 0, got {self.alarm_every}")
        if self.fresh is not None and not 0 < self.fresh < math.inf:
            raise ValueError(f"fresh is a number of seconds above 0, got {self.fresh}")
        if self.release is not None and not math.isfinite(self.release):
            raise ValueError(f"release is a finite score, got {self.release}")


def settled(rules: Rules, ages: bool, threshold: float) -> Rules:
    """The rules of one line. `ages`: its answer must not stand for ever; a folder's may, where nothing else is set.

    Raises UsageError for a release above the threshold: a frame could then vote good and bad at once.
    """
    if rules.release is not None and rules.release > threshold:
        raise UsageError(
            f"release is {rules.release:g}, above the threshold {threshold:g}", f"release = {threshold:g} or less"
        )
    return msgspec.structs.replace(rules, fresh=FRESH) if ages and rules.fresh is None else rules
