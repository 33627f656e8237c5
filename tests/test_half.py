"""Half precision in the file: the same network within FP16's digits, with FP32 pixels and FP32 outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, numpy_helper

from mtkd_edge import bundle
from mtkd_edge.device.engines import _trt_build
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import GateError
from mtkd_edge.lab.half import halve, normalisation

FRAMES = np.concatenate([tiny.normal_frames(3, seed=9), tiny.with_defects(tiny.normal_frames(3, seed=10))])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    halve(folder / bundle.FEATURES, folder / "half.onnx")
    return folder / bundle.FEATURES, folder / "half.onnx"


def test_the_half_precision_graph_is_the_same_network(made):
    names = [output.name for output in onnx.load(made[0]).graph.output]
    before, after = (tiny.run(onnx.load(path), {"frames": FRAMES}, names) for path in made)
    for name, a, b in zip(names, before, after, strict=True):
        assert b.dtype == np.float32
        assert 0 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.005, name


def test_input_and_outputs_keep_names_and_types(made):
    old, new = (onnx.load(path).graph for path in made)
    assert list(new.input) == list(old.input)
    assert list(new.output) == list(old.output)


def test_every_weight_is_half_and_the_pixels_are_normalised_in_fp32(made):
    graph = onnx.load(made[1]).graph
    types = {value.name: value.data_type for value in graph.initializer}
    assert {types[name] for n in graph.node if n.op_type == "Conv" for name in n.input[1:]} == {TensorProto.FLOAT16}
    assert {types[n.input[1]] for n in graph.node if n.op_type in ("Sub", "Div")} == {TensorProto.FLOAT}
    assert [types[n.input[2]] for n in graph.node if n.op_type == "Resize"] == [TensorProto.FLOAT]
    assert normalisation(onnx.load(made[0]).graph) >= {"frames", "cast0", "transpose1", "sub2", "div3"}
    casts = [n for n in graph.node if n.op_type == "Cast"]
    assert len(casts) == 1 + 1 + 4  # pixels to float, float to half once for all networks, outputs back


def test_a_weight_beyond_half_precision_is_refused_by_name(made, tmp_path):
    model = onnx.load(made[0])
    value = next(i for i in model.graph.initializer if tuple(i.dims) == (12,))
    value.CopyFrom(numpy_helper.from_array(np.full(12, 1e5, np.float32), value.name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(GateError, match=f"{value.name} holds 100000, FP16 ends at 65504"):
        halve(tmp_path / "large.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_nvidias_builder_takes_it(made):
    rtx = pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    order = _trt_build.Order(Batch(1, 1, 2), TensorrtRecipe(workspace_mib=64), exact=False)
    assert len(_trt_build.build_plan(rtx, made[1], order)) > 10_000


def test_an_output_that_another_node_reads_is_rewired(tmp_path):
    nodes = [
        onnx.helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Conv", ["x", "w"], ["a"]),
        onnx.helper.make_node("Relu", ["a"], ["b"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", 8, 8, 3])],
        [onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, 8, 8]) for n in ("a", "b")],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), "f4") / 64, "w")],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), tmp_path / "a"
    )
    halve(tmp_path / "a", tmp_path / "b")
    a, b = tiny.run(onnx.load(tmp_path / "b"), {"frames": np.full((1, 8, 8, 3), 64, np.uint8)}, ["a", "b"])
    assert (a == 3).all()
    assert (b == 3).all()


def test_a_constant_of_both_sides_is_kept_in_both_precisions(tmp_path):
    """The 0 of a Pad before the first convolution and that of the Clip behind it are one constant after onnxsim."""
    nodes = [
        onnx.helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0.5), "value")),
        onnx.helper.make_node("Pad", ["x", "sides", "zero"], ["padded"]),
        onnx.helper.make_node("Conv", ["padded", "w"], ["a"], strides=[3, 3]),
        onnx.helper.make_node("Clip", ["a", "zero"], ["b"]),
        onnx.helper.make_node("Clip", ["b", "zero"], ["c"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", 8, 8, 3])],
        [onnx.helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, 3, 3])],
        [
            numpy_helper.from_array(np.ones((4, 3, 3, 3), "f4") / 64, "w"),
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), "sides"),
        ],
    )
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "a")
    halve(tmp_path / "a", tmp_path / "b")
    frames = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    before, after = (tiny.run(onnx.load(tmp_path / name), {"frames": frames}, ["c"])[0] for name in "ab")
    np.testing.assert_allclose(before, after, rtol=2e-3)
    made = onnx.load(tmp_path / "b").graph
    kinds = {value.name: value.data_type for value in made.initializer}
    assert kinds["zero_half"] == TensorProto.FLOAT16
    assert [node.input[1] for node in made.node if node.op_type == "Clip"] == ["zero_half"] * 2
