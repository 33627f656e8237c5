"""Writes Q/DQ pairs into a graph: scales from ranges, one a tensor or one an output channel, zero points 0.

`placement.py` says where. Weights stay float in the file with their pair behind them, because that is the form every
TensorRT since 10.3 takes. Knows neither files nor photos.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from mtkd_edge.lab.placement import Placement, merge

TOP = 127
"""Weights and activations use -127 ... 127, so that the zero point is exactly 0."""


def activation_scales(
    placement: Placement, ranges: Mapping[str, tuple[float, float]], equal: Sequence[Collection[str]] = ()
) -> dict[str, float]:
    """Every quantised tensor's scale; tensors of one group get that of the widest."""
    bounds = {name: max(-ranges[name][0], ranges[name][1], 0.0) for name in placement.activations}
    for group in merge([*placement.groups, *equal]):
        members = [name for name in group if name in bounds]
        widest = max((bounds[name] for name in members), default=0.0)
        bounds |= dict.fromkeys(members, widest)
    # a tensor that was 0 in every calibration frame is quantised to 0 by any scale; 1 is safe in half precision too
    return {name: bound / TOP if bound > 0 else 1.0 for name, bound in bounds.items()}


def weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """One scale an output channel; 1 for a channel of zeros.

    The widest weight becomes 127 at most, and so does the sum of the two weights of one sign that an x86 processor
    without VNNI multiplies together (vpmaddubsw: neighbours along the inputs, activations up to 255, a sum of 16 bits
    that saturates). Such a processor then computes what all others do.
    """
    by_output = np.moveaxis(weight, axis, 0)
    pairs = by_output.reshape(*by_output.shape[:2], -1)
    if pairs.shape[1] % 2:
        pairs = np.concatenate([pairs, np.zeros_like(pairs[:, :1])], 1)
    sums = [np.maximum(sign * pairs, 0) for sign in (1, -1)]
    widest = np.max([(s[:, 0::2] + s[:, 1::2]).max((1, 2)) for s in sums], 0)
    return np.where(widest > 0, widest / TOP, 1.0).astype(np.float32)


def insert(model: onnx.ModelProto, placement: Placement, scales: Mapping[str, float]) -> None:
    """Put the pairs into the graph, each right after the tensor it quantises."""
    graph = model.graph
    weights = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    weights |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
    pairs = {name: pair(graph, name, np.float32(scale), None) for name, scale in scales.items()}
    old, new = list(graph.node), [node for value in graph.input for node in pairs.get(value.name, ())]
    axes = {edge.node: (edge.slot, axis) for edge, axis in placement.weights.items()}
    for i, node in enumerate(old):
        if i in axes:
            slot, axis = axes[i]
            name = node.input[slot]
            key = f"{name}:{axis}"
            if key not in pairs:
                pairs[key] = pair(graph, name, weight_scales(weights[name], axis), axis)
                new += pairs[key]
            node.input[slot] = pairs[key][1].output[0]
        new.append(node)
        for name in node.output:
            new += pairs.get(name, ())
    for name, edges in placement.activations.items():
        for edge in edges:
            old[edge.node].input[edge.slot] = pairs[name][1].output[0]
    graph.ClearField("node")
    graph.node.extend(new)


def pair(
    graph: onnx.GraphProto, name: str, scale: NDArray[np.float32] | np.float32, axis: int | None
) -> tuple[NodeProto, NodeProto]:
    """QuantizeLinear and DequantizeLinear for one tensor; their scale and zero point become constants of the graph."""
    parameters = [f"{name}_scale", f"{name}_zero"]
    values = np.asarray(scale, np.float32), np.zeros(np.shape(scale), np.int8)
    graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, parameters, strict=True))
    along = {} if axis is None else {"axis": axis}
    quantised, back = f"{name}_int8", f"{name}_quantised"
    return (
        helper.make_node("QuantizeLinear", [name, *parameters], [quantised], name=f"{name}_Q", **along),
        helper.make_node("DequantizeLinear", [quantised, *parameters], [back], name=f"{name}_DQ", **along),
    )


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove constants that nobody takes any more: the biases before their correction."""
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.initializer if value.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
