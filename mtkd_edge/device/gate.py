"""Is a new engine as good as the FP32 graph it came from? Figures first, then a yes or a no.

Both engines see held-out photos of good parts and copies of them with synthetic defects; no real defect is needed.

    spearman        rank correlation of the two engines' scores over all these frames
    auroc_drop      how much worse the engine tells defects from good parts (AUROC of the graph minus its own)
    flips           share of frames with another verdict, each engine with its own threshold (`refit.py`); as counted,
    flips_expected  and as the errors near the threshold make likely, which is what the limit is for (`flips.py`)
    map_error_mean, map_error_max    of the maps, in units of the standard deviation of the graph's scores
    feature_error_<name>             relative L2 error of each output of the feature graph, mean over a few frames

Naive INT8 costs scores that are differences of features several points, and one class in five collapses; a build
that does not look cannot know. This file knows neither files nor targets beyond their limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import Engine
from mtkd_edge.device.flips import flips, plausible
from mtkd_edge.device.refit import refit_beside
from mtkd_edge.device.targets import Limits
from mtkd_edge.errors import DataError, GateError
from mtkd_edge.frames import Frame
from mtkd_edge.metrics import auroc
from mtkd_edge.progress import Progress, silent
from mtkd_edge.synthetic import paste_defect
from mtkd_edge.threshold import Threshold

DEFECTS = 120
"""At least so many defective frames: with fewer, one frame more or less decides about the limits."""
JUDGED = ("spearman", "auroc", "auroc_drop", "flips", "flips_expected")
AGAIN = "train again: the run itself cannot be used"
SHOWN = 4
"""Frames for the errors of the features."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What the reference made of the frames: measured once, however many engines are compared with it.

    `maps` [n, H, W] float32, `scores` [n]; the first `good` of `frames` show good parts. `features`: those of the first
    few frames, by name. `before`: the figures of an engine that the next one shall replace, if there is one.
    """

    frames: tuple[Frame, ...]
    good: int
    maps: NDArray[np.float32]
    scores: Values
    features: tuple[dict[str, NDArray[np.float32]], ...]
    before: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The figures by name, the threshold the engine shall judge with, and what both were computed from.

    `scores` [n, 2]: engine and reference; the first `good` rows are good parts.
    """

    figures: dict[str, float]
    threshold: Threshold
    scores: Values
    good: int


@dataclass(frozen=True)
class Ruling:
    """One limit of a target: what was found, what is wanted, and whether it is kept. NaN keeps none."""

    name: str
    found: str
    limit: str
    kept: bool


def expect(reference: Engine, held_out: Sequence[Frame], seed: int = 0, progress: Progress = silent) -> Expected:
    """`held_out`: frames of good parts that training never saw. The defects are the same for the same seed.

    Raises DataError without frames, GateError where a score is not finite.
    """
    if not held_out:
        raise DataError("the gate needs held-out photos of good parts, got none", "train with more photos")
    frames = (*held_out, *_defective(held_out, -(-DEFECTS // len(held_out)), seed))
    maps, scores = _run(reference, frames, "gate, fp32", progress)
    features = tuple(reference.features(frame[None]) for frame in held_out[:SHOWN])
    return Expected(frames, len(held_out), maps, scores, features)


def compare(engine: Engine, expected: Expected, false_alarms: float, progress: Progress = silent) -> Comparison:
    """The figures of the module's docstring, and the threshold of the engine.

    Raises GateError where a score is not finite, and what the engine and `threshold.fit` raise.
    """
    maps, own = _run(engine, expected.frames, "gate", progress)
    scores = np.stack([own, expected.scores], 1)
    peaks = np.stack([maps.max((1, 2)), expected.maps.max((1, 2))], 1).astype(np.float64)
    errors = np.abs(maps - expected.maps)
    figures = _figures(errors, scores, peaks, expected.good, false_alarms)
    figures |= feature_errors(engine, expected) | {f"before_{k}": v for k, v in expected.before.items() if k in JUDGED}
    found = refit_beside(scores, peaks, expected.good, false_alarms, engine.name)
    return Comparison(figures, found, scores, expected.good)


def feature_errors(engine: Engine, expected: Expected) -> dict[str, float]:
    """feature_error_<name>: |engine - reference| / |reference|, both L2 norms over the frames."""
    squares: dict[str, list[float]] = {}
    for frame, theirs in zip(expected.frames, expected.features, strict=False):
        ours = engine.features(frame[None])
        for name, value in theirs.items():
            pair = squares.setdefault(name, [0.0, 0.0])
            pair[0] += float(((ours[name] - value) ** 2).sum())
            pair[1] += float((value**2).sum())
    return {f"feature_error_{name}": float(np.sqrt(e / max(s, 1e-30))) for name, (e, s) in squares.items()}


def rulings(figures: dict[str, float], limits: Limits) -> tuple[Ruling, ...]:
    """The figures that decide, each with its limit; one more where the engine replaces another.

    Flips are limited as expected. The count must not contradict that: no more than such an engine may well show.
    """
    rho, drop, expected = figures["spearman"], figures["auroc_drop"], figures["flips_expected"]
    count, flipped = round(figures["frames"]), figures["flips"] * figures["frames"]
    most = plausible(count, limits.flips)
    ruled = (
        Ruling("rank correlation", f"{rho:.4f}", f">= {limits.spearman:g}", rho >= limits.spearman),
        Ruling("AUROC drop", f"{drop:.4f}", f"<= {limits.auroc_drop:g}", drop <= limits.auroc_drop),
        Ruling("flipped verdicts", f"{expected:.2%}", f"<= {limits.flips:.2%}", expected <= limits.flips),
        Ruling("flips counted", f"{flipped:.0f} of {count}", f"<= {most} of {count}", flipped <= most + 0.5),
    )
    if (before := figures.get("before_auroc")) is None:
        return ruled
    own = figures["auroc"]
    return (*ruled, Ruling("AUROC on pasted defects", f"{own:.4f}", f">= {before:.4f} as before", own >= before))


def faults(figures: dict[str, float], limits: Limits) -> list[str]:
    """What a target's limits have against the figures; an empty list is a pass."""
    return [f"{r.name} {r.found}, wanted {r.limit}" for r in rulings(figures, limits) if not r.kept]


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
        AGAIN if precision == "fp32" else "calibrate with more and more varied photos, or build with --fp32",
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


def _run(engine: Engine, frames: Sequence[Frame], step: str, progress: Progress) -> tuple[NDArray[np.float32], Values]:
    """Maps [n, H, W] and scores [n] of the frames, one a call. Raises GateError for one that is not finite."""
    maps, scores = [], np.empty(len(frames))
    for i, frame in enumerate(frames):
        found = engine.infer(frame[None])
        maps.append(found.maps[0])
        scores[i] = found.scores[0]
        progress(step, i + 1, len(frames))
    stacked = np.stack(maps)
    if not (np.isfinite(scores).all() and np.isfinite(stacked).all()):
        hint = AGAIN if engine.name == "fp32" else "build it with --fp32"
        raise GateError(f"the engine {engine.name} makes scores that are not finite", hint)
    return stacked, scores


def _figures(
    errors: NDArray[np.float32], scores: Values, peaks: Values, good: int, false_alarms: float
) -> dict[str, float]:
    """`errors` [n, H, W] of the maps; `good`: how many of the frames, from the first on, show good parts."""
    labels = np.arange(len(scores)) >= good
    ours, theirs = (auroc(labels, scores[:, i]) for i in range(2))
    assert ours is not None and theirs is not None, "there are good and defective frames"
    spread = max(float(scores[:, 1].std()), 1e-12)
    turned = flips(scores, peaks, good, false_alarms)
    return {
        "frames": float(len(scores)),
        "spearman": rank_correlation(scores[:, 0], scores[:, 1]),
        "auroc": ours,
        "auroc_fp32": theirs,
        "auroc_drop": theirs - ours,
        "flips": turned.counted,
        "flips_expected": turned.expected,
        "map_error_mean": float(errors.mean()) / spread,
        "map_error_max": float(errors.max()) / spread,
    }
