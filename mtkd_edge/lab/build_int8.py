"""The INT8 build of a bundle: quantise, ask the gate, lift the most sensitive layers, ask again.

Each try is a whole engine, compiled and compared with FP32; what passes first is kept, with its proof. A build that no
try gets through the gate ends with the gate's error: an engine that is not proved is not written.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from mtkd_edge.bundle import FEATURES, EngineManifest
from mtkd_edge.device.build import build_engine
from mtkd_edge.device.gate import Comparison, Expected
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import GateError
from mtkd_edge.lab import evidence
from mtkd_edge.lab.calibrate import Calibration
from mtkd_edge.lab.lift import Lift, lifts, work_of
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.progress import Progress


def build_int8(
    source: Path,
    out: Path,
    target: Target,
    expected: Expected,
    false_alarms: float,
    found: Calibration,
    calibration: str,
    progress: Progress,
) -> EngineManifest:
    """The engine folder `out` from the bundle `source`. `found`: its ranges and sensitivity, kept at `calibration`.

    Raises GateError where no try passes, and what `device.build.build_engine` and the quantiser raise.
    """
    work = work_of(onnx.load(source / FEATURES))
    tries = lifts(found.sensitivity, work)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, FEATURES)
        for number, lift in enumerate(tries, start=1):
            quantise(source / FEATURES, graph, found, exclude=lift.layers)

            def prove(folder: Path, compared: Comparison, lift: Lift = lift) -> None:
                evidence.write(folder, compared, found.sensitivity, work, lift.layers)

            try:
                return build_engine(
                    source, out, target, "int8", graph, expected, false_alarms, calibration, progress,
                    layers=describe(lift, len(found.sensitivity)), evidence=prove,
                )  # fmt: skip
            except GateError as error:
                if number == len(tries):
                    raise refused(error, lift, found) from error
                progress("lifting sensitive layers to floating point", number, len(tries) - 1)
    raise AssertionError("the last try returns or raises")


def describe(lift: Lift, layers: int) -> str:
    """How much is left in INT8, for people and for the manifest."""
    return f"{layers - len(lift.layers)} of {layers} layers and {lift.share:.0%} of the work in INT8"


def refused(error: GateError, lift: Lift, found: Calibration) -> GateError:
    """The gate's last word, with what was tried before it."""
    worst = max(found.sensitivity, key=lambda name: found.sensitivity[name])
    tried = f"with {describe(lift, len(found.sensitivity))}; the most sensitive layer is {worst}"
    return GateError(f"{error.message} ({tried})", error.hint)
