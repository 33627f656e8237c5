"""The linter of quantised graphs: a clean graph passes, and every rule has a graph that only it complains about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mtkd_edge.lab.check_qdq import check_qdq

Change = Callable[["Net"], None]


class Net:
    """x -> Q/DQ -> conv1 -> relu -> Q/DQ -> conv2 -+-> add -> y, and relu's Q/DQ again as the residual of add.

    conv1 and relu also make, with Q/DQ of one scale, the two inputs of a Concat.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.values = {"s": np.float32(0.05), "z": np.int8(0)}
        self.nodes: list[onnx.NodeProto] = []
        self.domains = [helper.make_opsetid("", 17)]
        for name in ("w1", "w2"):
            self.values |= {
                name: rng.standard_normal((4, 4, 3, 3)).astype("f4"),
                f"{name}_s": np.full(4, 0.06, "f4"),
                f"{name}_z": np.zeros(4, np.int8),
            }
            self.pair(name, f"{name}_s", f"{name}_z", axis=0)
        self.pair("x", "s", "z")
        self.op("Conv", "x_d", "w1_d", out="conv1", pads=[1] * 4)
        self.op("Relu", "conv1", out="relu")
        self.pair("relu", "s", "z")
        self.op("Conv", "relu_d", "w2_d", out="conv2", pads=[1] * 4)
        self.op("Add", "conv2", "relu_d", out="add")
        self.pair("add", "s", "z")
        self.op("Concat", "relu_d", "add_d", out="y", axis=1)

    def op(self, kind: str, *inputs: str, out: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))

    def pair(self, name: str, scale: str, zero: str, **axis: int) -> None:
        self.op("QuantizeLinear", name, scale, zero, out=f"{name}_q", **axis)
        self.op("DequantizeLinear", f"{name}_q", scale, zero, out=f"{name}_d", **axis)

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def retype(self, name: str, **values: np.ndarray) -> None:
        """Give one Q/DQ pair its own scale `s` or zero point `z`."""
        for key, value in values.items():
            self.values[f"{name}_{key}2"] = value
            for end in ("_q", "_d"):
                self.node(name + end).input[{"s": 1, "z": 2}[key]] = f"{name}_{key}2"

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.values.items()],
        )
        return helper.make_model(graph, opset_imports=self.domains, ir_version=9)


def computed_scale(net: Net) -> None:
    net.nodes.insert(0, helper.make_node("Relu", ["s"], ["s_made"], name="s_made"))
    net.node("x_q").input[1] = "s_made"


def no_zero_point(net: Net) -> None:
    del net.node("x_q").input[2]


def per_channel_activation(net: Net) -> None:
    net.retype("x", s=np.full(4, 0.05, "f4"), z=np.zeros(4, np.int8))


def weight_axis(net: Net) -> None:
    for end in ("_q", "_d"):
        net.node("w1" + end).attribute[0].i = 1


def quantised_bias(net: Net) -> None:
    net.values |= {"b": np.zeros(4, np.int32), "b_s": np.full(4, 0.01, "f4"), "b_z": np.zeros(4, np.int8)}
    net.nodes.insert(0, helper.make_node("DequantizeLinear", ["b", "b_s", "b_z"], ["b_d"], name="b_d", axis=0))
    net.node("conv1").input.append("b_d")


def unfolded_norm(net: Net) -> None:
    net.values |= {f"bn{i}": np.ones(4, "f4") for i in range(4)}
    at = net.nodes.index(net.node("relu"))
    net.nodes.insert(at, helper.make_node("BatchNormalization", ["conv1", *(f"bn{i}" for i in range(4))], ["bn"], "bn"))
    net.node("relu").input[0] = "bn"


def split_relu(net: Net) -> None:
    at = net.nodes.index(net.node("relu"))
    net.nodes[at:at] = [
        helper.make_node("QuantizeLinear", ["conv1", "s", "z"], ["conv1_q"], name="conv1_q"),
        helper.make_node("DequantizeLinear", ["conv1_q", "s", "z"], ["conv1_d"], name="conv1_d"),
    ]
    net.node("relu").input[0] = "conv1_d"


def fine_weights(net: Net) -> None:
    net.values["w1_s"] = np.full(4, 0.02, "f4")


def both_sides_of_add(net: Net) -> None:
    at = net.nodes.index(net.node("add"))
    net.nodes[at:at] = [
        helper.make_node("QuantizeLinear", ["conv2", "s", "z"], ["conv2_q"], name="conv2_q"),
        helper.make_node("DequantizeLinear", ["conv2_q", "s", "z"], ["conv2_d"], name="conv2_d"),
    ]
    net.node("add").input[0] = "conv2_d"


def no_side_of_add(net: Net) -> None:
    net.node("add").input[1] = "relu"


def concat_scales(net: Net) -> None:
    net.retype("add", s=np.float32(0.07))


def half_a_concat(net: Net) -> None:
    net.node("y").input[1] = "add"


def foreign_domain(net: Net) -> None:
    net.domains.append(helper.make_opsetid("com.microsoft", 1))


FAULTS: list[tuple[Change, str]] = [
    (computed_scale, "x_q: 's_made' is computed; scales and zero points must be constants"),
    (no_zero_point, "x_q: no zero point, which means uint8; wanted int8 zeros"),
    (lambda net: net.retype("x", z=np.uint8(0)), "x_q: zero point of type uint8; wanted int8"),
    (lambda net: net.retype("x", z=np.int8(3)), "x_q: zero point 3; wanted 0"),
    (lambda net: net.retype("x", s=np.float32(0)), "x_q: scale 0.0 is not positive and finite"),
    (lambda net: net.retype("x", s=np.float32("nan")), "x_q: scale nan is not positive and finite"),
    (per_channel_activation, "x_q: 4 scales on the activation 'x'; wanted one"),
    (weight_axis, "conv1: weight scales along axis 1; wanted 0"),
    (fine_weights, "conv1: two weights add up to 169, which overflows 16 bits without VNNI; wanted 128"),
    (quantised_bias, "b_d: dequantises int32; wanted int8, and biases left in floating point"),
    (unfolded_norm, "bn: not folded into conv1; run onnxsim before quantising"),
    (split_relu, "relu: Q/DQ between conv1 and its Relu"),
    (both_sides_of_add, "add: 2 of 2 inputs have Q/DQ; wanted it on the one not fused with conv2"),
    (no_side_of_add, "add: 0 of 2 inputs have Q/DQ; wanted it on the one not fused with conv2"),
    (concat_scales, "y: its inputs have different scales; wanted one"),
    (half_a_concat, "y: 1 of 2 inputs have Q/DQ; wanted all or none"),
    (foreign_domain, "operator set 'com.microsoft'; wanted the default one alone"),
]


def test_a_graph_that_keeps_the_rules_is_clean():
    model = Net().model()
    onnx.checker.check_model(model)
    assert check_qdq(model) == []


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_each_fault_is_named_in_one_sentence(change, message):
    net = Net()
    change(net)
    found = check_qdq(net.model())
    assert message in found
    # a fault of a pair shows at both of its halves, and nothing else is reported
    assert len({text.split(": ", 1)[-1] for text in found}) == 1


def test_scales_held_by_constant_nodes_are_read_as_well():
    net = Net()
    net.values.pop("z")
    zero = helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.asarray(np.int8(5))))
    net.nodes.insert(0, zero)
    assert "x_q: zero point 5; wanted 0" in check_qdq(net.model())


def test_an_add_left_in_floating_point_on_purpose_may_have_no_qdq_but_not_two():
    net = Net()
    no_side_of_add(net)
    assert check_qdq(net.model(), exclude=["add"]) == []
    net = Net()
    both_sides_of_add(net)
    assert check_qdq(net.model(), exclude=["add"])


def test_a_norm_before_its_convolution_cannot_be_folded_and_is_allowed():
    net = Net()
    net.values |= {f"bn{i}": np.ones(4, "f4") for i in range(4)}
    net.op("BatchNormalization", "relu", *(f"bn{i}" for i in range(4)), out="bn")
    assert check_qdq(net.model()) == []
