"""Bias correction: measured by layer, independent of the other layers, and worth its few numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper, numpy_helper

from mtkd_edge import bundle
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.correct import correct, mean_errors
from mtkd_edge.lab.placement import place
from mtkd_edge.lab.qdq import activation_scales, insert
from mtkd_edge.lab.quantise import quantise

FRAMES = tiny.normal_frames(8, seed=3)
PHOTOS = {f"{i}.png": "0" * 64 for i in range(len(FRAMES))}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, calibrate.Calibration]:
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    return folder / bundle.FEATURES, calibrate.calibrate(folder / bundle.FEATURES, FRAMES, PHOTOS)


def test_every_quantised_convolution_has_a_correction_of_every_channel(made):
    graph, found = made
    model = onnx.load(graph)
    weights = {i.name: i.dims for i in model.graph.initializer}
    wanted = {n.output[0]: weights[n.input[1]][0] for n in model.graph.node if n.op_type == "Conv"}
    assert {name: len(values) for name, values in found.corrections.items()} == wanted


def test_the_correction_of_the_first_layer_is_what_one_computes_by_hand(made):
    """Its input is the same in both graphs, so here the difference of the whole graphs is that of the layer."""
    graph, found = made
    model, quantised = onnx.load(graph), onnx.load(graph)
    placement = place(quantised)
    insert(quantised, placement, activation_scales(placement, found.ranges))
    outputs = []
    for m in (model, quantised):
        m.graph.output.append(onnx.ValueInfoProto(name="conv4"))
        outputs.append(tiny.run(m, {"frames": FRAMES}, ["conv4"])[0])
    by_hand = (outputs[0] - outputs[1]).mean((0, 2, 3))
    # a channel whose error is next to nothing is right to a hundredth of the largest
    near = 0.01 * np.abs(by_hand).max()
    np.testing.assert_allclose(mean_errors(graph, found.ranges, [FRAMES])["conv4"], by_hand, rtol=0.05, atol=near)


def test_a_correction_takes_the_mean_off_the_error(made, tmp_path):
    """The layer behind it, quantised alone, is right on average afterwards."""
    graph, found = made
    name, others = "conv35", [n.name for n in onnx.load(graph).graph.node if n.name not in ("/conv35", "/trunk")]
    errors = []
    for corrections in ({}, mean_errors(graph, found.ranges, [FRAMES])):
        model = onnx.load(graph)
        placement = place(model, others)
        correct(model, corrections, [edge.node for edge in placement.weights])
        insert(model, placement, activation_scales(placement, found.ranges))
        values = []
        for m in (onnx.load(graph), model):
            m.graph.output.append(onnx.ValueInfoProto(name=name))
            values.append(tiny.run(m, {"frames": FRAMES}, [name])[0])
        errors.append(np.abs((values[0] - values[1]).mean((0, 2, 3))).max())
    assert errors[0] > 1e-3
    assert errors[1] < errors[0] / 100


def test_a_corrected_graph_is_closer_to_the_float_one(made, tmp_path):
    graph, found = made
    frames = np.concatenate([tiny.normal_frames(6, seed=20), tiny.with_defects(tiny.normal_frames(6, seed=21))])
    names = [o.name for o in onnx.load(graph).graph.output]
    wanted = tiny.run(onnx.load(graph), {"frames": frames}, names)
    errors = []
    for corrections in ({}, found.corrections):
        plain = calibrate.Calibration(**{f: getattr(found, f) for f in found.__struct_fields__ if f != "corrections"},
                                      corrections=corrections)  # fmt: skip
        quantise(graph, tmp_path / "int8.onnx", plain)
        values = tiny.run(onnx.load(tmp_path / "int8.onnx"), {"frames": frames}, names)
        errors.append(sum(np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(wanted, values, strict=True)))
    assert errors[1] < errors[0]


def test_layers_that_stay_float_keep_their_bias(made, tmp_path):
    graph, found = made
    quantise(graph, tmp_path / "int8.onnx", found, exclude=["/student_fine"])
    before, after = onnx.load(graph), onnx.load(tmp_path / "int8.onnx")

    def bias(model: onnx.ModelProto, name: str) -> np.ndarray:
        node = next(n for n in model.graph.node if n.name == name)
        return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == node.input[2]))

    np.testing.assert_array_equal(bias(before, "/student_fine"), bias(after, "/student_fine"))
    moved = bias(after, "/student_coarse") - bias(before, "/student_coarse")
    np.testing.assert_allclose(moved, found.corrections["student_coarse"], atol=1e-6)
    assert "const50" in {i.name for i in before.graph.initializer}
    unused = {i.name for i in after.graph.initializer} - {name for n in after.graph.node for name in n.input}
    assert not unused


def test_a_layer_without_a_bias_gets_one_and_a_gemm_is_corrected_too(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "w": rng.standard_normal((16, 3, 64, 64)).astype("f4") / 64,
        "g": rng.standard_normal((16, 16)).astype("f4"),
        "shape": np.array([-1, 16], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], "cast", to=1),
        helper.make_node("Transpose", ["float"], ["x"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Reshape", ["c", "shape"], ["flat"], "reshape"),
        helper.make_node("Gemm", ["flat", "g"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", 2, ["N", 64, 64, 3])],
        [helper.make_tensor_value_info("y", 1, ["N", 16])],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    found = calibrate.calibrate(path, FRAMES, PHOTOS)
    assert {name: len(values) for name, values in found.corrections.items()} == {"c": 16, "y": 16}
    quantise(path, tmp_path / "int8.onnx", found)
    nodes = {n.name: n for n in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert [nodes[name].input[2] for name in ("conv", "gemm")] == ["c_bias", "y_bias"]
