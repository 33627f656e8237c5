"""Is a new engine as good as the FP32 graph it came from? Figures first, then a yes or a no.

Both engines see held-out photos of good parts and copies of them with synthetic defects; no real defect is needed.

    spearman        rank correlation of the two engines' scores over all these frames
    auroc_drop      how much worse the engine tells defects from good parts (AUROC of the graph minus its own)
    flips           share of frames with another verdict, each engine with its own threshold (`refit.py`); an engine's
                    threshold for one half of the frames comes from the other half, so no frame judges itself
    map_error_mean, map_error_max    of the maps, in units of the standard deviation of the graph's scores
    feature_error_<name>             relative L2 error of each output of the feature graph, mean over a few frames

Naive INT8 costs scores that are differences of features several points, and one class in five collapses; a build
that does not look cannot know. This file knows neither files nor targets beyond their limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import threshold as thresholds
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.refit import carry, refit_beside
from mtkd_edge.device.targets import Limits
from mtkd_edge.errors import DataError, GateError
from mtkd_edge.frames import Frame
from mtkd_edge.metrics import auroc
from mtkd_edge.progress import Progress, silent
from mtkd_edge.synthetic import paste_defect
from mtkd_edge.threshold import Threshold

DEFECTS = 120
"""At least so many defective frames: with fewer, one frame more or less decides about the limits."""
SHOWN = 4
"""Frames for the errors of the features."""
Values = NDArray[np.float64]


@dataclass
class Seen:
    """What the two engines made of the frames so far; [engine, reference] in each pair."""

    scores: list[tuple[float, float]] = field(default_factory=list)
    peaks: list[tuple[float, float]] = field(default_factory=list)
    mean_errors: list[float] = field(default_factory=list)
    max_errors: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """The figures by name, and the threshold the engine shall judge with."""

    figures: dict[str, float]
    threshold: Threshold


def compare(
    engine: Engine,
    reference: Engine,
    held_out: Sequence[Frame],
    false_alarms: float,
    seed: int = 0,
    progress: Progress = silent,
) -> Comparison:
    """The figures of the module's docstring, and the threshold of the engine.

    `held_out`: frames of good parts that training never saw.

    Raises DataError without frames, GateError where a score is not finite, and what engines and `threshold.fit` raise.
    """
    if not held_out:
        raise DataError("the gate needs held-out photos of good parts, got none", "train with more photos")
    copies = -(-DEFECTS // len(held_out))
    total = len(held_out) * (1 + copies)
    seen = Seen()
    for frame in (*held_out, *_defective(held_out, copies, seed)):
        ours, theirs = engine.infer(frame[None]), reference.infer(frame[None])
        errors = np.abs(ours.maps - theirs.maps)
        seen.scores.append((float(ours.scores[0]), float(theirs.scores[0])))
        seen.peaks.append((float(ours.maps.max()), float(theirs.maps.max())))
        seen.mean_errors.append(float(errors.mean()))
        seen.max_errors.append(float(errors.max()))
        progress("gate", len(seen.scores), total)
    scores, peaks = np.array(seen.scores), np.array(seen.peaks)
    if not (np.isfinite(scores).all() and np.isfinite(peaks).all()):
        raise GateError("an engine makes scores that are not finite", "build it with --fp32")
    figures = _figures(seen, scores, peaks, len(held_out), false_alarms)
    found = refit_beside(scores, peaks, len(held_out), false_alarms, engine.name)
    return Comparison(figures | feature_errors(engine, reference, held_out[:SHOWN]), found)


def feature_errors(engine: Engine, reference: Engine, frames: Sequence[Frame]) -> dict[str, float]:
    """feature_error_<name>: |engine - reference| / |reference|, both L2 norms over the frames."""
    squares: dict[str, list[float]] = {}
    for frame in frames:
        ours, theirs = engine.features(frame[None]), reference.features(frame[None])
        for name, value in theirs.items():
            pair = squares.setdefault(name, [0.0, 0.0])
            pair[0] += float(((ours[name] - value) ** 2).sum())
            pair[1] += float((value**2).sum())
    return {f"feature_error_{name}": float(np.sqrt(e / max(s, 1e-30))) for name, (e, s) in squares.items()}


def faults(figures: dict[str, float], limits: Limits) -> list[str]:
    """What a target's limits have against the figures; an empty list is a pass.

    One flipped verdict is always allowed: in a small set it says nothing.
    """
    flips = max(limits.flips, 1 / figures["frames"])
    found = []
    if not figures["spearman"] >= limits.spearman:
        found.append(f"rank correlation {figures['spearman']:.4f}, wanted >= {limits.spearman:g}")
    if not figures["auroc_drop"] <= limits.auroc_drop:
        found.append(f"AUROC drop {figures['auroc_drop']:.4f}, wanted <= {limits.auroc_drop:g}")
    if not figures["flips"] <= flips:
        found.append(f"flipped verdicts {figures['flips']:.2%}, wanted <= {flips:.2%}")
    return found


def demand(figures: dict[str, float], limits: Limits, precision: str) -> None:
    """Raises GateError with the figures, the worst feature and what to do, unless the limits are kept."""
    problems = faults(figures, limits)
    if not problems:
        return
    errors = {k.removeprefix("feature_error_"): v for k, v in figures.items() if k.startswith("feature_error_")}
    worst = max(errors, key=lambda name: errors[name], default="")
    where = f"; the largest error of a feature is {errors[worst]:.1%}, in {worst}" if worst else ""
    raise GateError(
        f"the {precision} engine is not as good as the FP32 graph: {'; '.join(problems)}{where}",
        "calibrate with more and more varied photos, or build with --fp32",
    )


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's, ties sharing their mean rank. Where one side is constant: 1 if both are equal, else 0."""
    x, y = _ranks(a), _ranks(b)
    if x.std() == 0 or y.std() == 0:
        return float(np.array_equal(a, b))
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Values) -> Values:
    ordered = np.sort(values)
    first, last = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((first + last) / 2, np.float64)


def _defective(frames: Sequence[Frame], copies: int, seed: int) -> Iterator[Frame]:
    rng = np.random.default_rng(seed)
    return (paste_defect(frame, rng)[0] for _ in range(copies) for frame in frames)


def _flips(scores: Values, peaks: Values, good: int, false_alarms: float) -> float:
    """Share of rows whose verdict differs; the carried threshold is never fitted on the rows it judges."""
    reference = thresholds.fit(scores[:good, 1], peaks[:good, 1], false_alarms).score
    own = thresholds.fit(scores[:good, 0], peaks[:good, 0], false_alarms)
    flipped = np.empty(len(scores), bool)
    for half in (0, 1):
        judged = np.arange(len(scores)) % 2 == half
        level = own.score
        if own.method != "conformal":
            level = carry(reference, scores[~judged, 1], scores[~judged, 0], own.score)
        flipped[judged] = (scores[judged, 0] > level) != (scores[judged, 1] > reference)
    return float(flipped.mean())


def _figures(seen: Seen, scores: Values, peaks: Values, good: int, false_alarms: float) -> dict[str, float]:
    """`good`: how many of the frames, from the first on, show good parts."""
    labels = np.arange(len(scores)) >= good
    ours, theirs = (auroc(labels, scores[:, i]) for i in range(2))
    assert ours is not None and theirs is not None, "there are good and defective frames"
    spread = max(float(scores[:, 1].std()), 1e-12)
    return {
        "frames": float(len(scores)),
        "spearman": rank_correlation(scores[:, 0], scores[:, 1]),
        "auroc": ours,
        "auroc_fp32": theirs,
        "auroc_drop": theirs - ours,
        "flips": _flips(scores, peaks, good, false_alarms),
        "map_error_mean": float(np.mean(seen.mean_errors)) / spread,
        "map_error_max": float(np.max(seen.max_errors)) / spread,
    }
