"""What a frame costs: sums one can do by hand, equal to OpenVINO's own count, told apart by name or by output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from mtkd_edge import bundle
from mtkd_edge.cli import app
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import BundleError
from mtkd_edge.lab.explain import Explanation, Share, as_int8, explain, node_costs, scope


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(made)
    return made


def graphs(folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return onnx.load(folder / bundle.FEATURES), onnx.load(folder / bundle.HEAD)


def by_name(shares: tuple[Share, ...]) -> dict[str, Share]:
    return {share.name: share for share in shares}


def little() -> onnx.ModelProto:
    """frames [N, 8, 8, 3] -> Cast, Transpose, Conv 3 -> 4 of 3 x 3, Relu, Conv 4 -> 2 of 1 x 1."""
    value = helper.make_tensor_value_info
    weights = {"w": (4, 3, 3, 3), "b": (4,), "v": (2, 4, 1, 1)}
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], "/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], "/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "/mix/teachers.1/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "/mix/teachers.1/act/Relu"),
        helper.make_node("Conv", ["r", "v"], ["reference_a"], "/mix/align/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "little",
        [value("frames", TensorProto.UINT8, ["N", 8, 8, 3])],
        [value("reference_a", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def empty() -> onnx.ModelProto:
    graph = helper.make_graph([], "empty", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_sums_are_those_one_does_by_hand() -> None:
    found = explain(little(), empty(), ["first", "second"])
    parts = by_name(found.parts)
    assert found.by == "names"
    assert list(parts) == ["frame", "teacher second", "mix"]
    teacher, mix, frame = parts["teacher second"], parts["mix"], parts["frame"]
    assert (teacher.macs, teacher.parameters, teacher.weight_bytes) == (64 * 4 * 27, 4 * 27 + 4, 4 * (4 * 27 + 4))
    # the convolution is fused with its Relu, which alone writes; the first two nodes write the picture in FP32
    assert (teacher.activation_bytes, mix.activation_bytes, frame.activation_bytes) == (4 * 256, 4 * 128, 2 * 4 * 192)
    assert (mix.macs, mix.parameters) == (64 * 2 * 4, 8)
    assert found.total.macs == teacher.macs + mix.macs
    assert found.total.macs_share == pytest.approx(1) == sum(part.macs_share for part in found.parts)
    assert sum(part.bytes_share for part in found.parts) == pytest.approx(1)


def test_half_precision_halves_every_byte_and_no_operation() -> None:
    full, half = explain(little(), empty(), []), explain(little(), empty(), [], "fp16")
    assert half.total.macs == full.total.macs
    assert 2 * half.total.weight_bytes == full.total.weight_bytes
    assert 2 * half.total.activation_bytes == full.total.activation_bytes
    assert [share.name for share in half.precisions] == ["fp16"]


def test_the_operations_are_those_that_openvino_counts(folder: Path) -> None:
    with OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD) as engine:
        assert explain(*graphs(folder), []).total.macs == engine.macs()


def test_int8_stores_a_byte_a_weight_and_says_what_share_of_the_work_it_does(folder: Path) -> None:
    features, head = graphs(folder)
    plain, quantised = explain(features, head, []), explain(as_int8(features), head, [])
    assert quantised.total.macs == plain.total.macs
    assert quantised.total.parameters == plain.total.parameters
    int8 = by_name(quantised.precisions)["int8"]
    costs = [cost for cost in node_costs(as_int8(features), "fp32") if cost.precision == "int8" and cost.macs]
    done = sum(cost.macs for cost in costs)
    assert 0 < int8.macs == done < plain.total.macs
    # biases stay float, the weights beside them take a quarter
    saved = plain.total.weight_bytes - quantised.total.weight_bytes
    inputs = {node.name: node.input[1] for node in features.graph.node if node.op_type == "Conv"}
    weights = sum(initializer(features, inputs[cost.node]).size for cost in costs)
    assert saved == 3 * weights > 0
    assert features == onnx.load(folder / bundle.FEATURES), "the caller's graph is left alone"


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(value for value in model.graph.initializer if value.name == name))


def test_without_scopes_the_outputs_tell_the_parts_apart(folder: Path) -> None:
    found = explain(*graphs(folder), ["residual", "mobile"])
    assert found.by == "outputs"
    parts = by_name(found.parts)
    assert parts.keys() == {"shared", "reference", "student", "head"}
    assert min(parts["reference"].macs, parts["student"].macs) > 1_000_000
    assert parts["shared"].macs == 0, "both sides share the normalisation and nothing else"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("/mix/teachers.0/trunk/conv1/Conv", "teacher first"),
        ("/teachers.1/net/fc/Gemm", "teacher second"),
        ("/mix/teachers.7/conv/Conv", "mix"),
        ("/mix/_registered.0/Conv", "mix"),
        ("/student/trunk/Conv", "student"),
        ("/nets/decoder/start/Gemm", "decoder"),
        ("/autoencoders.0/project/Conv", "autoencoder"),
        ("/Cast", "frame"),
    ],
)
def test_a_scope_names_its_part(name: str, part: str) -> None:
    assert scope(name, ["first", "second"]) == part


def test_a_shape_that_depends_on_the_pixels_is_refused() -> None:
    model = little()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(BundleError, match="depends on more than the batch"):
        explain(model, empty(), [])


def test_the_command_builds_nothing_and_takes_runs_and_engines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["build-engine", str(folder), "--explain", "--int8", "--target", "cpu"]) == 0
    out = capfd.readouterr().out
    assert "in int8" in out and "parts are the outputs" in out
    assert list(tmp_path.iterdir()) == []
    assert app.run(["build-engine", str(folder), "--explain", "--fp32", "--target", "cpu", "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert value["precision"] == "fp32"
    total = value["explanation"]["total"]
    assert total["macs"] == sum(part["macs"] for part in value["explanation"]["parts"])
    assert Explanation.__struct_fields__ == tuple(value["explanation"])
