"""torch -> the bundle's two ONNX graphs, proved equal to torch on the golden frames before anything is kept.

onnxsim folds constants and is checked by its own random inputs and by ours. A graph that differs from torch by more
than rounding is a GateError: no bundle is written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.bundle import FEATURES, GOLDEN, HEAD
from mtkd_edge.errors import GateError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab.graph import ScoreHead
from mtkd_edge.score import ScoreSpec, oracle

OPSET = 18
TOLERANCE = 2e-3
"""Largest difference to torch, as a share of the largest value of the same output: rounding of deep networks."""
KEPT_FEATURES = 2
Arrays = dict[str, NDArray[np.float32]]


def write_graphs(
    folder: Path, features: nn.Module, spec: ScoreSpec, frame: FrameSpec, golden: NDArray[np.uint8]
) -> None:
    """features.onnx, head.onnx and golden.npz into `folder`. Raises GateError where a graph and torch disagree."""
    names = feature_names(spec)
    sample = torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8)
    _write(features, (sample,), folder / FEATURES, ["frames"], names)
    write_head(spec, folder / HEAD)
    reference = run_torch(features, golden, names)
    _compare("features.onnx", run_onnx(folder / FEATURES, {"frames": golden}, names), reference)
    write_golden(folder, spec, golden, reference)


def write_head(spec: ScoreSpec, path: Path) -> None:
    """head.onnx alone, at `path`."""
    pairs = tuple(torch.zeros(1, level.channels, level.height, level.width) for level in spec.levels) * 2
    _write(ScoreHead(spec), pairs, path, feature_names(spec), ["map", "score"])


def write_golden(folder: Path, spec: ScoreSpec, frames: NDArray[np.uint8], features: Arrays) -> None:
    """golden.npz beside head.onnx: frames [N, H, W, 3], their `features`, and the map and score by definition.

    Raises GateError where head.onnx makes something else of them.
    """
    names, count = feature_names(spec), len(spec.levels)
    maps, scores = oracle(spec, [features[n] for n in names[:count]], [features[n] for n in names[count:]])
    wanted = {"map": maps.astype(np.float32), "score": scores.astype(np.float32)}
    _compare("head.onnx", run_onnx(folder / HEAD, features, ["map", "score"]), wanted)
    kept = {name: value[:KEPT_FEATURES] for name, value in features.items()}
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, frames=frames, **wanted, **kept)


def feature_names(spec: ScoreSpec) -> list[str]:
    """All students in level order, then all references."""
    return [f"{side}_{level.name}" for side in ("student", "reference") for level in spec.levels]


@torch.no_grad()
def run_torch(features: nn.Module, frames: NDArray[np.uint8], names: Sequence[str], batch: int = 8) -> Arrays:
    """Frames [N, H, W, 3] through the torch graph -> float32 arrays by name."""
    device = next(features.parameters()).device
    parts = [features(torch.from_numpy(frames[i : i + batch]).to(device)) for i in range(0, len(frames), batch)]
    return {name: torch.cat([part[i] for part in parts]).cpu().numpy() for i, name in enumerate(names)}


def run_onnx(path: Path, feed: dict[str, NDArray[np.uint8]] | Arrays, names: Sequence[str]) -> Arrays:
    """One call of a graph on the CPU through ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), dict(feed)), strict=True))


def _write(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, taken: list[str], given: list[str]) -> None:
    module = module.cpu().eval()
    axes = {name: {0: "N"} for name in taken + given}
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # the tracer warns about each shape it freezes; the comparison below is what decides
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, inputs, path, input_names=taken, output_names=given, dynamic_axes=axes, opset_version=OPSET,
                dynamo=False,
            )  # fmt: skip
    finally:
        quiet.setLevel(level)
    simple, same = onnxsim.simplify(onnx.load(path), check_n=2, test_input_shapes={
        name: list(value.shape) for name, value in zip(taken, inputs, strict=True)
    })  # fmt: skip
    if not same:
        raise GateError(
            f"onnxsim changed what {path.name} computes", "report this with the versions of `mtkd-edge doctor`"
        )
    onnx.save(simple, path)


def _compare(what: str, got: Arrays, wanted: Arrays) -> None:
    for name, reference in wanted.items():
        value = got[name]
        if value.shape != reference.shape or not np.isfinite(value).all():
            raise GateError(f"{what}: {name} is {value.shape}, finite {bool(np.isfinite(value).all())}")
        worst = float(np.abs(value - reference).max()) / max(float(np.abs(reference).max()), 1e-6)
        if not worst <= TOLERANCE:  # NaN is not either
            raise GateError(
                f"{what}: {name} differs from torch by {worst:.2g} of its largest value, at most {TOLERANCE:g} allowed",
                "report this with the versions of `mtkd-edge doctor`",
            )
