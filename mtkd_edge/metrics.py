"""How well raw scores tell defects from good parts. Everything is by rank or by count: scores need no scaling.

Labels are True (or 1) for defective. A score that is NaN is a ValueError: an invalid frame has no rank, and the caller
must say what became of it. Where one of the two classes is absent a figure does not exist: None, never NaN or 0.5.

Pixel figures take masks and maps as sequences of [H, W] arrays whose sizes may differ from photo to photo. They are
exact, and hold only the scores of the defective pixels and one map at a time, so a lazy sequence needs little memory
(it is read twice). A good photo has a mask without any True. A *defective* photo whose mask is empty or missing (MTD
has four) must be left out of them by the caller: its defect would count as good pixels.

This file knows nothing of thresholds' origin, files or engines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]
Z95 = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


class Rate(msgspec.Struct, frozen=True):
    """`count` of `total`, with the Wilson 95 % interval [`low`, `high`] of the true rate."""

    value: float
    low: float
    high: float
    count: int
    total: int


class BestF1(msgspec.Struct, frozen=True):
    """The largest F1, reached by calling `score > threshold` defective, as `verdict.decide` does."""

    f1: float
    threshold: float


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a defective part scores above a good one, ties counting half.

    Rank based (Mann-Whitney U), so scores of any size and sign will do. None without both classes.
    """
    defective, values = _checked(labels, scores)
    good = np.sort(values[~defective])
    bad = values[defective]
    if not good.size or not bad.size:
        return None
    wins = np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")
    return int(wins.sum()) / (2 * good.size * bad.size)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Mean precision over the defective parts, each at its own score (no interpolation). None without both classes."""
    curve = _precision_recall(labels, scores)
    if curve is None:
        return None
    precision, recall, _ = curve
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def f1_max(labels: ArrayLike, scores: ArrayLike) -> BestF1 | None:
    """The best F1 over all thresholds: an upper bound that looks at the labels, never a way to set a threshold.

    None without both classes.
    """
    curve = _precision_recall(labels, scores)
    if curve is None:
        return None
    precision, recall, cuts = curve
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1.argmax())
    # above the next lower score, so that `score > threshold` takes in the cut itself
    below = cuts[best + 1] if best + 1 < cuts.size else np.nextafter(cuts[best], -np.inf)
    return BestF1(float(f1[best]), float(below))


def per_defect(kinds: Sequence[str], scores: ArrayLike) -> dict[str, float | None]:
    """AUROC of each kind of defect against the "good" photos, by kind in alphabetical order."""
    names = np.asarray(kinds)
    values = np.asarray(scores, np.float64)
    _checked(names != "good", values)
    result = {}
    for kind in sorted(set(kinds) - {"good"}):
        chosen = (names == "good") | (names == kind)
        result[kind] = auroc(names[chosen] == kind, values[chosen])
    return result


def false_alarm_rate(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Rate | None:
    """The part of the good photos that score above the threshold. None without good photos."""
    defective, values = _checked(labels, scores)
    return _rate(values[~defective] > threshold)


def detection_rate(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Rate | None:
    """The part of the defective photos that score above the threshold. None without defective photos."""
    defective, values = _checked(labels, scores)
    return _rate(values[defective] > threshold)


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a rate after `count` of `total` (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"a rate needs 0 <= count <= total and total >= 1, got {count} of {total}")
    rate, spread = count / total, Z95**2 / total
    centre = rate + spread / 2
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4))
    # the ends are exact where rounding would leave 1e-17
    low = 0.0 if count == 0 else (centre - half) / (1 + spread)
    high = 1.0 if count == total else (centre + half) / (1 + spread)
    return low, high


def pixel_figures(
    masks: Sequence[Mask], maps: Sequence[Scores], limit: float = 0.3
) -> tuple[float, float] | tuple[None, None]:
    """AUROC over all pixels of all photos, exact, ties counting half, and AUPRO. None without both classes.

    AUPRO is the area under the per-region-overlap curve up to a false-positive rate of `limit`, divided by `limit`, by
    MVTec's definition (Bergmann et al. 2021, doi:10.1007/s11263-020-01400-4): each 8-connected region of a mask counts
    the same, whatever its size; false positives are counted over the good pixels of all photos; the last piece of the
    curve is interpolated. Raises ValueError for shapes that differ and a limit outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit is a false-positive rate in (0, 1], got {limit}")
    ranks = _rank_pixels(masks, maps)
    if ranks is None:
        return None, None
    a, b = ranks.above, ranks.at_or_above
    pixels = np.diff(ranks.first, append=ranks.weights.size)
    area = 1 - (pixels * (a + b) / 2).sum() / pixels.sum()
    # a pixel that enters at a false-positive rate of a adds its share of overlap to all of [a, limit]; pixels tied with
    # good ones enter along a straight line from a (above) to b (at or above)
    run = np.where(b > a, b - a, 1.0)
    kept = np.where(b > limit, np.maximum(limit - a, 0) ** 2 / (2 * run), limit - (a + b) / 2)
    shares = np.add.reduceat(ranks.weights, ranks.first)
    return float(area), float((shares * kept).sum() / limit)


class _Ranks(NamedTuple):
    """Defective pixels in ascending order of score: the weight of each (weights sum to 1, each region the same).

    For each distinct score: the index of its `first` pixel, and the parts of all good pixels `above` and `at_or_above`.
    """

    weights: NDArray[np.float64]
    first: NDArray[np.int64]
    above: NDArray[np.float64]
    at_or_above: NDArray[np.float64]


def _rank_pixels(masks: Sequence[Mask], maps: Sequence[Scores]) -> _Ranks | None:
    if len(masks) != len(maps):
        raise ValueError(f"as many masks as maps wanted, got {len(masks)} and {len(maps)}")
    parts, shares, regions = [], [], 0
    for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        if mask.shape != values.shape or mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"photo {index}: a bool mask as large as its map wanted, got {mask.shape}, {values.shape}")
        if np.isnan(values).any():
            raise ValueError(f"photo {index}: its map holds NaN")
        if mask.any():
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            inside = labels[mask]
            parts.append(values[mask])
            shares.append(1 / np.bincount(inside)[inside])
            regions += count - 1
    if not parts:
        return None
    bad = np.concatenate(parts)
    order = np.argsort(bad)
    bad, weights = bad[order], np.concatenate(shares)[order] / regions
    distinct, first = np.unique(bad, return_index=True)
    del bad, order, parts, shares
    # good pixels by the gap between distinct scores that they fall into
    below, up_to = np.zeros(distinct.size + 1, np.int64), np.zeros(distinct.size + 1, np.int64)
    for mask, values in zip(masks, maps, strict=True):
        good = np.sort(values[~mask])  # sorted queries are several times faster to look up
        below += np.bincount(np.searchsorted(distinct, good, "left"), minlength=below.size)
        up_to += np.bincount(np.searchsorted(distinct, good, "right"), minlength=below.size)
    total = int(below.sum())
    if total == 0:
        return None
    # left: distinct[i-1] < good <= distinct[i]; right: distinct[i-1] <= good < distinct[i]
    above = 1 - np.cumsum(below)[:-1] / total
    at_or_above = 1 - np.cumsum(up_to)[:-1] / total
    return _Ranks(weights, first, above, at_or_above)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    given, values = np.asarray(labels), np.asarray(scores, np.float64)
    if given.shape != values.shape or values.ndim != 1:
        raise ValueError(f"as many labels as scores wanted, both [n], got {given.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN: an invalid photo has no rank")
    if given.dtype != np.bool_ and not np.isin(given, (0, 1)).all():
        raise ValueError("labels are True or False, or 1 and 0")
    return given.astype(np.bool_), values


def _precision_recall(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Precision and recall of `score >= cut` for each distinct score, from the highest cut down; and the cuts."""
    defective, values = _checked(labels, scores)
    if defective.all() or not defective.any():
        return None
    cuts, index = np.unique(-values, return_inverse=True)
    hits = np.cumsum(np.bincount(index, weights=defective))
    called = np.cumsum(np.bincount(index))
    return hits / called, hits / defective.sum(), -cuts


def _rate(alarms: NDArray[np.bool_]) -> Rate | None:
    if not alarms.size:
        return None
    count, total = int(alarms.sum()), int(alarms.size)
    return Rate(count / total, *wilson(count, total), count, total)
