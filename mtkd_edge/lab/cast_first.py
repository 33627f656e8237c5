"""The pixels of a graph are cast to float before anything else touches them, as TensorRT wants it.

TensorRT has a uint8 input and a cast from it, and no other operator on uint8: its parser refuses the transposition that
torch's exporter and onnxsim put first. OpenVINO computes the same numbers either way, and no slower.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper


def cast_first(model: onnx.ModelProto) -> bool:
    """Turn uint8 -> Transpose -> Cast into uint8 -> Cast -> Transpose, in place. Whether there was anything to turn.

    The float tensor keeps its name, so that ranges measured before belong to it.
    """
    graph = model.graph
    pixels = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    moved = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in pixels}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in moved]
    # equal casts of one tensor become one
    final = {cast.input[0]: cast.output[0] for cast in reversed(casts)}
    renamed = {cast.output[0]: final[cast.input[0]] for cast in casts}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in final:
            continue
        if node.output[0] in final:
            name = f"{node.output[0]}_float"
            nodes.append(helper.make_node("Cast", [node.input[0]], [name], f"{node.name}_Cast", to=TensorProto.FLOAT))
            node.input[0], node.output[0] = name, final[node.output[0]]
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        nodes.append(node)
    if final:
        graph.ClearField("node")
        graph.node.extend(nodes)
        graph.ClearField("value_info")
    return bool(final)
