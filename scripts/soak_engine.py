"""The soak's engine: a real OpenVINO engine of two small graphs, whose score is the brightness of the brightest cell.

The map is the squared mean brightness, 0 to 1, of cells of 8 x 8 pixels: a soak is about everything around the network,
and with this one a defect is a defect in every frame, whatever the codec does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtkd_edge import __version__, bundle
from mtkd_edge.bundle import EngineManifest, Manifest
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.threshold import Threshold

SIDE, CELLS = 64, 8
GRID: list[str | int] = ["N", 1, CELLS, CELLS]
MADE = "2026-01-01T00:00:00Z"


def build(folder: Path) -> Path:
    """A complete engine folder, ready to be watched with."""
    folder.mkdir(parents=True)
    onnx.save(_features(), folder / bundle.FEATURES)
    onnx.save(_head(), folder / bundle.HEAD)
    frames = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    frames[1, 16:24, 40:48] = 255
    maps = (frames.reshape(2, CELLS, 8, CELLS, 8, 3).mean((2, 4, 5)) / 255) ** 2
    np.savez(folder / bundle.GOLDEN, frames=frames, map=maps.astype("f4"), score=maps.max((1, 2)).astype("f4"))
    files = bundle.seal(folder)
    levels = (Level("cell", "squared", 1, CELLS, CELLS, 1.0),)
    model = Manifest(
        name="soak",
        method="map",
        created=MADE,
        version=__version__,
        seed=0,
        frame=FrameSpec(SIDE, SIDE),
        score=ScoreSpec(levels, CELLS, CELLS, 0.0, 0.01),
        teachers=(),
        student="brightness",
        photos=0,
        held_out=0,
        files=files,
    )
    engine = EngineManifest(
        target="cpu",
        backend="openvino",
        precision="fp32",
        batch=(1, 1, 4),
        created=MADE,
        model=model,
        built={"hint": "latency", "threads": "1"},
        gate={},
        calibration="",
        files=files,
    )
    bundle.save(folder, engine, Threshold(0.3, 0.3, "manual", 0.01, 0))
    return folder


def _features() -> onnx.ModelProto:
    weights = {"axes": np.array([1], np.int64), "white": np.float32(255), "zero": np.float32(0)}
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Div", ["cells", "white"], ["student_cell"]),
        helper.make_node("Mul", ["cells", "zero"], ["reference_cell"]),
    ]
    outputs = {"student_cell": GRID, "reference_cell": GRID}
    return _model(nodes, {"frames": (TensorProto.UINT8, ["N", SIDE, SIDE, 3])}, outputs, weights)


def _head() -> onnx.ModelProto:
    weights = {"flat": np.array([-1, CELLS, CELLS], np.int64)}
    nodes = [
        helper.make_node("Sub", ["student_cell", "reference_cell"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("Reshape", ["squared", "flat"], ["map"]),
        helper.make_node("ReduceMax", ["map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    inputs = dict.fromkeys(("student_cell", "reference_cell"), (TensorProto.FLOAT, GRID))
    outputs: dict[str, list[str | int]] = {"map": ["N", CELLS, CELLS], "score": ["N"]}
    return _model(nodes, inputs, outputs, weights)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list[str | int]]],
    outputs: Mapping[str, list[str | int]],
    weights: Mapping[str, Any],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "soak",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
