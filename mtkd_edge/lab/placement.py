"""Where Q/DQ pairs go in a graph, and which tensors must share a scale. Knows operators, not numbers.

The rules are the ones TensorRT's fusions want (docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types"),
and OpenVINO and onnxruntime run well with the same:

- the inputs of Conv, ConvTranspose, Gemm and MatMul, and their constant weights by output channel; never a bias;
- nothing after an operator, so that Conv + ReLU and Conv + Add + ReLU stay one kernel;
- of a residual Add only the side that does not come straight from a quantised convolution;
- a pool or a Concat whose result is quantised; a Concat and a MaxPool share one scale with their inputs, or the runtime
  would have to re-quantise;
- never the uint8 input, the normalisation, or a Resize.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import onnx
from onnx import NodeProto

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
PASSING = frozenset({"AveragePool", "Concat", "GlobalAveragePool", "MaxPool"})
SAME_SCALE = frozenset({"Concat", "MaxPool"})
SMALLEST = 16
"""A matrix product with fewer rows or columns gains nothing from INT8."""


class Edge(NamedTuple):
    """Input number `slot` of the node with index `node`."""

    node: int
    slot: int


@dataclass(frozen=True)
class Placement:
    """`activations`: tensor -> the edges that take it quantised. `weights`: edge -> channel axis.

    `groups`: sets of quantised tensors that share one scale.
    """

    activations: dict[str, tuple[Edge, ...]]
    weights: dict[Edge, int]
    groups: tuple[frozenset[str], ...]


class Wiring:
    """Who makes and who uses each tensor of a graph, and which are constant."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.maker = {out: node for node in graph.node for out in node.output}
        self.users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.outputs = {value.name for value in graph.output}
        self.constant = {value.name: tuple(value.dims) for value in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constant[node.output[0]] = tuple(node.attribute[0].t.dims)

    def activations(self, node: NodeProto) -> list[int]:
        """The inputs of a node that are neither constant nor left out."""
        return [i for i, name in enumerate(node.input) if name and name not in self.constant]


def place(model: onnx.ModelProto, exclude: Collection[str] = ()) -> Placement:
    """The rules above, for a float graph. Nodes named in `exclude` stay in floating point."""
    wiring, nodes = Wiring(model.graph), list(model.graph.node)
    edges: dict[str, list[Edge]] = defaultdict(list)
    weights: dict[Edge, int] = {}
    quantised: set[str] = set()
    for i, node in enumerate(nodes):
        axis = weight_axis(node, wiring)
        if axis is not None and node.name not in exclude:
            edges[node.input[0]].append(Edge(i, 0))
            weights[Edge(i, 1)] = axis
            quantised.add(node.output[0])
    for i, node in enumerate(nodes):
        slot = residual(node, wiring, quantised)
        if slot is not None and node.name not in exclude:
            edges[node.input[slot]].append(Edge(i, slot))
    together: list[set[str]] = []
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if node.op_type in PASSING and node.output[0] in edges and node.name not in exclude:
            slots = wiring.activations(node)
            for slot in slots:
                edges[node.input[slot]].append(Edge(i, slot))
            if node.op_type in SAME_SCALE:
                together.append({node.output[0], *(node.input[slot] for slot in slots)})
    return Placement({name: tuple(users) for name, users in edges.items()}, weights, merge(together))


def weight_axis(node: NodeProto, wiring: Wiring) -> int | None:
    """The output-channel axis of a node's constant weight; None for a node that is not to be quantised."""
    if node.op_type not in WEIGHTED or node.input[1] not in wiring.constant or node.input[0] in wiring.constant:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    shape = wiring.constant[node.input[1]]
    if len(shape) != 2 or min(shape) < SMALLEST:
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def residual(node: NodeProto, wiring: Wiring, quantised: Collection[str]) -> int | None:
    """Which input of an Add is to be quantised: the one that is not fused with a quantised convolution; else None."""
    if node.op_type != "Add" or len(wiring.activations(node)) != 2 or node.input[0] == node.input[1]:
        return None
    for slot, name in enumerate(node.input):
        if name in quantised and len(wiring.users[name]) == 1 and name not in wiring.outputs:
            return 1 - slot
    return None


def candidates(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor that `place` could choose for any `exclude`: the ones whose range calibration must find."""
    wiring, found = Wiring(model.graph), dict[str, None]()
    for node in model.graph.node:
        if weight_axis(node, wiring) is not None:
            found[node.input[0]] = None
        elif node.op_type in PASSING or (node.op_type == "Add" and len(wiring.activations(node)) == 2):
            found |= dict.fromkeys(node.input[slot] for slot in wiring.activations(node))
    return tuple(found)


def last_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the weighted nodes nearest to the graph's outputs: what to exclude where the tails must stay exact."""
    wiring, found = Wiring(model.graph), dict[str, None]()
    open_ends, seen = list(wiring.outputs), set[str]()
    while open_ends:
        name = open_ends.pop()
        node = wiring.maker.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if weight_axis(node, wiring) is not None:
            found[node.name] = None
        else:
            open_ends += [node.input[slot] for slot in wiring.activations(node)]
    return tuple(found)


def sensitive(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the convolutions that mostly cost much accuracy in INT8 and save little time: a guess by their kind.

    Depthwise ones (one range for channels of very different size, few operations), those that read the picture (three
    channels), and the last layers, whose differences are the score.
    """
    wiring = Wiring(model.graph)
    found = dict.fromkeys(last_layers(model))
    for node in model.graph.node:
        if node.op_type == "Conv" and (shape := wiring.constant.get(node.input[1])) is not None:
            grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
            if grouped or shape[1] <= 3:
                found[node.name] = None
    return tuple(found)


def merge(groups: Iterable[Collection[str]]) -> tuple[frozenset[str], ...]:
    """Groups that have a member in common become one."""
    merged: list[set[str]] = []
    for group in groups:
        new = set(group)
        for old in [old for old in merged if old & new]:
            merged.remove(old)
            new |= old
        merged.append(new)
    return tuple(frozenset(group) for group in merged)
