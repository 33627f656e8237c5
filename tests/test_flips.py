"""Flips, counted and expected: the same on average, and the expectation is the better judge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from mtkd_edge.device.flips import Flips, flips, plausible

GOOD, FRAMES, LIMIT = 105, 315, 0.005


def drawn(noise: float, times: int) -> Iterator[Flips]:
    """Good parts well below the threshold, defects around and above it, an engine with relative errors of that size."""
    rng = np.random.default_rng(0)
    for _ in range(times):
        scores = np.exp(np.r_[rng.normal(0.6, 0.35, GOOD), rng.normal(1.9, 0.8, FRAMES - GOOD)])
        both = np.stack([1.03 * scores * np.exp(rng.normal(0, noise, FRAMES)), scores], 1)
        yield flips(both, both, GOOD, 1e-3)


def passing(found: list[Flips]) -> tuple[float, float]:
    """How often such an engine passes: by the count alone, one frame always allowed, and by the gate's rule."""
    most = plausible(FRAMES, LIMIT)
    by_count = np.mean([round(f.counted * FRAMES) <= max(LIMIT * FRAMES, 1) for f in found])
    by_rule = np.mean([f.expected <= LIMIT and f.counted * FRAMES < most + 0.5 for f in found])
    return float(by_count), float(by_rule)


def test_the_expectation_is_that_of_the_count_with_less_spread() -> None:
    found = list(drawn(0.02, 100))
    counted, expected = (np.array([getattr(f, name) for f in found]) for name in ("counted", "expected"))
    assert expected.mean() == pytest.approx(counted.mean(), rel=0.1)
    assert expected.std() < 0.65 * counted.std()


def test_a_good_engine_is_refused_less_often_and_a_bad_one_passes_less_often() -> None:
    """Nobody's limit is widened: what turns over more than the limit has fewer chances than by counting."""
    good, bad = list(drawn(0.006, 100)), list(drawn(0.035, 100))
    assert np.mean([f.counted for f in good]) < LIMIT / 2 and np.mean([f.counted for f in bad]) > 1.5 * LIMIT
    assert passing(good)[1] > passing(good)[0] + 0.05
    assert passing(bad)[1] < passing(bad)[0] - 0.05


def test_no_error_is_no_flip_and_another_scale_is_none_either() -> None:
    scores = np.linspace(1, 9, 100)
    both = np.stack([0.5 * scores, scores], 1)
    assert flips(both, both, 60, 0.05) == Flips(0.0, 0.0)


def test_a_flip_far_from_the_threshold_counts_in_full() -> None:
    scores = np.linspace(1, 9, 100)
    both = np.stack([scores, scores], 1)
    both[99, 0] = 1.0
    assert flips(both, both, 50, 1e-3) == Flips(0.01, 0.01)


@pytest.mark.parametrize("count", [165, 315, 660])
def test_what_is_plausible_is_the_binomial_quantile(count: int) -> None:
    share, most = Fraction(1, 200), plausible(count, LIMIT)
    ways = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(most + 1)]
    assert sum(ways[:-1]) < Fraction(95, 100) <= sum(ways)
    assert (plausible(count, 0.0), plausible(count, 1.0)) == (0, count)
