"""The INT8 graph: where Q/DQ pairs are, what scales they have, and that the result is the same network."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper

from mtkd_edge import bundle
from mtkd_edge.errors import GateError, UsageError
from mtkd_edge.lab import calibrate, placement
from mtkd_edge.lab.check_qdq import View, check_qdq
from mtkd_edge.lab.qdq import activation_scales, weight_scales
from mtkd_edge.lab.quantise import quantise

FRAMES = tiny.normal_frames(8, seed=3)
PHOTOS = {f"{i}.png": "0" * 64 for i in range(len(FRAMES))}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, bundle.Manifest, calibrate.Calibration]:
    folder = tmp_path_factory.mktemp("bundle")
    manifest = tiny.make_bundle(folder)
    return folder, manifest, calibrate.calibrate(folder / bundle.FEATURES, FRAMES, PHOTOS)


def int8(made, tmp_path: Path, **options) -> onnx.ModelProto:
    quantise(made[0] / bundle.FEATURES, tmp_path / "int8.onnx", made[2], **options)
    return onnx.load(tmp_path / "int8.onnx")


def test_the_quantised_graph_is_the_same_network_within_a_few_per_cent(made, tmp_path):
    names = made[1].feature_names()
    frames = np.concatenate([tiny.normal_frames(4, seed=9), tiny.with_defects(tiny.normal_frames(4, seed=10))])
    before = tiny.run(onnx.load(made[0] / bundle.FEATURES), {"frames": frames}, names)
    after = tiny.run(int8(made, tmp_path), {"frames": frames}, names)
    for name, a, b in zip(names, before, after, strict=True):
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert 0 < error < 0.08, name


def test_pairs_are_where_the_rules_want_them(made, tmp_path):
    model = int8(made, tmp_path)
    assert check_qdq(model) == []
    view = View(model)
    feeds = collections.defaultdict(collections.Counter)
    for node in model.graph.node:
        slots = view.wiring.activations(node)
        feeds[node.op_type]["+".join(sorted("DQ" if view.quantised(node.input[s]) else "float" for s in slots))] += 1
    assert feeds["Conv"] == {"DQ+DQ": 19}  # the activation and the weight of each
    assert feeds["Add"] == {"DQ+float": 2}
    assert feeds["Relu"].keys() == feeds["Clip"].keys() == feeds["Resize"].keys() == {"float"}
    assert feeds["MaxPool"] == {"DQ": 1}
    # one Concat goes straight into a convolution, the other into the Resize, which stays float
    assert feeds["Concat"] == {"DQ+DQ": 1, "float+float": 1}
    for kind in ("Cast", "Transpose", "Sub", "Div"):
        assert feeds[kind] == {"float": 1}, f"{kind} belongs to the normalisation"
    pairs = collections.Counter(node.op_type for node in model.graph.node)
    assert pairs["QuantizeLinear"] == pairs["DequantizeLinear"] == 36


def test_input_and_outputs_keep_names_and_types(made, tmp_path):
    old, new = onnx.load(made[0] / bundle.FEATURES), int8(made, tmp_path)
    assert list(new.graph.input) == list(old.graph.input)
    assert list(new.graph.output) == list(old.graph.output)


def test_a_concat_and_a_max_pool_share_the_scale_of_their_inputs(made, tmp_path):
    view = View(int8(made, tmp_path))
    for kind in ("Concat", "MaxPool"):
        node = next(n for n in view.nodes(kind) if view.quantised(n.input[0]))
        after = next(u for u in view.wiring.users[node.output[0]] if u.op_type == "QuantizeLinear")
        scales = {float(view.scale(name)) for name in node.input} | {float(view.values[after.input[1]])}
        assert len(scales) == 1


def test_excluded_layers_stay_float_and_the_graph_stays_clean(made, tmp_path):
    tails = placement.last_layers(onnx.load(made[0] / bundle.FEATURES))
    assert sorted(tails) == ["/reference_coarse", "/reference_fine", "/student_coarse", "/student_fine"]
    model = int8(made, tmp_path, exclude=tails)
    view = View(model)
    for node in view.nodes("Conv"):
        assert view.quantised(node.input[0]) == (node.name not in tails)
    assert check_qdq(model) == []


def test_every_single_layer_can_be_excluded(made, tmp_path):
    for node in onnx.load(made[0] / bundle.FEATURES).graph.node:
        int8(made, tmp_path, exclude=[node.name])  # raises GateError where the linter is not content


def test_groups_asked_for_get_one_scale_the_widest(made, tmp_path):
    ranges = made[2].ranges
    view = View(int8(made, tmp_path, equal=[("trunk", "div3")]))
    scales = {float(view.values[f"{name}_scale"]) for name in ("trunk", "div3")}
    assert scales == {float(np.float32(max(abs(v) for n in ("trunk", "div3") for v in ranges[n]) / 127))}


def test_weights_are_rounded_per_output_channel_and_never_saturate(made, tmp_path):
    view = View(int8(made, tmp_path))
    for node in view.nodes("Conv"):
        weight = view.values[view.source(node.input[1])]
        scale = view.values[view.wiring.maker[node.input[1]].input[1]].reshape(-1, 1, 1, 1)
        assert np.abs(weight / scale).max() <= 127.001
        if weight.shape[1] == 1:
            np.testing.assert_allclose(np.abs(weight).max((1, 2, 3)) / 127, scale.ravel(), rtol=1e-6)


def test_no_two_weights_that_are_multiplied_together_overflow_16_bits(made, tmp_path):
    """vpmaddubsw adds two products with activations up to 255 and saturates: the weights' sum stays within 128."""
    view, fullest = View(int8(made, tmp_path)), 0.0
    for node in view.nodes("Conv"):
        weight = view.values[view.source(node.input[1])]
        whole = np.rint(weight / view.values[view.wiring.maker[node.input[1]].input[1]].reshape(-1, 1, 1, 1))
        for first in range(0, weight.shape[1], 2):
            for sign in (1, -1):
                fullest = max(fullest, float(np.maximum(sign * whole[:, first : first + 2], 0).sum(1).max()))
    assert 126 <= fullest <= 128
    assert weight_scales(np.float32([[1, 1], [1, -1]]), 0) == pytest.approx([2 / 127, 1 / 127])


def test_a_dead_tensor_or_channel_gets_a_scale_that_every_runtime_takes():
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[1, 0] = 1.27
    np.testing.assert_allclose(weight_scales(weight, 0), [1, 0.01], rtol=1e-6)
    place = placement.Placement({"dead": (), "low": ()}, {}, ())
    assert activation_scales(place, {"dead": (0.0, 0.0), "low": (-2.54, 1.0)}) == {"dead": 1.0, "low": 0.02}


def test_names_that_are_not_in_the_graph_are_refused(made, tmp_path):
    with pytest.raises(UsageError, match="has no /nowhere"):
        int8(made, tmp_path, exclude=["/nowhere"])
    with pytest.raises(UsageError, match="has no nothing"):
        int8(made, tmp_path, equal=[("trunk", "nothing")])
    assert not (tmp_path / "int8.onnx").exists()


def test_ranges_of_another_graph_are_refused(made, tmp_path):
    tiny.make_bundle(tmp_path / "other", seed=5)
    with pytest.raises(UsageError, match="belongs to another graph"):
        quantise(tmp_path / "other" / bundle.FEATURES, tmp_path / "int8.onnx", made[2])


def test_a_graph_with_an_unfolded_norm_is_refused(made, tmp_path):
    model = onnx.load(made[0] / bundle.FEATURES)
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    parameters = [numpy_helper.from_array(np.ones(8, "f4"), f"bn{i}") for i in range(4)]
    model.graph.initializer.extend(parameters)
    at = list(model.graph.node).index(node) + 1
    users = [n for n in model.graph.node if node.output[0] in n.input]
    users[0].input[0] = "bn"
    names = [p.name for p in parameters]
    model.graph.node.insert(at, onnx.helper.make_node("BatchNormalization", [node.output[0], *names], ["bn"], "/bn"))
    onnx.save(model, tmp_path / "bn.onnx")
    found = calibrate.calibrate(tmp_path / "bn.onnx", FRAMES[:1], {"0.png": "0"})
    with pytest.raises(GateError, match=r"/bn: not folded into /conv4; run onnxsim"):
        quantise(tmp_path / "bn.onnx", tmp_path / "int8.onnx", found)


def products(transposed: int, rows: int) -> onnx.ModelProto:
    """x -> Gemm -> MatMul -> y, with `rows` features between the two."""
    weights = {
        "g": np.ones((rows, 32) if transposed else (32, rows), np.float32),
        "b": np.ones(rows, np.float32),
        "m": np.ones((rows, 20), np.float32),
    }
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "g", "b"], ["h"], "gemm", transB=transposed),
        onnx.helper.make_node("MatMul", ["h", "m"], ["y"], "matmul"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [value("x", 1, ["N", 32])],
        [value("y", 1, ["N", 20])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("transposed", "axis"), [(1, 0), (0, 1)])
def test_matrix_products_are_quantised_along_their_outputs_unless_they_are_small(transposed, axis):
    found = placement.place(products(transposed, 24)).weights
    assert found == {placement.Edge(0, 1): axis, placement.Edge(1, 1): 1}
    assert placement.place(products(transposed, 8)).weights == {}


def test_a_weight_used_twice_is_quantised_once(made, tmp_path):
    model = products(1, 32)
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Gemm", ["h", "g", "b"], ["y"], "again", transB=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 32
    onnx.save(model, tmp_path / "shared.onnx")
    digest = bundle.sha256(tmp_path / "shared.onnx")
    ranges = {"x": (-1.0, 1.0), "h": (-32.0, 33.0)}
    quantise(
        tmp_path / "shared.onnx",
        tmp_path / "int8.onnx",
        made[2].__class__(graph=digest, method="minmax", seed=0, frames=1, versions={}, ranges=ranges, photos={}),
    )
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert kinds["QuantizeLinear"] == 3


def test_groups_with_a_common_member_become_one():
    assert set(placement.merge([{"a", "b"}, {"c"}, {"b", "d"}, {"e", "c"}])) == {frozenset("abd"), frozenset("ce")}
