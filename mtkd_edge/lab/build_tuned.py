"""`build-engine --int8 --finetune`: an INT8 engine, its student fine-tuned, and the proof that this was worth it.

First the plain build (`build_int8.py`), which says what stays in floating point. Then the student learns in that graph
(`finetune.py`), and what was measured on the old student is measured again: ranges, mean errors, sensitivity, level
statistics from the INT8 graph's own distances, threshold. The gate compares the new engine with the FP32 run like any
other, and asks one thing more: defects must stand out no less than in the plain engine. Where it refuses, the plain
engine stays, and says so.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mtkd_edge import bundle
from mtkd_edge.bundle import FEATURES, GOLDEN, HEAD, EngineManifest
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import GateError
from mtkd_edge.lab import calibrate, export, finetune, normalise
from mtkd_edge.lab.build_int8 import Request, Source, attempt, build_int8
from mtkd_edge.lab.fake_quant import FakeQuantStudent, write_back
from mtkd_edge.lab.lift import Lift
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.lab.sensitivity import sensitivity
from mtkd_edge.progress import Progress
from mtkd_edge.score import ScoreSpec
from mtkd_edge.synthetic import paste_defect

COMPARED = 4
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Photos:
    """Frames [N, height, width, 3] that a fine-tune may see, none of them held out.

    `train` is learned from and calibrated on, `hashes` are its photos by path; `tune` tells what is normal, `unseen`
    ranks the layers.
    """

    train: Frames
    hashes: dict[str, str]
    tune: Frames
    unseen: Frames


def build_tuned(source: Source, request: Request, photos: Photos, evidence: Path) -> EngineManifest:
    """The engine folder of the request: fine-tuned where the gate takes that, else plain; `built` says which.

    The ranges of the new graph are kept in `evidence`. Raises what `build_int8` raises.
    """
    plain = build_int8(source, request)
    beside = replace(request, expected=replace(request.expected, before=plain.manifest.gate))
    note = f"{finetune.STEPS} steps of the student against the INT8 teachers"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tuned = tune(source, plain.lift, photos, Path(scratch), evidence, request.progress)
            return attempt(tuned, beside, plain.lift, {"finetune": note})
        except GateError as error:
            why = f"tried and not kept: {error.message}"
    return attempt(source, request, plain.lift, {"finetune": why})


def tune(source: Source, lift: Lift, photos: Photos, scratch: Path, evidence: Path, progress: Progress) -> Source:
    """The source again with a student that has learned in INT8, in `scratch`; its ranges in `evidence`."""
    model = bundle.load_bundle(source.bundle)
    made, graph = scratch / "tuned", scratch / FEATURES
    made.mkdir()
    quantise(source.bundle / FEATURES, graph, source.found, exclude=lift.layers)
    student = learned(source.bundle, graph, photos.train, model.seed, progress)
    onnx.save(write_back(onnx.load(source.bundle / FEATURES), onnx.load(graph), student), made / FEATURES)
    method = source.found.method
    found = calibrate.calibrate(made / FEATURES, photos.train, photos.hashes, method=method, progress=progress)
    quantise(made / FEATURES, graph, found, exclude=lift.layers)
    score = normal_again(model.score, graph, source.bundle / HEAD, photos.tune, progress)
    export.write_head(score, made / HEAD)
    golden_again(source.bundle / GOLDEN, made, score)
    sensed = sensitivity(made / FEATURES, made / HEAD, found.ranges, found.corrections, photos.unseen, progress)
    found = msgspec.structs.replace(found, sensitivity=sensed)
    calibrate.save(evidence, f"{model.name}-finetuned", found)
    manifest = msgspec.structs.replace(model, score=score, files=bundle.seal(made))
    bundle.save(made, manifest, bundle.load_threshold(source.bundle))
    return Source(made, found, (evidence / f"{model.name}-finetuned.json").as_posix())


def learned(source: Path, graph: Path, frames: Frames, seed: int, progress: Progress) -> FakeQuantStudent:
    """The student of the quantised `graph`, fine-tuned on these frames and on copies with a pasted defect."""
    rng = np.random.default_rng(seed)
    shown = np.concatenate([frames, np.stack([paste_defect(frame, rng)[0] for frame in frames])])
    student = FakeQuantStudent(onnx.load(graph))
    with (
        OpenvinoEngine(source / FEATURES, source / HEAD, name="fp32") as reference,
        OpenvinoEngine(graph, source / HEAD, name="int8") as engine,
    ):
        finetune.agree(student, engine, shown[:COMPARED])
        wanted = finetune.targets_of(student.outputs, reference, engine, shown, progress)
    finetune.finetune(student, shown, wanted, seed, finetune.STEPS, progress)
    return student


def normal_again(score: ScoreSpec, graph: Path, head: Path, tune: Frames, progress: Progress) -> ScoreSpec:
    """The score with center and scale of each level from the distances that the INT8 graph finds on good parts."""
    maps: list[list[normalise.Maps]] = []
    with OpenvinoEngine(graph, head, name="int8") as engine:
        for i, frame in enumerate(tune):
            maps.append(normalise.distances(score.levels, engine.features(frame[None])))
            progress("what is normal in INT8", i + 1, len(tune))
    levels = []
    for level, found in zip(score.levels, zip(*maps, strict=True), strict=True):
        center, scale = normalise.statistics(np.concatenate(found))
        levels.append(msgspec.structs.replace(level, center=center, scale=scale))
    return msgspec.structs.replace(score, levels=tuple(levels))


def golden_again(old: Path, made: Path, score: ScoreSpec) -> None:
    """golden.npz of the new graphs: the old frames, and what the new float graph makes of them."""
    with np.load(old, allow_pickle=False) as kept:
        frames = kept["frames"]
    features = export.run_onnx(made / FEATURES, {"frames": frames}, export.feature_names(score))
    export.write_golden(made, score, frames, features)
