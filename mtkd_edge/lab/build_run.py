"""Run -> engine folder: the photos of the run calibrate and judge, the device's builder does the rest.

INT8 ranges and the layers' sensitivity are measured once and kept as evidence (`calibration/<name>.json`); a later
build of the same graph takes them from there, and so does the build on another machine. Needs onnx only where a graph
has to be quantised.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import bundle, dataset, places, threshold
from mtkd_edge.bundle import FEATURES, HEAD, EngineManifest, Manifest
from mtkd_edge.dataset import Dataset, Photo
from mtkd_edge.device.build import Precision, build_engine, check_place, expect
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.progress import Progress, silent
from mtkd_edge.synthetic import paste_defect

if TYPE_CHECKING:
    from mtkd_edge.lab.build_tuned import Photos
    from mtkd_edge.lab.calibrate import Calibration

SENSED = 2
"""Two photos and two with a defect rank the layers as others do: correlation of the ranks 0.985 on bottle."""
CALIBRATION_PHOTOS = 64
"""More change the extremes of the ranges no further; they are taken evenly from the photos trained on."""
LEARNED_FROM = 128
"""Photos of a fine-tune, each with a copy with a pasted defect: three hundred steps see each frame about ten times."""


def build(
    run: Path,
    source: Path,
    out: Path,
    target: Target,
    precision: Precision,
    evidence: Path,
    false_alarms: float | None,
    progress: Progress = silent,
    finetune: bool = False,
) -> EngineManifest:
    """Build the engine folder `out` for `target` from the bundle `source` of `run`.

    `evidence`: the folder of calibrations. `false_alarms` None means the rate the run was trained for. `finetune`: an
    INT8 engine's student learns what rounding does (`build_tuned.py`). Raises DataError where the run's photos are
    gone, UsageError for a fine-tune of anything but INT8, and what `device.build.build_engine` and the quantiser raise.
    """
    if finetune and precision != "int8":
        raise UsageError(f"--finetune teaches the student what INT8 does, and this is {precision}", "--int8 --finetune")
    if false_alarms is not None:
        threshold.check_rate(false_alarms)
    check_place(out)
    if precision == "int8":
        bundle.make_folder(evidence)  # before the minutes that measuring takes
    model = bundle.load_bundle(source)
    if finetune and model.method == "paper":
        raise UsageError("--finetune is for the feature-map method, and this run is of the published one", "--int8")
    rate = bundle.load_threshold(source).false_alarms if false_alarms is None else false_alarms
    listing = photos_of(run)
    held_out = look([photo for photo in listing.photos if photo.side == "held-out"], model, listing, progress)
    expected = expect(source, list(held_out), progress)
    if precision == "int8":
        from mtkd_edge.lab.build_int8 import Request, Source, build_int8

        measured = Source(source, *ranges(source, model, listing, evidence, progress))
        request = Request(out, target, expected, rate, progress)
        if finetune:
            from mtkd_edge.lab.build_tuned import build_tuned

            return build_tuned(measured, request, to_learn_from(model, listing, progress), evidence)
        return build_int8(measured, request).manifest
    if precision == "fp32" or target.backend == "openvino":
        return build_engine(source, out, target, precision, None, expected, rate, progress=progress)
    from mtkd_edge.lab.half import halve

    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, FEATURES)
        halve(source / FEATURES, graph)
        return build_engine(source, out, target, precision, graph, expected, rate, progress=progress)


def photos_of(run: Path) -> Dataset:
    """The photos a run was trained with, as it listed them. Raises BundleError where it has no list."""
    path = run / places.LISTING
    try:
        return dataset.decode(path.read_bytes(), str(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "mtkd-edge train") from error


def ranges(
    source: Path, model: Manifest, listing: Dataset, evidence: Path, progress: Progress
) -> tuple[Calibration, str]:
    """Ranges and sensitivity of the bundle's features.onnx, measured or kept; the path of the evidence."""
    from mtkd_edge.lab import calibrate, sensitivity
    from mtkd_edge.lab.judge_ranges import judge

    path = evidence / f"{model.name}.json"
    found = kept(path, source / FEATURES)
    if found is None:
        shown, hashes = trained_on(CALIBRATION_PHOTOS, model, listing, progress)
        others = unseen(model, listing, progress)
        found = calibrate.calibrate(source / FEATURES, shown, hashes, judge=judge(source, others), progress=progress)
    if not found.sensitivity:
        others, both = unseen(model, listing, progress), (source / FEATURES, source / HEAD)
        sensed = sensitivity.sensitivity(*both, found.ranges, found.corrections, others, progress)
        found = msgspec.structs.replace(found, sensitivity=sensed)
        calibrate.save(evidence, model.name, found)
    return found, path.as_posix()


def look(photos: Sequence[Photo], model: Manifest, listing: Dataset, progress: Progress) -> NDArray[np.uint8]:
    """Photos of the run as frames. Raises DataError for one that is gone, or is another than the run was made with."""
    paths = [Path(listing.root, photo.path) for photo in photos]
    return load_frames(paths, model.frame, progress, "reading photos", [photo.sha256 for photo in photos])


def trained_on(
    most: int, model: Manifest, listing: Dataset, progress: Progress
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """At most so many of the photos trained on, taken evenly: their frames, and path -> sha256."""
    photos = [photo for photo in listing.photos if photo.side == "train"]
    photos = photos[:: -(-len(photos) // most)]
    return look(photos, model, listing, progress), {photo.path: photo.sha256 for photo in photos}


def to_learn_from(model: Manifest, listing: Dataset, progress: Progress) -> Photos:
    """What a fine-tune may see."""
    from mtkd_edge.lab.build_tuned import Photos

    tune = look([photo for photo in listing.photos if photo.side == "tune"], model, listing, progress)
    return Photos(*trained_on(LEARNED_FROM, model, listing, progress), tune, unseen(model, listing, progress))


def unseen(model: Manifest, listing: Dataset, progress: Progress) -> NDArray[np.uint8]:
    """A few photos that neither trained the student nor will judge the engine, and copies with a defect."""
    photos = [photo for photo in listing.photos if photo.side == "tune"][:SENSED]
    good = look(photos, model, listing, progress)
    rng = np.random.default_rng(0)
    return np.concatenate([good, np.stack([paste_defect(frame, rng)[0] for frame in good])])


def kept(path: Path, graph: Path) -> Calibration | None:
    """The evidence of an earlier build of this graph; None where there is none, or only that of another graph.

    Raises BundleError for a damaged file: evidence that somebody committed is not overwritten in silence.
    """
    from mtkd_edge.lab import calibrate

    if not path.is_file():
        return None
    try:
        return calibrate.load(path, graph)
    except UsageError:  # the model was trained again under its old name; version control will show the new ranges
        return None
