"""Run -> engine folder: the photos of the run calibrate and judge, the device's builder does the rest.

INT8 ranges and the layers' sensitivity are measured once and kept as evidence (`calibration/<name>.json`); a later
build of the same graph takes them from there, and so does the build on another machine. Needs onnx only where a graph
has to be quantised.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import bundle, dataset, places
from mtkd_edge.bundle import FEATURES, HEAD, EngineManifest, Manifest
from mtkd_edge.dataset import Dataset
from mtkd_edge.device.build import Precision, build_engine, expect
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.progress import Progress, silent
from mtkd_edge.synthetic import paste_defect

if TYPE_CHECKING:
    from mtkd_edge.lab.calibrate import Calibration

SENSED = 2
"""Two photos and two with a defect rank the layers as others do: correlation of the ranks 0.985 on bottle."""
CALIBRATION_PHOTOS = 64
"""More change the extremes of the ranges no further; they are taken evenly from the photos trained on."""


def build(
    run: Path,
    source: Path,
    out: Path,
    target: Target,
    precision: Precision,
    evidence: Path,
    false_alarms: float | None,
    progress: Progress = silent,
) -> EngineManifest:
    """Build the engine folder `out` for `target` from the bundle `source` of `run`.

    `evidence`: the folder of calibrations. `false_alarms` None means the rate the run was trained for. Raises DataError
    where the run's photos are gone, and what `device.build.build_engine` and the quantiser raise.
    """
    model = bundle.load_bundle(source)
    rate = bundle.load_threshold(source).false_alarms if false_alarms is None else false_alarms
    listing = photos_of(run)
    held_out = load_frames(listing.side("held-out"), model.frame, progress, "reading photos")
    expected = expect(source, list(held_out), progress)
    if precision == "int8":
        from mtkd_edge.lab.build_int8 import build_int8

        found, path = ranges(source, model, listing, evidence, progress)
        return build_int8(source, out, target, expected, rate, found, path, progress)
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
        photos = [photo for photo in listing.photos if photo.side == "train"]
        photos = photos[:: -(-len(photos) // CALIBRATION_PHOTOS)]
        shown = load_frames([Path(listing.root, p.path) for p in photos], model.frame, progress, "reading photos")
        hashes = {photo.path: photo.sha256 for photo in photos}
        others = unseen(model, listing, progress)
        found = calibrate.calibrate(source / FEATURES, shown, hashes, judge=judge(source, others), progress=progress)
    if not found.sensitivity:
        others, both = unseen(model, listing, progress), (source / FEATURES, source / HEAD)
        sensed = sensitivity.sensitivity(*both, found.ranges, found.corrections, others, progress)
        found = msgspec.structs.replace(found, sensitivity=sensed)
        calibrate.save(evidence, model.name, found)
    return found, path.as_posix()


def unseen(model: Manifest, listing: Dataset, progress: Progress) -> NDArray[np.uint8]:
    """A few photos that neither trained the student nor will judge the engine, and copies with a defect."""
    good = load_frames(listing.side("tune")[:SENSED], model.frame, progress, "reading photos")
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
