"""How wide every tensor of features.onnx gets on photos of good parts and on the same photos with a pasted defect.

The defects matter: ranges from good parts alone clip exactly the activations that tell a defect, and difference-based
scores lose several AUROC points by it. The result is evidence, small text for `calibration/` and for version control:

    calibration/<name>.json      method, versions, sha256 of the graph, range of every tensor, sha256 of every photo
    calibration/<name>.sha256    the photos again, for `sha256sum -c` in their root folder

The copies with a defect are lit in another way, every second one, so that a lamp that ages does not leave the ranges.
A few frames are in memory at a time, however many there are. This file knows nothing of where Q/DQ pairs go beyond
asking `placement`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mtkd_edge import __version__
from mtkd_edge.bundle import make_folder, sha256, write_file
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.frames import Frame
from mtkd_edge.lab.correct import Corrections, mean_errors
from mtkd_edge.lab.placement import candidates
from mtkd_edge.lab.ranges import METHODS, Histogram, Method, Range, clipped
from mtkd_edge.progress import Progress, silent
from mtkd_edge.synthetic import paste_defect, picture_in

FORMAT = 1
CORRECTED = 16
"""So many photos, spread over all, are kept in memory and tell the mean errors of the layers, and the histograms."""
GAIN, OFFSET = 0.2, 12.0
"""Other light: so much brighter or darker at most, as a factor and in grey levels."""
EARNED = 0.5
"""A method that clips must bring the error down to this share of that of min-max. On MTD ones that were a little better
on the photos compared kept flipping verdicts, however many layers were lifted: what they clip is the defect."""
Ranges = dict[str, Range]
Judge = Callable[[Mapping[Method, Ranges]], dict[str, float]]
"""The error of the map with each method's ranges, on photos that are not calibrated on."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The evidence behind an INT8 graph.

    `graph`: sha256 of the float features.onnx. `ranges`: tensor -> (lowest, highest). `photos`: path -> sha256.
    `seed` is that of the pasted defects and the light; `frames` counts both kinds. `compared`: method -> relative error
    of the map on other photos, where methods were compared. `corrections`: output of a layer -> what its quantised
    form lacks on average, by channel (`correct.py`). `sensitivity`: name of a layer -> what its INT8 costs the map
    (`sensitivity.py`).
    """

    format: int = FORMAT
    graph: str
    method: Method
    compared: dict[str, float] = {}
    seed: int
    frames: int
    versions: dict[str, str]
    ranges: Ranges
    corrections: Corrections = {}
    sensitivity: dict[str, float] = {}
    photos: dict[str, str]


def calibrate(
    graph: Path,
    frames: Iterable[Frame],
    photos: Mapping[str, str],
    *,
    method: Method = "minmax",
    judge: Judge | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Calibration:
    """Run the float graph on every frame and on a changed copy, and keep the range of every tensor.

    `frames`: [height, width, 3] uint8, one for each of `photos` (path -> sha256), in any lazy form. With a `judge` the
    method is that of `best_of`, else `method`; see `ranges.py`.
    Raises DataError without a frame, or where frames and photos differ in number.
    """
    extremes: Ranges = {}
    histograms: dict[str, Histogram] = defaultdict(Histogram)
    shown: list[NDArray[np.uint8]] = []
    count, step = 0, max(1, -(-len(photos) // CORRECTED))
    for count, batch in enumerate(with_defects(frames, seed), start=1):
        if count == 1:
            session, names = probe(graph)
        sample = count % step == 0 or count == len(photos)
        if sample:
            shown.append(batch)
        for name, value in zip(names, session.run(names, {"frames": batch}), strict=True):
            extremes[name] = widen(extremes.get(name), value)
            if sample:
                histograms[name].add(value)
        progress("calibrate", count, len(photos))
    if count != len(photos) or not count:
        raise DataError(f"calibration got {count} frames for {len(photos)} photos", "give it photos of good parts")
    found = {kind: reaching(extremes, histograms, kind) for kind in METHODS}
    compared = judge(found) if judge else {}
    best = best_of(compared) if judge else method
    return Calibration(
        graph=sha256(graph),
        method=best,
        compared=compared,
        seed=seed,
        frames=2 * count,
        versions={"mtkd-edge": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        ranges=found[best],
        corrections=mean_errors(graph, found[best], shown),
        photos=dict(photos),
    )


def best_of(compared: Mapping[str, float]) -> Method:
    """Min-max, which clips nothing, unless another method halves the error: a few photos do not show every defect."""
    least = min(METHODS, key=lambda kind: compared[kind])
    return least if compared[least] <= EARNED * compared["minmax"] else "minmax"


def reaching(extremes: Ranges, histograms: Mapping[str, Histogram], method: Method) -> Ranges:
    """The extremes of all frames, cut by a method where it reaches less far. Min-max keeps them as they are."""
    if method == "minmax":
        return dict(extremes)
    return {name: clipped(found, histograms[name].reach(method)) for name, found in extremes.items()}


def with_defects(frames: Iterable[Frame], seed: int) -> Iterator[NDArray[np.uint8]]:
    """Each frame and the same frame with a pasted defect, every second time in another light: [2, height, width, 3]."""
    rng = np.random.default_rng(seed)
    for number, frame in enumerate(frames):
        changed = paste_defect(frame, rng)[0]
        yield np.stack([frame, relit(changed, rng) if number % 2 else changed])


def relit(frame: Frame, rng: np.random.Generator) -> Frame:
    """A frame under a lamp that is older, or nearer. Margins stay 0, and a photo that has some keeps off 0."""
    picture, out = picture_in(frame), np.zeros_like(frame)
    seen = frame[picture]
    lit = seen * (1 + rng.uniform(-GAIN, GAIN)) + rng.uniform(-OFFSET, OFFSET)
    out[picture] = np.clip(np.rint(lit), int(seen.shape != frame.shape), 255).astype(np.uint8)
    return out


def probe(graph: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session of the graph whose outputs are the tensors that might be quantised, and their names."""
    model = onnx.load(graph)
    names = list(candidates(model))
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # the arithmetic of shapes has Add and Concat too, on integers
    return session, [output.name for output in session.get_outputs() if output.type == "tensor(float)"]


def widen(known: Range | None, value: NDArray[np.float32]) -> Range:
    """The range that holds the known one and these values. Raises DataError for a value that is not finite."""
    low, high = float(value.min()), float(value.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("the network makes values that are not finite", "train again; the bundle is not usable")
    return (low, high) if known is None else (min(low, known[0]), max(high, known[1]))


def save(folder: Path, name: str, calibration: Calibration) -> Path:
    """Write both files of the evidence; return the path of the JSON file. Raises BundleError where that fails."""
    make_folder(folder)
    path = folder / f"{name}.json"
    lines = [f"{digest}  {photo}\n" for photo, digest in calibration.photos.items()]
    write_file(folder / f"{name}.sha256", "".join(lines).encode())
    write_file(path, msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")
    return path


def load(path: Path, graph: Path) -> Calibration:
    """The evidence back. Raises BundleError for a damaged file, UsageError for ranges of another graph."""
    hint = f"delete {path} and calibrate again"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "mtkd-edge build-engine --int8") from error
    except UNREADABLE as error:
        raise BundleError(f"{path} is not a calibration: {error}", hint) from error
    if found.format != FORMAT:
        raise BundleError(f"{path} has format {found.format}, this version reads format {FORMAT}", hint)
    if found.graph != sha256(graph):
        raise UsageError(f"{path} was measured on another graph than {graph}", hint)
    return found
