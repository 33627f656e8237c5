"""One table of scores, features for them, and every execution of the score: what the kernel's tests have in common."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import openvino
import torch

from mtkd_edge.device.kernel import host, layout
from mtkd_edge.device.kernel.layout import FeatureType
from mtkd_edge.lab import export
from mtkd_edge.lab.graph import ScoreHead
from mtkd_edge.score import Level, ScoreSpec, oracle

FOLDER = Path(tempfile.mkdtemp(prefix="kernel-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
Arrays = list[np.ndarray]


def level(kind: str, channels: int, height: int, width: int, weight: float = 1.0, seed: int | None = None) -> Level:
    """With center and scale a position where there is a seed, else one number."""
    if seed is None:
        return Level(f"{kind}{channels}", kind, channels, height, width, weight, (0.3,), (0.7,))
    rng = np.random.default_rng(seed)
    center, scale = (tuple(rng.uniform(0.5, 1.5, height * width).tolist()) for _ in range(2))
    return Level(f"{kind}{channels}x", kind, channels, height, width, weight, center, scale)


class Case(NamedTuple):
    spec: ScoreSpec
    batch: int
    types: tuple[FeatureType, ...] = ("float32",)


BOTH: tuple[FeatureType, ...] = ("float32", "float16")
CASES = {
    # what `train` makes of 256 pixels by default
    "default": Case(
        ScoreSpec((level("distance", 272, 32, 32, 0.1), level("distance", 80, 32, 32, 0.9)), 64, 64, 1.0, 0.02),
        2, BOTH,
    ),
    # the same of a center and a scale for every position
    "by position": Case(
        ScoreSpec((level("distance", 72, 32, 32, 0.5, 1), level("distance", 20, 32, 32, 0.5, 2)), 64, 64, 1.0, 0.02), 2,
    ),
    # what `--method paper` makes, smaller: 1x1 levels, one that is larger than the map, the mean
    "paper": Case(
        ScoreSpec(
            (level("squared", 1000, 1, 1), level("cosine", 1000, 1, 1), level("squared", 3, 40, 40)), 10, 10, 0.0, 1.0
        ), 3, BOTH,
    ),
    # nothing is a multiple of anything
    "odd": Case(
        ScoreSpec(
            (level("squared", 3, 9, 13, 0.7), level("cosine", 5, 2, 3, -0.3, 3), level("distance", 7, 1, 1)),
            17, 11, 0.7, 0.1,
        ), 5, BOTH,
    ),
    "four levels, maximum": Case(
        ScoreSpec(
            (level("cosine", 40, 8, 8, 0.4, 4), level("distance", 19, 5, 6, 0.3), level("squared", 33, 4, 4, 0.2, 5),
             level("cosine", 1, 3, 2, 0.1)), 20, 33, 2.5, 1e-9,
        ), 4, BOTH,
    ),
    "one of a kind": Case(ScoreSpec((level("cosine", 6, 4, 4),), 4, 4, 0.0, 1.0), 1, BOTH),
    "many frames": Case(ScoreSpec((level("distance", 8, 6, 6, 1.0, 6),), 12, 12, 1.0, 0.25), 64),
    # the map does not fit into shared memory, nor do its rows at once
    "large map": Case(
        ScoreSpec((level("distance", 4, 10, 64, 0.6), level("squared", 2, 12, 140, 0.4)), 118, 129, 1.5, 0.05), 2
    ),
    "smaller than its features": Case(ScoreSpec((level("cosine", 9, 22, 17, 1.0, 7),), 5, 7, 1.2, 0.3), 3),
}  # fmt: skip
RUNS = [(name, kind) for name, case in CASES.items() for kind in case.types]


def features(spec: ScoreSpec, batch: int, seed: int = 0, kind: FeatureType = "float32") -> tuple[Arrays, Arrays]:
    """Students and references, unlike each other and of unlike sizes."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, one.channels, one.height, one.width) for one in spec.levels]
    student = [rng.normal(0.2, 1.3, shape).astype(kind) for shape in shapes]
    return student, [(0.6 * s + rng.normal(0, 0.9, s.shape)).astype(kind) for s in student]


def run_kernel(spec: ScoreSpec, student: Arrays, reference: Arrays, text: str = "", **options: object) -> host.Scored:
    """The CUDA text on this CPU; the type of the features is the arrays' own."""
    found = layout.layout(spec, student[0].dtype.name)
    return host.run(found, build(found, text), student, reference, **options)


def build(found: layout.Layout, text: str = "") -> Path:
    """Texts of their own are mutants: many, and each is run a few times only."""
    return host.build(found, FOLDER, text, "-O0" if text else "-O1")


def run_oracle(spec: ScoreSpec, student: Arrays, reference: Arrays) -> Arrays:
    with np.errstate(invalid="ignore", over="ignore"):
        return list(oracle(spec, student, reference))


def run_torch(spec: ScoreSpec, student: Arrays, reference: Arrays) -> Arrays:
    with torch.no_grad():
        made = ScoreHead(spec)(*(torch.from_numpy(array.astype(np.float32)) for array in (*student, *reference)))
    return [value.numpy() for value in made]


@functools.cache
def graph(spec: ScoreSpec) -> Path:
    """head.onnx as `mtkd_edge.lab.export` writes it."""
    path = FOLDER / f"{spec.digest()}.onnx"
    names = export.feature_names(spec)
    pairs = tuple(torch.zeros(1, one.channels, one.height, one.width) for one in spec.levels) * 2
    export._write(ScoreHead(spec), pairs, path, names, ["map", "score"])
    return path


@functools.cache
def sessions(spec: ScoreSpec) -> tuple[onnxruntime.InferenceSession, openvino.CompiledModel]:
    """The graph in ONNX Runtime and in OpenVINO."""
    core = openvino.Core()
    model = core.compile_model(graph(spec), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    return onnxruntime.InferenceSession(graph(spec), providers=["CPUExecutionProvider"]), model


def fed(spec: ScoreSpec, student: Arrays, reference: Arrays) -> dict[str, np.ndarray]:
    names = export.feature_names(spec)
    return {k: v.astype(np.float32) for k, v in zip(names, (*student, *reference), strict=True)}


def run_onnx(spec: ScoreSpec, student: Arrays, reference: Arrays) -> Arrays:
    return sessions(spec)[0].run(["map", "score"], fed(spec, student, reference))


def run_openvino(spec: ScoreSpec, student: Arrays, reference: Arrays) -> Arrays:
    found = sessions(spec)[1](fed(spec, student, reference))
    return [np.array(found["map"]), np.array(found["score"])]


def run_host(spec: ScoreSpec, student: Arrays, reference: Arrays) -> Arrays:
    found = run_kernel(spec, student, reference)
    return [found.maps, found.scores]


EXECUTIONS = {"torch": run_torch, "onnx": run_onnx, "openvino": run_openvino, "kernel": run_host}


def assert_same(got: Arrays, wanted: Arrays) -> None:
    """Finite first, because NaN slips through comparisons; then 1e-5 of the largest value."""
    for found, exact in zip(got, wanted, strict=True):
        assert found.shape == exact.shape
        assert np.isfinite(exact).all()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(exact).max())))
