"""The INT8 build of a bundle: quantise, ask the gate, lift the most sensitive layers, ask again.

Each try is a whole engine, compiled and compared with FP32; what passes first is kept, with its proof. A build that no
try gets through the gate ends with the gate's error: an engine that is not proved is not written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

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

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Request:
    """What is asked for, and the same for every try: the engine folder `out` for `target`, with what the gate needs."""

    out: Path
    target: Target
    expected: Expected
    false_alarms: float
    progress: Progress


@dataclass(frozen=True)
class Source:
    """What is quantised: a bundle's folder, the ranges and sensitivity of its graph, and where these are kept."""

    bundle: Path
    found: Calibration
    evidence: str


@dataclass(frozen=True)
class Passed:
    """An engine that was written, and what it has in floating point."""

    manifest: EngineManifest
    lift: Lift


def build_int8(source: Source, request: Request) -> Passed:
    """The engine folder of the lightest try that the gate takes.

    Raises GateError where no try passes, and what `device.build.build_engine` and the quantiser raise.
    """
    tries = lifts(source.found.sensitivity, work_of(onnx.load(source.bundle / FEATURES)))
    for number, lift in enumerate(tries, start=1):
        last = number == len(tries)
        try:
            return Passed(attempt(source, request, lift), lift)
        except GateError as error:
            if last:
                raise refused(error, lift, source.found) from error
            request.progress("lifting sensitive layers to floating point", number, len(tries) - 1)
    raise AssertionError("the last try returns or raises")


def attempt(source: Source, request: Request, lift: Lift, notes: Mapping[str, str] = NONE) -> EngineManifest:
    """One try: these layers lifted, the rest in INT8. `notes` go into the manifest. Raises as `build_int8` does."""
    work = work_of(onnx.load(source.bundle / FEATURES))
    said = {"layers": describe(lift, len(source.found.sensitivity)), **notes}

    def prove(folder: Path, compared: Comparison) -> None:
        evidence.write(folder, compared, source.found.sensitivity, work, lift.layers)

    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, FEATURES)
        quantise(source.bundle / FEATURES, graph, source.found, exclude=lift.layers)
        return build_engine(
            source.bundle, request.out, request.target, "int8", graph, request.expected, request.false_alarms,
            source.evidence, request.progress, notes=said, evidence=prove,
        )  # fmt: skip


def describe(lift: Lift, layers: int) -> str:
    """How much is left in INT8, for people and for the manifest."""
    return f"{layers - len(lift.layers)} of {layers} layers and {lift.share:.0%} of the work in INT8"


def refused(error: GateError, lift: Lift, found: Calibration) -> GateError:
    """The gate's last word, with what was tried before it."""
    worst = max(found.sensitivity, key=lambda name: found.sensitivity[name])
    tried = f"with {describe(lift, len(found.sensitivity))}; the most sensitive layer is {worst}"
    return GateError(f"{error.message} ({tried})", error.hint)
