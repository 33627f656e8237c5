"""Figures that readers compare with published ones: equal to scikit-learn's, and to MVTec's definition step by step."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from mtkd_edge import metrics

Case = tuple[np.ndarray, np.ndarray]
ANYTHING = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)


def pixel_auroc(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> float | None:
    return metrics.pixel_figures(masks, maps)[0]


def aupro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float = 0.3) -> float | None:
    return metrics.pixel_figures(masks, maps, limit)[1]


@st.composite
def ranked(draw: st.DrawFn, scores: st.SearchStrategy[float] = ANYTHING) -> Case:
    """Labels of both classes and scores, often tied."""
    n = draw(st.integers(2, 60))
    labels = draw(hnp.arrays(np.bool_, n).filter(lambda a: a.any() and not a.all()))
    pool = draw(st.lists(scores, min_size=1, max_size=n))
    return labels, np.array(draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)))


@given(ranked(st.floats(-1e300, 1e300, allow_subnormal=False)))
def test_auroc_and_average_precision_equal_scikit_learns(case: Case) -> None:
    labels, scores = case
    # scikit-learn merges thresholds that differ by less than its tolerance, so it is given ranks
    ranks = np.unique(scores, return_inverse=True)[1]
    assert metrics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, ranks), abs=1e-12)
    assert metrics.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, ranks), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1, 1e9, 1e300])
def test_auroc_needs_no_scaling(scale: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(500) < 0.3
    scores = rng.normal(size=500) + labels
    assert metrics.auroc(labels, scores * scale) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.auroc(labels, np.exp(scores)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_of_scores_far_from_zero_is_not_lost_in_rounding() -> None:
    labels = np.array([0, 0, 1, 1])
    assert metrics.auroc(labels, 1e15 + np.arange(4)) == 1.0
    assert metrics.auroc(labels, 1e15 - np.arange(4)) == 0.0
    assert metrics.auroc(labels, np.ones(4)) == 0.5
    assert metrics.auroc(labels, [0, 1, np.inf, 5]) == 1.0, "infinity has a rank"


@given(ranked())
def test_turning_the_scores_round_turns_the_auroc_round(case: Case) -> None:
    labels, scores = case
    assert metrics.auroc(labels, -scores) == pytest.approx(1 - (metrics.auroc(labels, scores) or 0), abs=1e-12)


@given(ranked(st.integers(-100, 100).map(float)))
def test_f1_max_is_scikit_learns_best_and_its_threshold_reaches_it(case: Case) -> None:
    labels, scores = case
    best = metrics.f1_max(labels, scores)
    assert best is not None
    precision, recall, _ = precision_recall_curve(labels, scores)
    wanted = max(2 * p * r / (p + r) if p + r else 0 for p, r in zip(precision, recall, strict=True))
    assert best.f1 == pytest.approx(wanted, abs=1e-12)
    assert f1_score(labels, scores > best.threshold) == pytest.approx(best.f1, abs=1e-12)


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.nan, math.nan]])
def test_nan_is_refused_everywhere(bad: list[float]) -> None:
    for figure in (metrics.auroc, metrics.average_precision, metrics.f1_max):
        with pytest.raises(ValueError, match="NaN"):
            figure([0, 1], bad)
    for rate in (metrics.false_alarm_rate, metrics.detection_rate):
        with pytest.raises(ValueError, match="NaN"):
            rate([0, 1], bad, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        metrics.per_defect(["good", "crack"], bad)
    heat = np.array([bad, [0.0, 1.0]])
    for pixels in (pixel_auroc, aupro):
        with pytest.raises(ValueError, match="photo 0: its map holds NaN"):
            pixels([np.eye(2, dtype=bool)], [heat])


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_with_one_class_alone_there_is_no_figure(labels: list[int]) -> None:
    scores = np.arange(len(labels), dtype=float)
    assert metrics.auroc(labels, scores) is None
    assert metrics.average_precision(labels, scores) is None
    assert metrics.f1_max(labels, scores) is None
    assert (metrics.false_alarm_rate(labels, scores, 0.5) is None) == (0 not in labels)
    assert (metrics.detection_rate(labels, scores, 0.5) is None) == (1 not in labels)
    for value in (False, True):
        mask = np.full((3, 3), value)
        assert metrics.pixel_figures([mask], [np.zeros((3, 3))]) == (None, None)
    assert metrics.pixel_figures([], []) == (None, None)


def test_labels_and_scores_must_fit() -> None:
    with pytest.raises(ValueError, match="as many labels as scores"):
        metrics.auroc([0, 1], [1.0])
    with pytest.raises(ValueError, match="labels are True or False"):
        metrics.auroc([0, 2], [1.0, 2.0])
    with pytest.raises(ValueError, match="as many masks as maps"):
        aupro([], [np.zeros((2, 2))])
    with pytest.raises(ValueError, match="photo 0: a bool mask as large as its map"):
        aupro([np.zeros((2, 3), bool)], [np.zeros((2, 2))])
    with pytest.raises(ValueError, match="limit"):
        aupro([np.zeros((2, 2), bool)], [np.zeros((2, 2))], 0)


def test_each_defect_is_compared_with_the_good_photos_alone() -> None:
    kinds = ["good", "good", "dent", "dent", "crack"]
    assert metrics.per_defect(kinds, [1, 2, 3, 4, 0]) == {"crack": 0.0, "dent": 1.0}
    assert metrics.per_defect(["dent"], [1.0]) == {"dent": None}


def test_rates_count_scores_above_the_threshold_as_the_verdict_does() -> None:
    labels, scores = [0, 0, 0, 0, 1, 1], [1, 2, 3, 4, 3, 5]
    alarms = metrics.false_alarm_rate(labels, scores, 3)
    found = metrics.detection_rate(labels, scores, 3)
    assert alarms is not None
    assert found is not None
    assert (alarms.value, alarms.count, alarms.total) == (0.25, 1, 4)
    assert (found.value, found.count, found.total) == (0.5, 1, 2)
    assert alarms.low < 0.25 < alarms.high


def test_wilson_intervals_are_the_published_ones() -> None:
    """Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I, method 3."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, total), interval in published.items():
        assert metrics.wilson(count, total) == pytest.approx(interval, abs=5e-5)
    for count, total in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="a rate needs"):
            metrics.wilson(count, total)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_a_wilson_interval_holds_the_rate_and_stays_in_0_1(case: tuple[int, int]) -> None:
    count, total = case
    low, high = metrics.wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert metrics.wilson(total - count, total) == pytest.approx((1 - high, 1 - low))


def stepwise(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float) -> float:
    """MVTec's definition as a slow sweep over every threshold: overlap of each region against the false positives."""
    regions = []
    for mask, heat in zip(masks, maps, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [heat[labels == index] for index in range(1, count)]
    good = np.concatenate([heat[~mask] for mask, heat in zip(masks, maps, strict=True)])
    cuts = np.unique(np.concatenate([heat.ravel() for heat in maps]))[::-1]
    x = np.array([0.0, *((good >= cut).mean() for cut in cuts)])
    y = np.array([0.0, *(np.mean([(region >= cut).mean() for region in regions]) for cut in cuts)])
    fine = np.append(x[x < limit], limit)
    beyond = int((x < limit).sum())
    run = x[beyond] - x[beyond - 1]
    last = y[beyond - 1] + (y[beyond] - y[beyond - 1]) * (limit - x[beyond - 1]) / run
    return float(np.trapezoid(np.append(y[:beyond], last), fine)) / limit


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Photos of different sizes, some good, with regions that touch by corners, and maps with many or few ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    digits = draw(st.sampled_from([0, 1, 9]))
    masks, maps = [], []
    for index in range(draw(st.integers(1, 4))):
        shape = tuple(rng.integers(4, 14, 2))
        mask = rng.random(shape) < (0.25 if index != 1 else 0)
        mask[0, :2] = index == 0, False
        masks.append(mask)
        maps.append(
            (rng.normal(size=shape) + mask).round(digits).astype(draw(st.sampled_from([np.float32, np.float64])))
        )
    return masks, maps


@given(pictures())
def test_pixel_auroc_equals_scikit_learns_over_all_pixels(case: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    masks, maps = case
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([heat.astype(np.float64).ravel() for heat in maps])
    assert pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(pictures(), st.sampled_from([0.01, 0.05, 0.3, 1.0]))
def test_aupro_equals_the_slow_sweep(case: tuple[list[np.ndarray], list[np.ndarray]], limit: float) -> None:
    masks, maps = case
    assert aupro(masks, maps, limit) == pytest.approx(stepwise(masks, maps, limit), abs=1e-10)


def test_small_regions_count_as_much_as_large_ones() -> None:
    """One region of 100 pixels is found, one of 1 pixel is not: pixel AUROC is content, AUPRO is not."""
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = True
    mask[30, 30] = True
    heat = np.where(mask, 2.0, 1.0) + np.linspace(0, 0.1, 1600).reshape(40, 40)
    assert aupro([mask], [heat]) == pytest.approx(1)
    heat[30, 30] = 0
    assert aupro([mask], [heat]) == pytest.approx(0.5)
    assert (pixel_auroc([mask], [heat]) or 0) > 0.98


def test_maps_of_chance_reach_half_the_limit() -> None:
    """Without skill the curve is the diagonal: AUPRO = limit / 2."""
    rng = np.random.default_rng(0)
    masks = [np.kron(rng.random((8, 8)) < 0.1, np.ones((16, 16))).astype(bool) for _ in range(12)]
    maps = [rng.normal(size=(128, 128)) for _ in masks]
    assert aupro(masks, maps) == pytest.approx(0.15, abs=0.01)


class Lazy(Sequence[np.ndarray]):
    """Photos made when they are asked for."""

    def __init__(self, count: int, mask: bool) -> None:
        self.count, self.mask = count, mask

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        mask = np.zeros((256, 256), bool)
        mask[index % 200 : index % 200 + 20, 40:60] = index % 2 == 0
        return mask if self.mask else np.random.default_rng(index).normal(size=(256, 256)).astype(np.float32) + mask

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(self.count))


def test_memory_is_that_of_the_defects_and_one_map() -> None:
    """60 photos are 15.7 MB of scores; their defects are 0.05 MB."""
    tracemalloc.start()
    area, overlap = metrics.pixel_figures(Lazy(60, True), Lazy(60, False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert area == pytest.approx(0.76, abs=0.01)  # Phi(1 / sqrt 2)
    assert 0.3 < (overlap or 0) < 0.5
    assert peak < 6e6
