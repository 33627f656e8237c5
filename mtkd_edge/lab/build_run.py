"""Run -> engine folder: the photos of the run calibrate and judge, the device's builder does the rest.

INT8 ranges are measured once and kept as evidence (`calibration/<name>.json`); a later build of the same graph takes
them from there, and so does the build on another machine. Needs onnx only where a graph has to be quantised.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mtkd_edge import bundle, dataset, places
from mtkd_edge.bundle import FEATURES, EngineManifest, Manifest
from mtkd_edge.dataset import Dataset
from mtkd_edge.device.build import Precision, build_engine
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import BundleError, GateError, UsageError
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.progress import Progress, silent

if TYPE_CHECKING:
    from mtkd_edge.lab.calibrate import Calibration

LIFTED_STRIDES = (4, 8)
"""How deep the lifting goes where the gate refuses; beyond stride 8 too little would be left in INT8."""
CALIBRATION_PHOTOS = 128
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
    if precision != "int8":
        return build_engine(source, out, target, precision, None, list(held_out), rate, "", progress)
    from mtkd_edge.lab.quantise import quantise

    found, path = ranges(source, model, listing, evidence, progress)
    lifts, weighted = lifted(source / FEATURES)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, FEATURES)
        for i, exclude in enumerate(lifts):
            quantise(source / FEATURES, graph, found, exclude=exclude)
            kept = f"{weighted - len(exclude)} of {weighted} convolutions in INT8"
            try:
                return build_engine(
                    source, out, target, precision, graph, list(held_out), rate, path, progress, layers=kept
                )
            except GateError:
                if i + 1 == len(lifts):
                    raise
                progress("lifting early layers to floating point", i + 1, len(lifts) - 1)
    raise AssertionError("the last lift returns or raises")


def lifted(graph: Path) -> tuple[list[tuple[str, ...]], int]:
    """What stays in floating point, try by try: the sensitive layers, then ever more of the first stages.

    Second: how many convolutions there are.
    """
    import onnx

    from mtkd_edge.lab.placement import early, sensitive

    model = onnx.load(graph)
    first = sensitive(model)
    more = [tuple(dict.fromkeys((*first, *early(model, stride)))) for stride in LIFTED_STRIDES]
    return [first, *more], sum(node.op_type == "Conv" for node in model.graph.node)


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
    """Ranges of the bundle's features.onnx, measured or kept from an earlier build; the path of the evidence."""
    from mtkd_edge.lab import calibrate

    path = evidence / f"{model.name}.json"
    found = kept(path, source / FEATURES)
    if found is None:
        photos = [photo for photo in listing.photos if photo.side == "train"]
        photos = photos[:: -(-len(photos) // CALIBRATION_PHOTOS)]
        shown = load_frames([Path(listing.root, p.path) for p in photos], model.frame, progress, "reading photos")
        hashes = {photo.path: photo.sha256 for photo in photos}
        found = calibrate.calibrate(source / FEATURES, shown, hashes, progress=progress)
        calibrate.save(evidence, model.name, found)
    return found, path.as_posix()


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
