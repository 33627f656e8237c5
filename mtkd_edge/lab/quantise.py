"""float features.onnx and the ranges of its tensors -> the same graph with explicit INT8 Q/DQ pairs.

Explicit, because TensorRT 11 has no calibrator and no INT8 flag any more: the precision is in the file, and TensorRT,
OpenVINO and onnxruntime run the same one. Symmetric int8, one scale an activation, one an output channel of a weight;
weights stay float in the file, because that is the form every TensorRT since 10.3 takes.

`placement.py` says where, `calibrate.py` how wide, `check_qdq.py` proves the result; this file only writes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from mtkd_edge.bundle import sha256, write_file
from mtkd_edge.errors import GateError, UsageError
from mtkd_edge.lab.calibrate import Calibration
from mtkd_edge.lab.check_qdq import check_qdq
from mtkd_edge.lab.placement import Placement, merge, place

TOP = 127
"""Weights and activations use -127 ... 127, so that the zero point is exactly 0."""


def quantise(
    source: Path,
    target: Path,
    calibration: Calibration,
    exclude: Collection[str] = (),
    equal: Sequence[Collection[str]] = (),
) -> int:
    """Write the quantised graph and return the number of Q/DQ pairs on activations.

    `exclude`: names of nodes that stay in floating point. `equal`: groups of tensors that get one scale, for example
    the inputs of the projections whose difference is the score. Raises UsageError for a name that is not in the graph
    or a calibration of another graph, GateError where the result would break a rule of `check_qdq`.
    """
    if calibration.graph != sha256(source):
        raise UsageError(
            f"the calibration belongs to another graph than {source}", "calibrate again: its ranges would be wrong"
        )
    model = onnx.load(source)
    unknown = set(exclude) - {node.name for node in model.graph.node}
    unknown |= {name for group in equal for name in group} - set(calibration.ranges)
    if unknown:
        raise UsageError(f"{source} has no {', '.join(sorted(unknown))}", "names are those that netron shows")
    placement = place(model, exclude)
    insert(model, placement, activation_scales(placement, calibration.ranges, equal))
    onnx.checker.check_model(model, full_check=True)
    if problems := check_qdq(model, exclude):
        raise GateError(f"{source} cannot be quantised: {'; '.join(problems[:5])}", "train again, or report this")
    write_file(target, model.SerializeToString())
    return len(placement.activations)


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
    """One scale an output channel; 1 for a channel of zeros."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    widest = np.abs(weight).max(others)
    return np.where(widest > 0, widest / TOP, 1.0).astype(np.float32)


def insert(model: onnx.ModelProto, placement: Placement, scales: Mapping[str, float]) -> None:
    """Put the pairs into the graph, each right after the tensor it quantises."""
    graph = model.graph
    weights = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    constants = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
    pairs = {name: pair(graph, name, np.float32(scale), None) for name, scale in scales.items()}
    old, new = list(graph.node), [node for value in graph.input for node in pairs.get(value.name, ())]
    for i, node in enumerate(old):
        if axis := {edge: axis for edge, axis in placement.weights.items() if edge.node == i}:
            edge, along = axis.popitem()
            name = node.input[edge.slot]
            key = f"{name}:{along}"
            if key not in pairs:
                weight = weights[name] if name in weights else constants[name]
                pairs[key] = pair(graph, name, weight_scales(weight, along), along)
                new += pairs[key]
            node.input[edge.slot] = pairs[key][1].output[0]
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
