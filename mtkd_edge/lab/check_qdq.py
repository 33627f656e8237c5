"""A linter for quantised graphs: what TensorRT refuses, and what it takes and computes wrongly or slowly.

Found by giving its parser graphs with one fault each: a zero point, a scale of 0 or an INT32 bias are refused; uint8
with zero point 0 and per-channel activations are accepted in silence, and the numbers are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from mtkd_edge.lab.placement import WEIGHTED, Wiring

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
ACTIVATIONS = frozenset({"Clip", "LeakyRelu", "Relu"})
HALF = 128
"""255 times this is the most that fits into 16 bits with a sign."""


class View:
    """A graph with its wiring, the values of its constants, and the names of nodes that stay float on purpose."""

    def __init__(self, model: onnx.ModelProto, exclude: Collection[str] = ()) -> None:
        self.model, self.wiring, self.exclude = model, Wiring(model.graph), exclude
        self.values: dict[str, NDArray[Any]] = {v.name: numpy_helper.to_array(v) for v in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def nodes(self, *kinds: str) -> Iterator[NodeProto]:
        """The nodes of these kinds, in order."""
        return (node for node in self.model.graph.node if node.op_type in kinds)

    def source(self, name: str) -> str:
        """The float tensor behind a Q/DQ pair: `name` itself where a DequantizeLinear does not make it."""
        node = self.wiring.maker.get(name)
        if node is None or node.op_type != DEQUANTISE:
            return name
        node = self.wiring.maker.get(node.input[0], node)
        return str(node.input[0])

    def quantised(self, name: str) -> bool:
        """Whether a DequantizeLinear makes this tensor."""
        node = self.wiring.maker.get(name)
        return node is not None and node.op_type == DEQUANTISE

    def scale(self, name: str) -> NDArray[Any]:
        """The scale of the DequantizeLinear that makes this tensor."""
        return self.values[self.wiring.maker[name].input[1]]


def check_qdq(model: onnx.ModelProto, exclude: Collection[str] = ()) -> list[str]:
    """One sentence for each fault, in the order of the rules; an empty list is a clean graph.

    An Add named in `exclude` may do without the Q/DQ that it would otherwise want.
    """
    view = View(model, exclude)
    return [message for rule in RULES for message in rule(view)]


def constant_parameters(view: View) -> Iterator[str]:
    """Every scale and zero point is a constant of the graph. Other rules read their values."""
    for node in view.nodes(QUANTISE, DEQUANTISE):
        for name in node.input[1:]:
            if name and name not in view.values:
                yield f"{node.name}: {name!r} is computed; scales and zero points must be constants"


def zero_points(view: View) -> Iterator[str]:
    """INT8 with zero point 0: TensorRT refuses others, and reads uint8 as if it were int8."""
    for node in view.nodes(QUANTISE, DEQUANTISE):
        zero = view.values.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None:
            yield f"{node.name}: no zero point, which means uint8; wanted int8 zeros"
        elif zero.dtype != np.int8:
            yield f"{node.name}: zero point of type {zero.dtype}; wanted int8"
        elif zero.any():
            yield f"{node.name}: zero point {zero.ravel()[zero.ravel() != 0][0]}; wanted 0"


def scales(view: View) -> Iterator[str]:
    """Scales are positive and finite."""
    for node in view.nodes(QUANTISE, DEQUANTISE):
        scale = view.values.get(node.input[1])
        if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{node.name}: scale {scale.min()} is not positive and finite"


def activation_scales(view: View) -> Iterator[str]:
    """Activations have one scale: TensorRT accepts one per channel and computes something else."""
    for node in view.nodes(QUANTISE):
        scale = view.values.get(node.input[1])
        if node.input[0] not in view.values and scale is not None and scale.size > 1:
            yield f"{node.name}: {scale.size} scales on the activation {node.input[0]!r}; wanted one"


def weight_axes(view: View) -> Iterator[str]:
    """Weights are quantised along their output channels: axis 0, or 1 where the operator says so."""
    for node in view.nodes(*WEIGHTED):
        dequantise = view.wiring.maker.get(node.input[1])
        if dequantise is None or dequantise.op_type != DEQUANTISE:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        wanted = 0 if node.op_type == "Conv" or transposed else 1
        axis = next((a.i for a in dequantise.attribute if a.name == "axis"), 1)
        scale = view.values.get(dequantise.input[1])
        if scale is not None and scale.size > 1 and axis != wanted:
            yield f"{node.name}: weight scales along axis {axis}; wanted {wanted}"


def pair_sums(view: View) -> Iterator[str]:
    """Two weights of one sign that are multiplied together add up to 128 at most (`qdq.weight_scales` says why)."""
    for node in view.nodes("Conv"):
        weight, scale = view.values.get(view.source(node.input[1])), None
        if weight is not None and view.quantised(node.input[1]):
            scale = view.values.get(view.wiring.maker[node.input[1]].input[1])
        if weight is None or scale is None or not (scale > 0).all() or scale.size not in (1, len(weight)):
            continue  # a float layer, or another rule's matter
        whole = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)), -128, 127)
        sums = [np.maximum(sign * whole, 0) for sign in (1, -1)]
        widest = max(float((s[:, :-1:2] + s[:, 1::2]).max(initial=0)) for s in sums)
        if widest > HALF:
            what = f"two weights add up to {widest:.0f}, which overflows 16 bits without VNNI"
            yield f"{node.name}: {what}; wanted {HALF}"


def integer_inputs(view: View) -> Iterator[str]:
    """No INT32 or uint8 constant goes through DequantizeLinear: quantised biases are a parser error."""
    for node in view.nodes(DEQUANTISE):
        value = view.values.get(node.input[0])
        if value is not None and value.dtype != np.int8:
            yield f"{node.name}: dequantises {value.dtype}; wanted int8, and biases left in floating point"


def batch_norms(view: View) -> Iterator[str]:
    """A BatchNormalization straight after a convolution must be folded into it before Q/DQ is placed.

    One that comes before its convolution (DenseNet) cannot be folded, and stays in floating point.
    """
    for node in view.nodes("BatchNormalization"):
        before = view.wiring.maker.get(view.source(node.input[0]))
        if before is not None and before.op_type in WEIGHTED and len(view.wiring.users[before.output[0]]) == 1:
            yield f"{node.name}: not folded into {before.name}; run onnxsim before quantising"


def fused_activations(view: View) -> Iterator[str]:
    """No Q/DQ between a convolution and its activation: they must stay one kernel."""
    for node in view.nodes(*ACTIVATIONS):
        before = view.wiring.maker.get(view.source(node.input[0]))
        if view.quantised(node.input[0]) and before is not None and before.op_type in WEIGHTED:
            yield f"{node.name}: Q/DQ between {before.name} and its {node.op_type}"


def residual_adds(view: View) -> Iterator[str]:
    """An Add that can be fused with a quantised convolution has Q/DQ on exactly one input: the other one."""
    for node in view.nodes("Add"):
        slots = view.wiring.activations(node)
        sources = [view.wiring.maker.get(view.source(node.input[slot])) for slot in slots]
        fusible = [s for s in sources if s is not None and s.op_type in WEIGHTED and view.quantised(s.input[0])]
        alone = [s for s in fusible if len(view.wiring.users[s.output[0]]) == 1]
        count = sum(view.quantised(node.input[slot]) for slot in slots)
        if len(slots) == 2 and alone and count != 1 and (count or node.name not in view.exclude):
            yield f"{node.name}: {count} of 2 inputs have Q/DQ; wanted it on the one not fused with {alone[0].name}"


def concat_scales(view: View) -> Iterator[str]:
    """All inputs of a Concat are quantised with one scale, or none is."""
    for node in view.nodes("Concat"):
        names = [node.input[slot] for slot in view.wiring.activations(node)]
        found = [view.scale(name) for name in names if view.quantised(name)]
        if found and len(found) < len(names):
            yield f"{node.name}: {len(found)} of {len(names)} inputs have Q/DQ; wanted all or none"
        elif len({float(scale.max()) for scale in found}) > 1:
            yield f"{node.name}: its inputs have different scales; wanted one"


def pixels(view: View) -> Iterator[str]:
    """A uint8 input is read by Cast alone: TensorRT has no other operator on uint8."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in view.model.graph.input}
    for node in view.model.graph.node:
        for name in node.input:
            if kinds.get(name) == onnx.TensorProto.UINT8 and node.op_type != "Cast":
                yield f"{node.name}: {node.op_type} reads the uint8 input {name!r}; wanted a Cast first"


def domains(view: View) -> Iterator[str]:
    """Only the default operator set: nothing that one runtime alone understands."""
    for opset in view.model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"operator set {opset.domain!r}; wanted the default one alone"


RULES: tuple[Callable[[View], Iterator[str]], ...] = (
    constant_parameters,
    zero_points,
    scales,
    activation_scales,
    weight_axes,
    pair_sums,
    integer_inputs,
    batch_norms,
    fused_activations,
    residual_adds,
    concat_scales,
    pixels,
    domains,
)
