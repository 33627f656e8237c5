"""From a score to a verdict: the one place where `normal`, `anomalous` and `invalid` are decided.

Invalid is never normal: a score that is not finite, or a frame that could not be read, is `invalid`.
This file knows nothing of engines, sources or how the threshold was found (`threshold.py`).
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec


class State(str, Enum):
    """The three answers a part can get."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"
    INVALID = "invalid"


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A connected part of the map above the map threshold.

    `box` is (left, top, width, height) and `peak_at` is (x, y), in pixels of the source image; `area` is in square
    pixels of the source image; `peak` is the largest map value inside.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of `watch`. Times: `captured` in seconds since the epoch, `latency_ms` by stage in milliseconds.

    `score` is None where the state is `invalid`; `reason` then says why. `path` is the photo's own file, if it has one.
    `regions` are what lies above the map threshold, whatever the state.
    """

    source: str
    seq: int
    captured: float
    state: State
    score: float | None
    threshold: float
    regions: tuple[Region, ...] = ()
    latency_ms: dict[str, float] = {}
    reason: str = ""
    path: str = ""


def decide(score: float | None, threshold: float) -> State:
    """`anomalous` above the threshold, `normal` at or below it, `invalid` where the score is missing or not finite.

    Raises ValueError for a threshold that is not finite: a detector without a threshold has no verdicts to give.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    if score is None or not math.isfinite(score):
        return State.INVALID
    return State.ANOMALOUS if score > threshold else State.NORMAL
