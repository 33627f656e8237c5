"""float features.onnx -> the same graph in half precision, for runtimes that take the precision from the file.

TensorRT 11 has no FP16 flag any more, and a float graph is computed as one. Pixels are normalised in FP32, because
255 minus a mean needs more digits than half precision has; outputs are cast back, because the score is always FP32.
OpenVINO needs no such graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mtkd_edge.bundle import write_file
from mtkd_edge.errors import GateError
from mtkd_edge.lab.placement import WEIGHTED, Wiring

LARGEST = float(np.finfo(np.float16).max)
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Inputs that stay FP32 by the operator's definition: the region and the scales of Resize."""


def halve(source: Path, target: Path) -> None:
    """Write the half-precision graph. Raises GateError for a weight that half precision cannot hold."""
    model = onnx.load(source)
    graph = model.graph
    before = normalisation(graph)
    fixed = {node.input[i] for node in graph.node for i in FLOAT_INPUTS.get(node.op_type, ()) if i < len(node.input)}
    fixed |= {name for node in graph.node if node.output[0] in before for name in node.input}
    shared = {value.name: value for value in constants(graph) if value.name in fixed}
    halve_constants(graph, fixed)
    made, nodes = set[str](), list[NodeProto]()
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.output[0] in before:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name in before:
                if name not in made:
                    nodes.append(
                        helper.make_node("Cast", [name], [f"{name}_half"], f"{name}_half", to=TensorProto.FLOAT16)
                    )
                    made.add(name)
                node.input[i] = f"{name}_half"
            elif name in outputs:
                node.input[i] = f"{name}_half"
            elif name in shared and i not in FLOAT_INPUTS.get(node.op_type, ()):
                # onnxsim made one constant of equal ones: this side of it goes to half precision, the other does not
                if name not in made:
                    graph.initializer.append(halved(shared[name], f"{name}_half"))
                    made.add(name)
                node.input[i] = f"{name}_half"
        halve_cast(node)
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in outputs:
                node.output[i] = f"{name}_half"
                nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_float", to=TensorProto.FLOAT))
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("value_info")
    onnx.checker.check_model(model, full_check=True)
    write_file(target, model.SerializeToString())


def normalisation(graph: onnx.GraphProto) -> set[str]:
    """The tensors between the pixels and the first weighted node of each network: they stay FP32."""
    wiring = Wiring(graph)
    found = {value.name for value in graph.input}
    for node in graph.node:  # in topological order
        inputs = [node.input[i] for i in wiring.activations(node)]
        if inputs and node.op_type not in WEIGHTED and all(name in found for name in inputs):
            found |= set(node.output)
    return found


def constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Every FP32 constant, initialiser or node, under the name of the tensor that it is."""
    found = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            found.append(onnx.TensorProto())
            found[-1].CopyFrom(node.attribute[0].t)
            found[-1].name = node.output[0]
    return [value for value in found if value.data_type == TensorProto.FLOAT]


def halve_constants(graph: onnx.GraphProto, fixed: set[str]) -> None:
    """FP32 initialisers and Constant nodes become FP16, except those named in `fixed`."""
    for value in graph.initializer:
        if value.data_type == TensorProto.FLOAT and value.name not in fixed:
            value.CopyFrom(halved(value, value.name))
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in fixed:
            value = node.attribute[0].t
            if value.data_type == TensorProto.FLOAT:
                value.CopyFrom(halved(value, node.output[0]))


def halved(value: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """One constant in FP16, called `name`. Values too small become 0, values too large are a GateError."""
    numbers = numpy_helper.to_array(value)
    if numbers.size and not np.abs(numbers).max() <= LARGEST:
        raise GateError(
            f"{name} holds {np.abs(numbers).max():g}, FP16 ends at {LARGEST:g}", "build with --fp32 or --int8"
        )
    return numpy_helper.from_array(numbers.astype(np.float16), name)


def halve_cast(node: NodeProto) -> None:
    """A Cast to FP32 inside the half-precision part goes to FP16."""
    if node.op_type == "Cast":
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
