"""What a frame costs, before anything is built: multiply-accumulates, parameters and bytes by part and by precision.

Read off the graphs alone, for one frame:

    macs              of convolutions and matrix products; the rest is noise beside them
    parameters        numbers in constants of floating type; scales and zero points of Q/DQ pairs are not counted
    weight_bytes      those parameters as stored: 1 byte where quantised, else 2 or 4
    activation_bytes  every tensor that a kernel writes, once; what is fused into the next node is never written

A part is the scope that the exporter left in a node's name (`/mix/teachers.0/...`, `/student/...`). Where names are
lost, it is the outputs that a node leads to. Knows nothing of targets, photos or scales.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import onnx
from onnx import NodeProto, TensorProto

from mtkd_edge.errors import BundleError
from mtkd_edge.lab.check_qdq import ACTIVATIONS, DEQUANTISE, QUANTISE, View
from mtkd_edge.lab.placement import WEIGHTED, place, sensitive
from mtkd_edge.lab.qdq import insert

Floating = Literal["fp32", "fp16"]
FLOATS = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2}
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""The same bytes under another shape."""
TEACHER_SCOPE = re.compile(r"^/((?:mix/)?teachers\.\d+)/")
WRAPPERS = frozenset({"nets"})
"""Scopes that only hold others: what is inside is the part."""


class Share(msgspec.Struct, frozen=True):
    """What one part, or one precision, has of the whole. `precisions`: its macs by precision."""

    name: str
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    macs_share: float
    bytes_share: float
    precisions: dict[str, int]


class Explanation(msgspec.Struct, frozen=True):
    """Both views of the same sums. `by` says what told the parts apart: the nodes' names, or the outputs."""

    by: Literal["names", "outputs"]
    parts: tuple[Share, ...]
    precisions: tuple[Share, ...]
    total: Share


class Cost(msgspec.Struct, frozen=True):
    """A part of one node's cost, in one precision. `node` is its name, `output` the first tensor that it makes."""

    node: str
    output: str
    precision: str
    macs: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0


def explain(
    features: onnx.ModelProto, head: onnx.ModelProto, teachers: Sequence[str], floating: Floating = "fp32"
) -> Explanation:
    """Both graphs of a bundle or an engine. `teachers`: their names, in order; `floating`: what is not INT8 runs in.

    Raises BundleError for a graph whose shapes cannot be told.
    """
    scoped = any(node.name.count("/") > 1 for node in features.graph.node if node.op_type in WEIGHTED)
    led = {} if scoped else destinations(features.graph)
    parts: dict[str, list[Cost]] = defaultdict(list)
    for cost in node_costs(features, floating):
        parts[scope(cost.node, teachers) if scoped else led.get(cost.output, "unused")].append(cost)
    parts["head"] += node_costs(head, "fp32")
    costs = [cost for part in parts.values() for cost in part]
    kinds = {kind: [cost for cost in costs if cost.precision == kind] for kind in ("int8", "fp16", "fp32")}
    return Explanation(
        by="names" if scoped else "outputs",
        parts=tuple(summed(name, part, costs) for name, part in parts.items() if part),
        precisions=tuple(summed(kind, part, costs) for kind, part in kinds.items() if part),
        total=summed("total", costs, costs),
    )


def as_int8(features: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with Q/DQ pairs about where an INT8 build has them; scales of 1, as nothing here depends on them.

    About, because a build measures which layers to leave in floating point; this takes those that it mostly are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(features)
    placement = place(model, sensitive(model))
    insert(model, placement, dict.fromkeys(placement.activations, 1.0))
    return model


def summed(name: str, costs: Sequence[Cost], whole: Sequence[Cost]) -> Share:
    """Costs of one part added up, and their share of the whole."""

    def total(what: Sequence[Cost], *fields: str) -> int:
        return sum(getattr(cost, field) for cost in what for field in fields)

    kinds: Counter[str] = Counter()
    for cost in costs:
        kinds[cost.precision] += cost.macs
    stored = ("weight_bytes", "activation_bytes")
    return Share(
        name=name,
        macs=total(costs, "macs"),
        parameters=total(costs, "parameters"),
        weight_bytes=total(costs, "weight_bytes"),
        activation_bytes=total(costs, "activation_bytes"),
        macs_share=total(costs, "macs") / max(total(whole, "macs"), 1),
        bytes_share=total(costs, *stored) / max(total(whole, *stored), 1),
        precisions={kind: macs for kind, macs in kinds.items() if macs},
    )


def node_costs(model: onnx.ModelProto, floating: Floating) -> list[Cost]:
    """Two costs a node: what it computes and stores of weights, and what it writes.

    A node that computes in floating point may write INT8, for a quantised one after it, so their precisions differ.
    """
    view, known = View(model), shapes(model)
    counted: set[str] = set()
    found = []
    for node in view.model.graph.node:
        if node.op_type in (QUANTISE, DEQUANTISE, "Constant") or node.output[0] not in known:
            continue
        quantised = node.op_type in WEIGHTED and all(view.quantised(name) for name in node.input[:2])
        size = min(FLOATS[known[node.output[0]][0]], 2 if floating == "fp16" else 4)
        wide = "fp16" if size == 2 else "fp32"
        numbers: dict[str, int] = {}
        for name in node.input:
            value = view.values.get(view.source(name))
            if value is not None and value.dtype.kind == "f" and view.source(name) not in counted:
                counted.add(view.source(name))
                numbers[name] = value.size
        computed = Cost(
            node=node.name,
            output=node.output[0],
            precision="int8" if quantised else wide,
            macs=macs(node, known) if node.op_type in WEIGHTED else 0,
            parameters=sum(numbers.values()),
            weight_bytes=sum(count * (1 if view.quantised(name) else size) for name, count in numbers.items()),
        )
        width = written(node, view, size)
        amount = width * math.prod(known[node.output[0]][1])
        kind = "int8" if width == 1 else wide
        found += [computed, Cost(node.name, node.output[0], kind, activation_bytes=amount)]
    return found


def macs(node: NodeProto, known: Mapping[str, tuple[int, tuple[int, ...]]]) -> int:
    """Multiply-accumulates of one weighted node."""
    out, weight = known[node.output[0]][1], known[node.input[1]][1]
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(known[node.input[0]][1]) * math.prod(weight[1:])
    left = known[node.input[0]][1]
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(out) * left[-2 if transposed else -1]


def written(node: NodeProto, view: View, size: int) -> int:
    """Bytes an element that leave the kernel this node ends: 0 for a view and for what the next node is fused with."""
    name = node.output[0]
    users, inside = view.wiring.users[name], name not in view.wiring.outputs
    fused = node.op_type in WEIGHTED | {"Add"} and len(users) == 1 and users[0].op_type in ACTIVATIONS | {"Add"}
    if (fused and inside) or node.op_type in VIEWS:
        return 0
    return 1 if inside and users and all(user.op_type == QUANTISE for user in users) else size


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Tensors of floating type -> (element type, shape), for one frame. Raises BundleError for an unknown shape."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.ClearField("value_info")
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    found = {value.name: (value.data_type, tuple(value.dims)) for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = (node.attribute[0].t.data_type, tuple(node.attribute[0].t.dims))
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        found[value.name] = (tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim))
    for node in graph.node:
        if node.op_type == "Expand":  # it repeats something for the batch; onnx does not see by its shape how often
            found[node.output[0]] = found[node.input[0]]
    unknown = [name for node in graph.node for name in node.output if name and 0 in found.get(name, (0, (0,)))[1]]
    if unknown:
        raise BundleError(f"the shape of {unknown[0]!r} depends on more than the batch", "train again")
    return {name: (kind, shape) for name, (kind, shape) in found.items() if kind in FLOATS}


def scope(name: str, teachers: Sequence[str]) -> str:
    """A node's name -> its part: a teacher, `mix`, `student`, `autoencoder`, ..., or `frame` for what has no scope."""
    teacher = TEACHER_SCOPE.match(name)
    if teacher and (number := int(teacher[1].rpartition(".")[2])) < len(teachers):
        return f"teacher {teachers[number]}"
    scopes = [part for part in name.split("/")[1:-1] if part not in WRAPPERS]
    # autoencoders.0 and autoencoders.1 are of one kind
    return re.sub(r"s?\.\d+$", "", scopes[0]) if scopes else "frame"


def destinations(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensor -> `student`, `reference` or `shared`, by the outputs it leads to; for graphs whose names say nothing."""
    leads: dict[str, set[str]] = {value.name: {value.name.partition("_")[0]} for value in graph.output}
    for node in reversed(graph.node):
        sides = set().union(*(leads.get(name, set()) for name in node.output))
        for name in node.input:
            leads.setdefault(name, set()).update(sides)
    return {name: next(iter(sides)) if len(sides) == 1 else "shared" for name, sides in leads.items() if sides}
