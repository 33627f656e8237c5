"""What each layer's INT8 costs the anomaly map: one layer quantised at a time, everything else in floating point.

    sensitivity = |map with that layer in INT8 - float map| / |float map - its mean|

both norms L2 over a frame; of a few frames the root mean square, so that a loud defect counts like a good part.

Errors of different layers have little to do with each other, so their squares add up: what a set of layers costs is
known without building it, and `lift.py` chooses by it. Only what lies behind a layer is computed again, on activations
kept from one run of the float graph; that makes a hundred layers a matter of seconds.

Knows nothing of time, targets or the gate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mtkd_edge.lab.check_qdq import ACTIVATIONS
from mtkd_edge.lab.correct import Corrections, correct
from mtkd_edge.lab.placement import Wiring, place
from mtkd_edge.lab.qdq import activation_scales, drop_unused, insert
from mtkd_edge.progress import Progress, silent

Arrays = dict[str, NDArray[Any]]
Ranges = Mapping[str, tuple[float, float]]
Sensitivity = dict[str, float]


def sensitivity(
    features: Path,
    head: Path,
    ranges: Ranges,
    corrections: Corrections,
    frames: NDArray[np.uint8],
    progress: Progress = silent,
) -> Sensitivity:
    """Name of a layer -> its sensitivity, for every layer that can be quantised, in the graph's order.

    `frames`: [N, height, width, 3], good parts and parts with a pasted defect; memory grows with N, four are enough.
    """
    model = onnx.load(features)
    layers = list(dict.fromkeys(model.graph.node[edge.node].name for edge in place(model).weights))
    known = kept_activations(model, frames)
    outputs = [value.name for value in model.graph.output]
    to_map = session(onnx.load(head))
    wanted = to_map.run(["map"], {name: known[name] for name in outputs})[0]
    constants = constants_of(model)
    found: Sensitivity = {}
    for i, layer in enumerate(layers):
        part = downstream(model, layer, constants, known)
        quantise_alone(part, layer, layers, ranges, corrections)
        made = session(part)
        names = [value.name for value in part.graph.output]
        values = made.run(names, {value.name: known[value.name] for value in made.get_inputs()})
        feed = {name: known[name] for name in outputs} | dict(zip(names, values, strict=True))
        found[layer] = relative(to_map.run(["map"], feed)[0], wanted)
        progress("sensitivity", i + 1, len(layers))
    return found


def relative(maps: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The error of maps [N, H, W] by the formula above."""
    flat = wanted.reshape(len(wanted), -1)
    spread = np.maximum(flat.std(1, dtype=np.float64), 1e-12)
    errors = np.sqrt(((maps - wanted) ** 2).mean((1, 2), dtype=np.float64)) / spread
    return float(np.sqrt((errors**2).mean()))


def kept_activations(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> Arrays:
    """Every tensor from which a part of the graph may be computed again, the frames among them.

    What an activation alone reads is never needed: it is made in the same part.
    """
    wiring, probe = Wiring(model.graph), onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    users = wiring.users
    names = [
        name
        for node in model.graph.node
        for name in node.output
        if name not in outputs and any(user.op_type not in ACTIVATIONS for user in users[name])
    ]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    made = session(probe)
    names = [value.name for value in made.get_outputs()]
    return {"frames": frames, **dict(zip(names, made.run(names, {"frames": frames}), strict=True))}


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initialisers and the values of Constant nodes, by name."""
    found = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    return found


def downstream(
    model: onnx.ModelProto, layer: str, constants: Mapping[str, onnx.TensorProto], known: Arrays
) -> onnx.ModelProto:
    """The layer and all nodes behind it, as a model of its own.

    Its inputs are tensors of the whole graph, all of them in `known`; its outputs those that the layer can reach.
    """
    reached: set[str] = set()
    nodes = []
    for node in model.graph.node:
        if node.name == layer or any(name in reached for name in node.input):
            reached.update(node.output)
            nodes.append(node)
    taken = dict.fromkeys(name for node in nodes for name in node.input if name and name not in reached)
    value, kind = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        nodes,
        "downstream",
        [value(name, kind(known[name].dtype), None) for name in taken if name not in constants],
        [output for output in model.graph.output if output.name in reached],
    )
    for name in taken:
        if name in constants:
            graph.initializer.add().CopyFrom(constants[name])
            graph.initializer[-1].name = name
    return onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def quantise_alone(
    part: onnx.ModelProto, layer: str, layers: Collection[str], ranges: Ranges, corrections: Corrections
) -> None:
    """Put `layer` into INT8 and no other of `layers`, with what its neighbours need for it."""
    placement = place(part, [name for name in layers if name != layer])
    correct(part, corrections, [edge.node for edge in placement.weights])
    insert(part, placement, activation_scales(placement, ranges))
    drop_unused(part.graph)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The model on the CPU through ONNX Runtime."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
