"""The threshold of a quantised engine: its own where a guarantee can be had, else the graph's carried over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import threshold
from mtkd_edge.device.refit import carry, refit_beside

RNG = np.random.default_rng(0)
GOOD = 40
SCORES = np.concatenate([RNG.exponential(1.0, GOOD), RNG.uniform(0, 12, 120)])


def pairs(own: np.ndarray) -> np.ndarray:
    """Columns: engine, reference."""
    return np.stack([own, SCORES], 1)


@given(st.floats(0.2, 5), st.floats(-3, 3))
def test_a_score_on_another_scale_carries_the_threshold_exactly(gain: float, offset: float) -> None:
    own = gain * SCORES + offset
    assert carry(5.0, SCORES, own, float("nan")) == pytest.approx(gain * 5 + offset, rel=1e-9, abs=1e-9)


def test_what_happens_far_from_the_threshold_does_not_move_it() -> None:
    own = SCORES.copy()
    own[SCORES < 1] *= 3
    assert carry(8.0, SCORES, own, float("nan")) == pytest.approx(8.0)


@pytest.mark.parametrize("own", [-SCORES, np.zeros_like(SCORES)], ids=["falls", "constant"])
def test_scores_that_do_not_rise_with_the_references_are_not_followed(own: np.ndarray) -> None:
    assert carry(5.0, SCORES, own, 7.5) == 7.5


def test_a_constant_reference_says_nothing() -> None:
    assert carry(5.0, np.ones(50), np.arange(50.0), 7.5) == 7.5


def test_with_enough_photos_the_guarantee_is_the_engines_own() -> None:
    own = SCORES * np.linspace(0.9, 1.1, len(SCORES))
    found = refit_beside(pairs(own), pairs(own), GOOD, 0.05, "engine")
    assert found == threshold.fit(own[:GOOD], own[:GOOD], 0.05, "engine")
    assert found.method == "conformal"


def test_with_few_photos_the_graphs_threshold_is_carried_and_still_called_a_tail_fit() -> None:
    found = refit_beside(pairs(2 * SCORES), pairs(2 * SCORES), GOOD, 1e-3, "engine")
    reference = threshold.fit(SCORES[:GOOD], SCORES[:GOOD], 1e-3)
    assert (found.method, found.engine, found.missing) == ("tail-fit", "engine", reference.missing)
    assert found.score == pytest.approx(2 * reference.score)
    assert found.map == pytest.approx(2 * reference.map)


def test_rounding_moves_a_carried_threshold_less_than_a_second_fit() -> None:
    """The reason for carrying: two tail fits differ by their own noise, far beyond that of the scores."""
    reference = threshold.fit(SCORES[:GOOD], SCORES[:GOOD], 1e-3).score
    carried, fitted = [], []
    for seed in range(40):
        own = SCORES + np.random.default_rng(seed).normal(0, 0.1, len(SCORES))
        carried.append(abs(refit_beside(pairs(own), pairs(own), GOOD, 1e-3, "engine").score - reference))
        fitted.append(abs(threshold.fit(own[:GOOD], own[:GOOD], 1e-3).score - reference))
    assert np.mean(carried) < 0.6 * np.mean(fitted)
