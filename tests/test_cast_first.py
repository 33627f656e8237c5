"""Pixels are cast before they are transposed, which is the order that TensorRT's parser takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from mtkd_edge import bundle
from mtkd_edge.device.engines import _trt_build
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import BackendError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab import calibrate, export
from mtkd_edge.lab.cast_first import cast_first
from mtkd_edge.lab.check_qdq import check_qdq
from mtkd_edge.lab.half import halve
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.score import Level, ScoreSpec

FRAMES = tiny.normal_frames(4, 32)
SPEC = ScoreSpec((Level("a", "squared", 16, 16, 16, 1.0),), 32, 32, 1.0, 0.1)
ORDER = _trt_build.Order(Batch(1, 1, 2), TensorrtRecipe(workspace_mib=64), exact=False)


class Features(nn.Module):
    """As the methods write it: permute, then float."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = (nn.Conv2d(3, 16, 3, 2, 1) for _ in range(2))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        pixels = frames.permute(0, 3, 1, 2).float()
        return self.student((pixels - 127.5) / 64), self.teacher((pixels - 100) / 50)


def transposed_first() -> onnx.ModelProto:
    """What the exporter makes of it, before `cast_first`, twice read and twice cast."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Transpose", ["frames"], ["t"], "/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x"], "/Cast", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["t"], ["x2"], "/Cast_1", to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "x2"], ["y"], "/Add"),
    ]
    shapes = value("frames", TensorProto.UINT8, ["N", 4, 4, 3]), value("y", TensorProto.FLOAT, ["N", 3, 4, 4])
    graph = helper.make_graph(nodes, "g", [shapes[0]], [shapes[1]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_turned_graph_computes_the_same_and_keeps_its_names() -> None:
    model, frames = transposed_first(), np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert "Transpose reads the uint8 input 'frames'; wanted a Cast first" in check_qdq(model)[0]
    before = tiny.run(model, {"frames": frames}, ["y"])[0]
    assert cast_first(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Transpose", "Add"]
    assert list(model.graph.node[2].input) == ["x", "x"], "ranges of x, measured before, are still those of x"
    np.testing.assert_array_equal(tiny.run(model, {"frames": frames}, ["y"])[0], before)
    assert check_qdq(model) == []
    assert not cast_first(model), "there is nothing left to turn"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    export.write_graphs(folder, Features(), SPEC, FrameSpec(32, 32), FRAMES)
    return folder


def test_what_the_exporter_writes_reads_its_pixels_by_a_cast(exported: Path) -> None:
    graph = onnx.load(exported / bundle.FEATURES).graph
    assert [node.op_type for node in graph.node if "frames" in node.input] == ["Cast"]


def test_nvidias_builder_takes_every_graph_we_make_of_a_torch_model(exported: Path, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    source = exported / bundle.FEATURES
    found = calibrate.calibrate(source, FRAMES, {str(i): "0" for i in range(len(FRAMES))})
    quantise(source, tmp_path / "int8.onnx", found)
    halve(source, tmp_path / "fp16.onnx")
    for graph in (source, tmp_path / "int8.onnx", tmp_path / "fp16.onnx", exported / bundle.HEAD):
        assert len(_trt_build.build_plan(rtx, graph, ORDER)) > 1000


def test_nvidias_parser_refuses_the_other_order(tmp_path: Path) -> None:
    """The reason for all this; a parser that learns it makes the file needless."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    onnx.save(transposed_first(), tmp_path / "g.onnx")
    with pytest.raises(BackendError, match="UInt8"):
        _trt_build.build_plan(rtx, tmp_path / "g.onnx", ORDER)


def test_bundles_of_before_are_turned_when_they_are_quantised_or_halved(tmp_path: Path) -> None:
    model = onnx.load(_old_bundle(tmp_path))
    frames = tiny.normal_frames(2)
    found = calibrate.calibrate(tmp_path / "old.onnx", frames, {"0": "0", "1": "1"})
    quantise(tmp_path / "old.onnx", tmp_path / "int8.onnx", found)
    halve(tmp_path / "old.onnx", tmp_path / "fp16.onnx")
    assert any(node.op_type == "Transpose" and "frames" in node.input for node in model.graph.node)
    for name in ("int8.onnx", "fp16.onnx"):
        nodes = onnx.load(tmp_path / name).graph.node
        assert [node.op_type for node in nodes if "frames" in node.input] == ["Cast"]


def _old_bundle(folder: Path) -> Path:
    """The tiny bundle's graph with its first two nodes the other way round."""
    tiny.make_bundle(folder / "bundle")
    model = onnx.load(folder / "bundle" / bundle.FEATURES)
    cast, transpose = model.graph.node[:2]
    transpose.input[0], cast.input[0] = "frames", "t"
    transpose.output[0], cast.output[0] = "t", transpose.output[0]
    nodes = [transpose, cast, *model.graph.node[2:]]
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(made)
    onnx.save(model, folder / "old.onnx")
    return folder / "old.onnx"
