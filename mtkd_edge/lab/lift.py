"""Which layers leave INT8 when the gate refuses: those that cost the map most for the work they save.

Layers go one by one, in order of squared sensitivity (`sensitivity.py`) by work, until the error that the others are
expected to make has fallen to `STEP` of what it was; then the gate is asked again. The squares of what is left in INT8
add up, so the expected error needs no build.

Work stands for milliseconds: operations, and `MOVED` operations for every number read or written, which is what a
depthwise layer costs. It is counted and not measured: two profiles of one engine on a busy machine differ by a factor
of two in single layers, and then two builds of one run would be two engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from mtkd_edge.lab.explain import macs, shapes
from mtkd_edge.lab.placement import WEIGHTED

FIRST = 0.35
"""The error of the map that the first try accepts. On bottle 0.5 still passed the gate, with an AUROC drop of 0.0014 of
the 0.002 allowed; a first try that passes by luck is worth less than the few per cent of work that it saves."""
STEP = 0.7
"""Half the squared error; each try costs a build and the frames of the gate, so no layer has a try of its own."""
TRIES = 8
LEAST = 0.25
"""With less than this share of the work in INT8 there is nothing left that is worth an INT8 engine."""
MOVED = 16


@dataclass(frozen=True)
class Lift:
    """One try: `layers` stay in floating point, in the order in which they were lifted.

    `error` is the expected relative error of the map, `share` what part of the work is still in INT8.
    """

    layers: tuple[str, ...]
    error: float
    share: float


def lifts(sensitivity: Mapping[str, float], work: Mapping[str, float]) -> tuple[Lift, ...]:
    """The tries, each with the layers of the one before and more; at least one.

    `work`: that of every layer in `sensitivity`, in any unit.
    """
    order = sorted(sensitivity, key=lambda name: (-(sensitivity[name] ** 2) / max(work[name], 1e-12), name))
    total = sum(work[name] for name in order)
    found: list[Lift] = []
    level, lifted = FIRST, 0
    while len(found) < TRIES:
        while (error := left(sensitivity, order[lifted:])) > level:
            lifted += 1
        share = sum(work[name] for name in order[lifted:]) / total
        if found and (share < LEAST or lifted == len(found[-1].layers)):
            break
        found.append(Lift(tuple(order[:lifted]), error, share))
        level = STEP * error
    return tuple(found)


def left(sensitivity: Mapping[str, float], layers: list[str]) -> float:
    """The expected error of the map with these layers in INT8."""
    return math.sqrt(sum(sensitivity[name] ** 2 for name in layers))


def work_of(model: onnx.ModelProto) -> dict[str, float]:
    """Name of every weighted node -> its work, in operations."""
    known = shapes(model)
    return {
        node.name: macs(node, known)
        + MOVED * sum(math.prod(known[name][1]) for name in (node.input[0], node.output[0]))
        for node in model.graph.node
        if node.op_type in WEIGHTED
    }
