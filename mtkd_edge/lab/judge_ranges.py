"""Which way of choosing ranges costs the anomaly map least: one INT8 graph each, compared with the float graph.

The graphs leave in floating point what any build leaves there first (`placement.sensitive`), so that the ranges of the
layers that matter decide. Biases are not corrected here: that would cost as much again for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mtkd_edge.bundle import FEATURES, HEAD
from mtkd_edge.lab.calibrate import Judge, Ranges
from mtkd_edge.lab.placement import place, sensitive
from mtkd_edge.lab.qdq import activation_scales, insert
from mtkd_edge.lab.ranges import Method
from mtkd_edge.lab.sensitivity import relative, session


def judge(source: Path, frames: NDArray[np.uint8]) -> Judge:
    """The judge of a bundle's graphs on these frames [N, height, width, 3]: method -> error of the map."""

    def errors(found: Mapping[Method, Ranges]) -> dict[str, float]:
        model = onnx.load(source / FEATURES)
        wanted = to_map(source, model, frames)
        placement = place(model, sensitive(model))
        made: dict[str, float] = {}
        for method, ranges in found.items():
            quantised = onnx.ModelProto()
            quantised.CopyFrom(model)
            insert(quantised, placement, activation_scales(placement, ranges))
            made[method] = float(f"{relative(to_map(source, quantised, frames), wanted):.4g}")
        return made

    return errors


def to_map(source: Path, features: onnx.ModelProto, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """frames -> maps [N, H, W], by a feature graph and the bundle's head."""
    names = [value.name for value in features.graph.output]
    made = dict(zip(names, session(features).run(names, {"frames": frames}), strict=True))
    found: NDArray[np.float32] = session(onnx.load(source / HEAD)).run(["map"], made)[0]
    return found
