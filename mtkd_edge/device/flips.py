"""How many verdicts does a new engine turn over? Counted, and expected.

The count is a coin toss: of 315 frames a handful lie so near the threshold that any rounding turns them over or does
not, and 1 or 2 of them decide about a limit of 0.5 %. The expectation asks of every frame near the threshold how likely
it was to turn over, by the errors that the engine makes on all the frames there:

    own = a + b * reference + e       a line through the frames nearest to the threshold; what is left over is e
    P_i = share of those e that would put frame i on the other side than the reference
    expected = (sum of P_i over the near frames + flips counted among the others) / n

It has the same mean as the count and a fraction of its spread (docs/int8.md), so an engine that is too bad passes less
often by luck, and a good one is refused less often. An engine's threshold and the errors that judge one half of the
frames come from the line of the other half, so no frame judges itself.

Knows scores, not engines or limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import threshold as thresholds
from mtkd_edge.device.refit import line, nearest

CONFIDENCE = 0.95
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Flips:
    """Shares of all frames."""

    counted: float
    expected: float


def flips(scores: Values, peaks: Values, good: int, false_alarms: float) -> Flips:
    """scores, peaks: [n, 2], engine and reference, the first `good` rows good parts -> both shares.

    Raises what `threshold.fit` raises.
    """
    level = thresholds.fit(scores[:good, 1], peaks[:good, 1], false_alarms).score
    own = thresholds.fit(scores[:good, 0], peaks[:good, 0], false_alarms)
    count = len(scores)
    predicted, limits = np.empty(count), np.empty(count)
    for half in (0, 1):
        judged = np.arange(count) % 2 == half
        slope, offset = line(level, scores[~judged, 1], scores[~judged, 0]) or (0.0, own.score)
        predicted[judged] = slope * scores[judged, 1] + offset
        carried = slope * level + offset
        limits[judged] = own.score if own.method == "conformal" else carried
    anomalous = scores[:, 1] > level
    flipped = (scores[:, 0] > limits) != anomalous
    near = np.zeros(count, bool)
    near[nearest(level, scores[:, 1])] = True
    errors = (scores[:, 0] - predicted)[near]
    turned = (predicted[near, None] + errors[None] > limits[near, None]) != anomalous[near, None]
    expected = (turned.mean(1).sum() + flipped[~near].sum()) / count
    return Flips(float(flipped.mean()), float(expected))


def plausible(count: int, share: float) -> int:
    """Most flips among `count` frames that an engine which turns over this share shows, in 95 of 100 cases."""
    if not 0 < share < 1:
        return count if share >= 1 else 0
    below, most = 0.0, -1
    while below < CONFIDENCE and most < count:
        most += 1
        ways = math.lgamma(count + 1) - math.lgamma(most + 1) - math.lgamma(count - most + 1)
        below += math.exp(ways + most * math.log(share) + (count - most) * math.log1p(-share))
    return most
