"""The gate and the refit threshold: figures one can check by hand, and verdicts of the gate that follow from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mtkd_edge import threshold
from mtkd_edge.device import gate
from mtkd_edge.device.engine import Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.refit import measure, refit
from mtkd_edge.device.targets import Limits
from mtkd_edge.errors import DataError, GateError

RNG = np.random.default_rng(0)
GOOD = [RNG.integers(60, 120, (64, 64, 3), dtype=np.uint8) for _ in range(12)]


class Worse(FakeEngine):
    """A fake engine with an error in its scores, as a quantised one has."""

    def __init__(self, noise: float = 0.0, gain: float = 1.0, value: float | None = None) -> None:
        super().__init__(name="worse")
        self.noise, self.gain, self.value = noise, gain, value
        self.rng = np.random.default_rng(1)

    def infer(self, frames: np.ndarray) -> Inference:
        found = super().infer(frames)
        error = self.rng.normal(0, 1, 1).astype(np.float32) * np.float32(self.noise)
        scores = found.scores * np.float32(self.gain) + error if self.value is None else np.float32([self.value])
        return Inference(found.maps * np.float32(self.gain) + error, scores)


def figures(engine: FakeEngine) -> dict[str, float]:
    return gate.compare(engine, gate.expect(FakeEngine(), GOOD), 0.05).figures


def test_an_engine_is_as_good_as_itself():
    found = figures(FakeEngine())
    assert found["spearman"] == pytest.approx(1)
    assert (found["auroc_drop"], found["flips"], found["map_error_max"], found["map_error_mean"]) == (0, 0, 0, 0)
    assert found["feature_error_student_fake"] == found["feature_error_reference_fake"] == 0
    assert gate.faults(found, Limits()) == []


def test_at_least_120_frames_have_a_defect_and_every_good_part_equally_many():
    assert figures(FakeEngine())["frames"] == 12 + 120
    assert gate.compare(FakeEngine(), gate.expect(FakeEngine(), GOOD[:7]), 0.05).figures["frames"] == 7 + 7 * 18


def test_defects_are_the_same_in_every_build():
    assert figures(FakeEngine()) == figures(FakeEngine())


def test_another_scale_of_the_score_changes_no_rank_and_no_verdict():
    """The threshold is the engine's own, so a score that is half as large flips nothing."""
    found = figures(Worse(gain=0.5))
    assert found["spearman"] == pytest.approx(1)
    assert (found["auroc_drop"], found["flips"]) == (0, 0)
    assert found["map_error_max"] > 0


def test_noise_is_refused_with_the_figures_and_what_to_do():
    found = figures(Worse(noise=1.0))
    with pytest.raises(GateError, match=r"int8 engine.*rank correlation 0\.\d+, wanted >= 0\.99.*AUROC drop") as caught:
        gate.demand(found, Limits(), "int8")
    assert "--fp32" in caught.value.hint
    assert "largest error of a feature" in caught.value.message


def test_scores_that_are_all_the_same_are_refused():
    found = figures(Worse(value=0.3))
    assert found["spearman"] == 0
    assert len(gate.faults(found, Limits())) >= 2


def test_nan_figures_are_refused():
    """A comparison with NaN is false; the gate must not read that as a pass."""
    bad = dict.fromkeys(("spearman", "auroc_drop", "flips", "flips_expected"), float("nan")) | {"frames": 100.0}
    assert len(gate.faults(bad, Limits())) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_stops_the_build(value):
    with pytest.raises(GateError, match="not finite"):
        figures(Worse(value=value))
    with pytest.raises(GateError, match="not finite"):
        refit(Worse(value=value), GOOD, 0.05)


def test_the_expected_flips_are_limited_and_the_count_must_not_contradict_them():
    base = {"spearman": 1.0, "auroc_drop": 0.0, "frames": 315.0}
    assert gate.faults(base | {"flips": 4 / 315, "flips_expected": 0.005}, Limits()) == []
    assert gate.faults(base | {"flips": 0.0, "flips_expected": 0.0051}, Limits()) == [
        "flipped verdicts 0.51%, wanted <= 0.50%"
    ]
    assert gate.faults(base | {"flips": 5 / 315, "flips_expected": 0.001}, Limits()) == [
        "flips counted 5 of 315, wanted <= 4 of 315"
    ]


def test_an_engine_that_replaces_another_must_tell_defects_as_well():
    found = {"spearman": 1.0, "auroc_drop": 0.0, "flips": 0.0, "flips_expected": 0.0, "frames": 100.0, "auroc": 0.99}
    assert gate.faults(found | {"before_auroc": 0.99}, Limits()) == []
    assert gate.faults(found | {"before_auroc": 0.9901}, Limits()) == [
        "AUROC on pasted defects 0.9900, wanted >= 0.9901 as before"
    ]
    expected = gate.expect(FakeEngine(), GOOD)
    before = gate.compare(FakeEngine(), expected, 0.05).figures
    after = gate.compare(Worse(noise=1.0), dataclasses.replace(expected, before=before), 0.05).figures
    assert after["before_auroc"] == before["auroc"] > after["auroc"]
    assert "AUROC on pasted defects" in " ".join(gate.faults(after, Limits()))


def test_limits_are_inclusive():
    edge = {"spearman": 0.99, "auroc_drop": 0.002, "flips": 0.005, "flips_expected": 0.005, "frames": 1000.0}
    assert gate.faults(edge, Limits()) == []


def test_a_reference_that_is_not_finite_is_refused_before_any_engine_is_built():
    with pytest.raises(GateError, match="worse makes scores that are not finite"):
        gate.expect(Worse(value=float("nan")), GOOD)


def test_the_reference_runs_once_for_any_number_of_engines():
    runs = []

    class Counted(FakeEngine):
        def infer(self, frames: np.ndarray) -> Inference:
            runs.append(len(frames))
            return super().infer(frames)

    expected = gate.expect(Counted(), GOOD)
    assert len(runs) == len(expected.frames) == 132
    first, second = (gate.compare(Worse(noise=0.01), expected, 0.05) for _ in range(2))
    assert first.figures == second.figures
    assert len(runs) == 132
    np.testing.assert_array_equal(first.scores[:, 1], expected.scores)
    assert (first.good, first.scores.shape) == (12, (132, 2))


def test_every_limit_is_ruled_on_and_broken_ones_alone_are_faults():
    found = {"spearman": 0.5, "auroc_drop": 0.0, "flips": 0.0, "flips_expected": 0.0, "frames": 100.0}
    ruled = gate.rulings(found, Limits())
    assert [(r.name, r.kept) for r in ruled] == [
        ("rank correlation", False), ("AUROC drop", True), ("flipped verdicts", True), ("flips counted", True),
    ]  # fmt: skip
    assert gate.faults(found, Limits()) == ["rank correlation 0.5000, wanted >= 0.99"]


def test_without_photos_there_is_no_gate():
    with pytest.raises(DataError, match="held-out"):
        gate.expect(FakeEngine(), [])


def test_auroc_is_the_textbooks():
    frames = [*GOOD, *gate._defective(GOOD, 10, 0)]
    scores = measure(FakeEngine(), frames)[0]
    labels = np.arange(len(frames)) >= len(GOOD)
    assert figures(FakeEngine())["auroc"] == pytest.approx(roc_auc_score(labels, scores))


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_rank_correlation_is_pearsons_of_mean_ranks(values, random):
    other = [v + random.choice([-1, 0, 1]) for v in values]
    a, b = np.array(values, float), np.array(other, float)

    def ranks(x: np.ndarray) -> np.ndarray:
        return np.array([np.mean(np.flatnonzero(np.sort(x) == v)) for v in x])

    found = gate.rank_correlation(a, b)
    if len(set(values)) > 1 and len(set(other)) > 1:
        assert found == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], abs=1e-9)
        assert gate.rank_correlation(a, np.exp(a)) == pytest.approx(1)  # a growing function changes no rank
    else:
        assert found == float(values == other)


def test_the_threshold_is_fitted_to_the_engines_own_scores():
    scores, peaks = measure(Worse(gain=0.5), GOOD)
    found = refit(Worse(gain=0.5), GOOD, 0.1)
    assert found == threshold.fit(scores, peaks, 0.1, "worse")
    assert found.score == pytest.approx(refit(FakeEngine(), GOOD, 0.1).score / 2)


def test_too_few_photos_for_a_threshold_is_the_fits_own_error():
    with pytest.raises(DataError):
        refit(FakeEngine(), GOOD[:3], 0.1)
