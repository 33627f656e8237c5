"""How good an engine is on photos with labels. The only file of the device side that looks at labels.

Image figures come from raw scores. Pixel figures are taken on as many pixels as a frame has (256 x 256), all of the
photo: a map knows no more than that, 10^8 pixels would be ranked for the same answer, and every photo counts alike.
A mask is brought there by area: a cell is defective where at least half of it is, and the smallest region keeps at
least the cell it covers most. Left out, and named: photos that cannot be read or scored, and, of the pixel figures
only, defective photos without a mask (their defect would count as good).

Memory: one map at the engine's resolution for each photo; masks are read again when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar, overload

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import metrics
from mtkd_edge.bundle import Manifest
from mtkd_edge.dataset import Dataset, TestPhoto, read_mask
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.judge import NOT_FINITE
from mtkd_edge.device.prepare import Prepared, prepare
from mtkd_edge.device.sources.base import SourceOptions
from mtkd_edge.device.sources.photos import Photos
from mtkd_edge.errors import DataError
from mtkd_edge.frames import FrameSpec, map_to_photo
from mtkd_edge.listing import Problem
from mtkd_edge.metrics import Rate
from mtkd_edge.progress import Progress, silent
from mtkd_edge.threshold import Threshold

GOOD = "good"
T = TypeVar("T")


class Score(msgspec.Struct, frozen=True):
    """One photo of the evaluation, its kind ("good" = normal) and its score."""

    path: str
    kind: str
    score: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one engine on one dataset; None where the photos do not allow them. Areas lie in [0, 1].

    `f1_max` is the best F1 over all thresholds (it looks at the labels); the rates are those at `threshold`, which
    never saw one, with their 95 % intervals. `per_defect` is the AUROC of each kind of defect. `other_shape`: how
    many photos are not as wide for their height as those of the training (`aspect.py`).
    """

    engine: str
    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None
    f1_max: float | None
    per_defect: dict[str, float | None]
    false_alarm_rate: float | None
    false_alarm_interval: tuple[float, float] | None
    detection_rate: float | None
    detection_interval: tuple[float, float] | None
    detection_by_defect: dict[str, Rate]
    average_precision: float | None
    threshold: float
    good: int
    defective: int
    with_mask: int
    invalid: tuple[Problem, ...]
    without_mask: tuple[str, ...]
    other_shape: int
    scores: tuple[Score, ...]


def evaluate(
    engine: Engine, manifest: Manifest, threshold: Threshold, dataset: Dataset, progress: Progress = silent
) -> Evaluation:
    """Score every test photo once and compare with the labels. Raises DataError without test photos, BackendError."""
    if not dataset.test:
        raise DataError(
            f"{dataset.root} has no test photos, wanted test/good/ and test/<defect>/ beside train/good/",
            f"mtkd-edge watch {dataset.root}",
        )
    seen: list[Seen] = []
    invalid: list[Problem] = []
    for done, result in enumerate(_scored(engine, manifest, dataset), start=1):
        if isinstance(result, Seen):
            seen.append(result)
        else:
            invalid.append(result)
        progress("evaluate", done, len(dataset.test))
    return figures(engine.name, threshold.score, dataset, manifest.frame, seen, invalid)


def figures(
    engine: str, level: float, dataset: Dataset, spec: FrameSpec, seen: Sequence[Seen], invalid: Sequence[Problem]
) -> Evaluation:
    """What these scores and maps are worth, whoever made them; `level` is the threshold of the rates."""
    kinds, scores = [one.photo.kind for one in seen], [one.score for one in seen]
    defective = np.array([kind != GOOD for kind in kinds], np.bool_)
    usable = [one for one in seen if one.photo.kind == GOOD or _has_defect(dataset, one.photo)]
    grid = spec.height, spec.width
    masks = Lazy(lambda n: _mask(dataset, usable[n].photo, grid), len(usable))
    maps = Lazy(lambda n: map_to_photo(usable[n].values, *grid), len(usable))
    pixel_auroc, aupro = metrics.pixel_figures(masks, maps)
    best = metrics.f1_max(defective, scores)
    false_alarms = metrics.false_alarm_rate(defective, scores, level)
    detected = metrics.detection_rate(defective, scores, level)
    return Evaluation(
        engine=engine,
        image_auroc=metrics.auroc(defective, scores),
        pixel_auroc=pixel_auroc,
        aupro=aupro,
        f1_max=best.f1 if best else None,
        per_defect=metrics.per_defect(kinds, scores),
        false_alarm_rate=false_alarms.value if false_alarms else None,
        false_alarm_interval=(false_alarms.low, false_alarms.high) if false_alarms else None,
        detection_rate=detected.value if detected else None,
        detection_interval=(detected.low, detected.high) if detected else None,
        detection_by_defect=_detection(kinds, np.array(scores), level),
        average_precision=metrics.average_precision(defective, scores),
        threshold=level,
        good=int((~defective).sum()),
        defective=int(defective.sum()),
        with_mask=sum(one.photo.kind != GOOD for one in usable),
        invalid=tuple(invalid),
        without_mask=tuple(one.photo.path for one in seen if one not in usable),
        other_shape=sum(one.other_shape for one in seen),
        scores=tuple(Score(one.photo.path, one.photo.kind, one.score) for one in seen),
    )


def text(evaluation: Evaluation) -> str:
    """For people."""

    def figure(value: float | None) -> str:
        return "  none" if value is None else f"{value:.4f}"

    def rate(value: float | None, interval: tuple[float, float] | None) -> str:
        if value is None or interval is None:
            return "none"
        return f"{value:.1%} (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"

    e = evaluation
    lines = [
        f"{e.engine}: {e.good} good and {e.defective} defective photos, {e.with_mask} with a mask",
        f"image AUROC {figure(e.image_auroc)}   F1 max {figure(e.f1_max)}",
        f"pixel AUROC {figure(e.pixel_auroc)}   AUPRO  {figure(e.aupro)}",
        f"at the threshold {e.threshold:.4g}: false alarms {rate(e.false_alarm_rate, e.false_alarm_interval)}",
        f"{'':22} detected {rate(e.detection_rate, e.detection_interval)}",
    ]
    for kind, auroc in e.per_defect.items():
        found = e.detection_by_defect[kind]
        lines.append(f"  {kind}: AUROC {figure(auroc)}, {found.count} of {found.total} detected")
    lines += [f"invalid, left out: {problem.path}: {problem.what}" for problem in e.invalid]
    if e.without_mask:
        lines.append(f"{len(e.without_mask)} defective photos without a mask count in image figures only")
    if e.other_shape:
        lines.append(
            f"{e.other_shape} photos have another shape than those of the training, so their scores mean little"
        )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A test photo with its score and its map [h, w]. `other_shape`: whether the training had no photo shaped so."""

    photo: TestPhoto
    score: float
    values: NDArray[np.float32]
    other_shape: bool = False


def _scored(engine: Engine, manifest: Manifest, dataset: Dataset) -> Iterator[Seen | Problem]:
    """Every test photo, in order."""
    paths = [Path(dataset.root, photo.path) for photo in dataset.test]
    captured = Photos("test", lambda: paths, SourceOptions()).frames()
    pairs = zip(dataset.test, (prepare(one, manifest.frame) for one in captured), strict=True)
    while batch := list(islice(pairs, engine.batch)):
        frames = [prepared.frame for _, prepared in batch if prepared.frame is not None]
        inference = engine.infer(np.stack(frames)) if frames else None
        results = iter(zip(inference.scores, inference.maps, strict=True) if inference else ())
        for photo, prepared in batch:
            if prepared.frame is None:
                yield Problem(photo.path, prepared.problem)
                continue
            score, values = next(results)
            if np.isfinite(score) and not np.isnan(values).any():
                yield Seen(photo, float(score), values, _strange(prepared, manifest))
            else:
                yield Problem(photo.path, NOT_FINITE)


def _strange(prepared: Prepared, manifest: Manifest) -> bool:
    shown = prepared.captured.photo
    return shown is not None and bool(manifest.other_shape(*shown.shape[:2]))


def _has_defect(dataset: Dataset, photo: TestPhoto) -> bool:
    return photo.mask is not None and bool(read_mask(Path(dataset.root, photo.mask)).any())


def _mask(dataset: Dataset, photo: TestPhoto, grid: tuple[int, int]) -> NDArray[np.bool_]:
    if photo.mask is None:
        return np.zeros(grid, np.bool_)
    return shrink(read_mask(Path(dataset.root, photo.mask)), grid)


def shrink(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask [H, W] -> bool [grid]: of each region the cells that are at least half covered, or else those covered most.

    Regions are those that do not touch on the grid: a thin scratch is kept beside a large blot.
    """
    cover = mask.astype(np.float32)
    # one axis at a time: where any axis grows, OpenCV's INTER_AREA quietly becomes bilinear and skips pixels
    for height, width in ((cover.shape[0], grid[1]), grid):
        method = cv2.INTER_AREA if height * width < cover.size else cv2.INTER_NEAREST
        cover = np.asarray(cv2.resize(cover, (width, height), interpolation=method), np.float32)
    count, regions = cv2.connectedComponents((cover > 0).astype(np.uint8), connectivity=8)
    most = np.zeros(count, np.float32)
    np.maximum.at(most, np.asarray(regions, np.intp).ravel(), cover.ravel())
    return np.asarray((cover > 0) & (cover >= np.minimum(0.5, most)[regions]))


def _detection(kinds: Sequence[str], scores: NDArray[np.float64], level: float) -> dict[str, Rate]:
    names = np.array(kinds)
    rates = {kind: metrics.detection_rate(names == kind, scores, level) for kind in sorted({*kinds} - {GOOD})}
    return {kind: rate for kind, rate in rates.items() if rate is not None}


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made anew each time they are asked for."""

    def __init__(self, make: Callable[[int], T], length: int) -> None:
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(n) for n in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)  # ends an iteration over the sequence
        return self._make(index)
