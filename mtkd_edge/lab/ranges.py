"""How far a tensor's INT8 scale reaches: to its extremes, to a percentile, or to where least information is lost.

    minmax       everything seen is kept; rare extremes cost the resolution of all the rest
    percentile   99.99 % of the magnitudes are kept
    entropy      the reach whose 128 steps are nearest to the magnitudes' distribution, by Kullback-Leibler divergence
                 (S. Migacz, "8-bit inference with TensorRT", GTC 2017)

None is best for every network, so `calibrate.py` measures what all three cost the map, and keeps the errors.
Knows neither graphs nor frames.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
Range = tuple[float, float]
PERCENTILE = 99.99
BINS, LEVELS = 2048, 128
SUBSAMPLE = 7
"""Every seventh value is enough for a histogram; a prime number, so that no row or channel is left out."""


class Histogram:
    """Magnitudes of a tensor in `BINS` bins from 0 to `top`; `top` doubles where values go beyond it."""

    def __init__(self) -> None:
        self.top = 0.0
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count some of the values, which must be finite."""
        magnitudes = np.abs(values.ravel()[::SUBSAMPLE])
        largest = float(magnitudes.max(initial=0.0))
        if largest > 0 and self.top == 0:
            self.top = largest
        while largest > self.top:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2
        if self.top > 0:
            bins = np.minimum((magnitudes * np.float32(BINS / self.top)).astype(np.int64), BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)

    def reach(self, method: Method) -> float:
        """Magnitude that the scale shall reach to; 0 where nothing but zeros was seen."""
        if not self.counts.any() or self.top == 0:
            return 0.0
        if method == "minmax":
            bins = int(np.flatnonzero(self.counts)[-1]) + 1
        elif method == "percentile":
            # of all values, the exact zeros of a ReLU among them
            kept = np.cumsum(self.counts)
            bins = int(np.searchsorted(kept, PERCENTILE / 100 * kept[-1])) + 1
        else:
            bins = least_divergence(self.counts)
        return self.top * bins / BINS


def least_divergence(counts: NDArray[np.int64]) -> int:
    """How many bins to keep so that their values in `LEVELS` steps are distributed most as before."""
    last = int(np.flatnonzero(counts)[-1]) + 1
    best, found = np.inf, max(last, LEVELS)
    # bin 0 holds the exact zeros of a ReLU, which any scale keeps: its weight would drown the rest
    weights = counts.astype(np.float64)
    weights[0] = weights[1]
    for bins in range(LEVELS, max(last, LEVELS) + 1, 16):
        divergence = _divergence(weights, bins)
        if divergence < best:
            best, found = divergence, bins
    return found


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    """Kullback-Leibler divergence of the clipped distribution from its quantised form."""
    kept = counts[:bins]
    clipped = kept.copy()
    clipped[-1] += counts[bins:].sum()
    levels = np.minimum(np.arange(bins) * LEVELS // bins, LEVELS - 1)
    sums, filled = np.bincount(levels, kept, LEVELS), np.bincount(levels, kept > 0, LEVELS)
    spread = np.where(kept > 0, (sums / np.maximum(filled, 1))[levels], 0.0)
    shown = clipped > 0
    # a bin that holds clipped values alone has no counterpart; a small share keeps the logarithm finite
    p, q = clipped[shown] / clipped.sum(), np.maximum(spread[shown], 1e-3) / max(spread.sum(), 1e-3)
    return float((p * np.log(p / q)).sum())


def clipped(extremes: Range, reach: float) -> Range:
    """The extremes, no further from 0 than `reach`."""
    return max(extremes[0], -reach), min(extremes[1], reach)
