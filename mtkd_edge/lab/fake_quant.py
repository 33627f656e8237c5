"""The student's part of a quantised graph as a torch module that can be trained: what it computes, the engine computes.

Q/DQ pairs become fake quantisers: forward they round as the pair does, backward they pass the gradient on where the
value was not clipped (straight-through: Bengio et al. 2013, arXiv:1308.3432; in this form Jacob et al. 2018,
arXiv:1712.05877). Scales of activations stay those of the calibration; those of weights follow the weights.

The graph itself is what is run, node by node, so there is no second description of the student that could differ from
it. Knows neither teachers nor losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mtkd_edge.errors import UsageError
from mtkd_edge.lab.check_qdq import DEQUANTISE, QUANTISE, View
from mtkd_edge.lab.placement import WEIGHTED
from mtkd_edge.lab.qdq import drop_unused, weight_scales

LOWEST, HIGHEST = -128, 127
"""What an int8 of a Q/DQ pair can hold; weights are scaled to reach -127 to 127 alone."""
HINT = "build without --finetune"
Attributes = Mapping[str, Any]


class FakeQuantStudent(nn.Module):
    """Frames uint8 [N, height, width, 3] -> the student's outputs by name, [N, C, h, w].

    Its parameters are the weights and biases of the student's layers, and start as those of the graph. Raises
    UsageError for a graph without a student of its own, or with an operator that is not known here.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        view = View(model)
        self.outputs = student_outputs(model)
        # pairs on constants are not run: scales of weights follow what the weights have become
        rewritten = {n.output[0] for n in view.nodes(QUANTISE) if n.input[0] in view.values}
        rewritten |= {n.output[0] for n in view.nodes(DEQUANTISE) if n.input[0] in rewritten} | view.values.keys()
        self._nodes = [n for n in _behind(model, self.outputs) if n.output[0] not in rewritten]
        unknown = {n.op_type for n in self._nodes} - OPERATORS.keys() - {QUANTISE, DEQUANTISE, "Conv"}
        if unknown or not self.outputs:
            what = f"has {', '.join(sorted(unknown))}" if unknown else "is not a network of its own"
            raise UsageError(f"the student of this run cannot be fine-tuned: it {what}", HINT)
        self._source = {name: view.source(name) for node in self._nodes for name in node.input}
        self._quantised = {name for name in self._source if view.quantised(name)}
        trained = dict.fromkeys(
            self._source[n] for node in self._nodes if node.op_type == "Conv" for n in node.input[1:]
        )
        self._numbers = {name: i for i, name in enumerate(trained)}
        self.values = nn.ParameterList(torch.tensor(view.values[name]) for name in trained)
        self._constants = {name: torch.tensor(v) for name, v in view.values.items() if name not in self._numbers}

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """One run of the graph."""
        known: dict[str, Tensor] = {"frames": frames}
        for node in self._nodes:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Conv":
                known[node.output[0]] = self._conv(node, attributes, known)
            elif node.op_type == QUANTISE:
                known[node.output[0]] = self._fake(node, known)
            elif node.op_type == DEQUANTISE:
                known[node.output[0]] = known[node.input[0]]
            else:
                inputs = [known[n] if n in known else self._constants[n] for n in node.input if n]
                known[node.output[0]] = OPERATORS[node.op_type](attributes, *inputs)
        return {name: known[name] for name in self.outputs}

    def trained(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Name of a weight or bias in the quantised graph -> its value now."""
        return {name: self.values[i].detach().numpy().copy() for name, i in self._numbers.items()}

    def _fake(self, node: NodeProto, known: Mapping[str, Tensor]) -> Tensor:
        scale = float(self._constants[node.input[1]])
        return torch.fake_quantize_per_tensor_affine(known[node.input[0]], scale, 0, LOWEST, HIGHEST)

    def _conv(self, node: NodeProto, attributes: Attributes, known: Mapping[str, Tensor]) -> Tensor:
        weight = self.values[self._numbers[self._source[node.input[1]]]]
        if node.input[1] in self._quantised:
            weight = rounded(weight)
        bias = self.values[self._numbers[node.input[2]]] if len(node.input) > 2 else None
        pads = attributes.get("pads", [0, 0, 0, 0])
        padded = nn.functional.pad(known[node.input[0]], (pads[1], pads[3], pads[0], pads[2]))
        return nn.functional.conv2d(
            padded, weight, bias, attributes.get("strides", 1), 0,
            attributes.get("dilations", 1), attributes.get("group", 1),
        )  # fmt: skip


def rounded(weight: Tensor) -> Tensor:
    """A convolution's weight [out, in, h, w] as INT8 sees it, one scale an output channel."""
    scale = torch.from_numpy(weight_scales(weight.detach().numpy(), 0))
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, LOWEST, HIGHEST)


def student_outputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """The outputs `student_<level>` made by layers of their own: none that a `reference_<level>` comes from as well.

    What an autoencoder rebuilds is called a student too, but no layer of its own makes it.
    """
    names = [value.name for value in model.graph.output]

    def layers(outputs: Sequence[str]) -> set[str]:
        return {node.name for node in _behind(model, outputs) if node.op_type in WEIGHTED}

    teachers = layers([name for name in names if name.startswith("reference_")])
    found = [name for name in names if name.startswith("student_")]
    return tuple(name for name in found if layers([name]) and not layers([name]) & teachers)


def _behind(model: onnx.ModelProto, outputs: Sequence[str]) -> list[NodeProto]:
    """The nodes that these outputs come from, in the graph's order."""
    wanted, found = set(outputs), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def write_back(source: onnx.ModelProto, quantised: onnx.ModelProto, student: FakeQuantStudent) -> onnx.ModelProto:
    """The float graph with what the student has learned. `quantised`: the graph that the student started from.

    Biases in `quantised` hold the correction of its rounding as well, which is measured again on the new graph; so they
    change here by what was learned and no more.
    """
    tuned = onnx.ModelProto()
    tuned.CopyFrom(source)
    view, values = View(quantised), View(source).values
    learned = student.trained()
    before = {node.name: node for node in quantised.graph.node}
    for node in tuned.graph.node:
        name = view.source(before[node.name].input[1]) if node.name in before and node.op_type == "Conv" else ""
        if name not in learned:
            continue
        _set(tuned, node, 1, learned[name])
        if len(before[node.name].input) > 2:
            bias = before[node.name].input[2]
            change = learned[bias] - view.values[bias]
            _set(tuned, node, 2, values[node.input[2]] + change if len(node.input) > 2 else change)
    drop_unused(tuned.graph)
    onnx.checker.check_model(tuned, full_check=True)
    return tuned


def _set(model: onnx.ModelProto, node: NodeProto, slot: int, value: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Give a node a constant of its own."""
    name = f"{node.output[0]}_tuned{slot}"
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    inputs = [*node.input[:slot], name, *node.input[slot + 1 :]]
    del node.input[:]
    node.input.extend(inputs)


def _resize(attributes: Attributes, x: Tensor, *rest: Tensor) -> Tensor:
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    if attributes.get("mode") != b"linear" or mode not in (b"half_pixel", b"pytorch_half_pixel"):
        raise UsageError("the student of this run cannot be fine-tuned: its Resize is not bilinear", HINT)
    factors = tuple(float(factor) for factor in rest[-1][-2:])
    return nn.functional.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


def _clip(_: Attributes, x: Tensor, low: Tensor, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, low, high)


def _unsqueeze(_: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


TYPES = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64}
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Abs": lambda _, x: x.abs(),
    "Add": lambda _, a, b: a + b,
    "Cast": lambda attributes, x: x.to(TYPES[attributes["to"]]),
    "Clip": _clip,
    "Div": lambda _, a, b: a / b,
    "Gather": lambda attributes, x, index: x.select(attributes.get("axis", 0), int(index)),
    "GatherElements": lambda attributes, x, index: x.gather(attributes.get("axis", 0), index),
    "Greater": lambda _, a, b: a > b,
    "MatMul": lambda _, a, b: a @ b,
    "Max": lambda _, a, b: torch.maximum(a, b),
    "Min": lambda _, a, b: torch.minimum(a, b),
    "Mul": lambda _, a, b: a * b,
    "ReduceMax": lambda attributes, x, axes: x.amax(axes.tolist(), bool(attributes.get("keepdims", 1))),
    "ReduceSum": lambda attributes, x, axes: x.sum(axes.tolist(), bool(attributes.get("keepdims", 1))),
    "Relu": lambda _, x: torch.relu(x),
    "Reshape": lambda _, x, shape: x.reshape(shape.tolist()),
    "Resize": _resize,
    "Sub": lambda _, a, b: a - b,
    "Transpose": lambda attributes, x: x.permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""All but those with weights; attributes first, then the inputs."""
