"""float features.onnx and its calibration -> the same graph with explicit INT8 Q/DQ pairs.

Explicit, because TensorRT 11 has no calibrator and no INT8 flag any more: the precision is in the file, and TensorRT,
OpenVINO and onnxruntime run the same one. Symmetric int8, one scale an activation, one an output channel of a weight.

`placement.py` says where the pairs go, `calibrate.py` how wide the tensors are, `correct.py` what the rounding costs on
average, `qdq.py` writes and `check_qdq.py` proves the result; this file only puts them in order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx

from mtkd_edge.bundle import sha256, write_file
from mtkd_edge.errors import GateError, UsageError
from mtkd_edge.lab.calibrate import Calibration
from mtkd_edge.lab.check_qdq import check_qdq
from mtkd_edge.lab.correct import correct
from mtkd_edge.lab.placement import place
from mtkd_edge.lab.qdq import activation_scales, drop_unused, insert


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
    correct(model, calibration.corrections, [edge.node for edge in placement.weights])
    insert(model, placement, activation_scales(placement, calibration.ranges, equal))
    drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    if problems := check_qdq(model, exclude):
        raise GateError(f"{source} cannot be quantised: {'; '.join(problems[:5])}", "train again, or report this")
    write_file(target, model.SerializeToString())
    return len(placement.activations)
