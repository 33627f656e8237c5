"""Bundle -> engine folder: compile for a target, prove it against FP32, fit its threshold, then appear all at once.

Everything happens in a temporary folder beside the result. A build that fails or is killed leaves the old engine as it
was. Knows nothing of torch, onnx or calibration: the quantised graph comes ready, with the name of its evidence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from mtkd_edge import __version__, bundle, onnx_data, threshold
from mtkd_edge.bundle import ENGINE, FEATURES, GOLDEN, HEAD, EngineManifest, Manifest
from mtkd_edge.device import gate
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.engines import _trt_driver, open_engine, openvino
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.frames import Frame
from mtkd_edge.progress import Progress, silent

Precision = Literal["int8", "fp16", "fp32"]
Evidence = Callable[[Path, gate.Comparison], None]
"""Writes more files into an engine folder that has passed its gate; they are sealed with it."""


def build_engine(
    source: Path,
    out: Path,
    target: Target,
    precision: Precision,
    graph: Path | None,
    expected: gate.Expected,
    false_alarms: float,
    calibration: str = "",
    progress: Progress = silent,
    notes: Mapping[str, str] = MappingProxyType({}),
    evidence: Evidence | None = None,
) -> EngineManifest:
    """Write the engine folder `out` from the bundle folder `source` and return its manifest.

    `graph`: the quantised or half-precision features.onnx; None means the bundle's own. `expected`: from `expect`, for
    gate and threshold. An engine folder at `out` is replaced, anything else there is a UsageError.
    `notes` say, for people, how the graph was made; the manifest keeps them under `built`.
    Raises GateError with the gate's figures, BackendError, BundleError.
    """
    model = bundle.load_bundle(source)
    check_place(out)
    needs_graph = precision == "int8" or (precision == "fp16" and target.backend != "openvino")
    if needs_graph and graph is None:
        raise UsageError(f"an {precision} engine for {target.name} needs a graph of that precision, got none", "--fp32")
    work = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        for name, origin in ((FEATURES, graph or source / FEATURES), (HEAD, source / HEAD), (GOLDEN, source / GOLDEN)):
            shutil.copyfile(origin, work / name)
        for name in (FEATURES, HEAD):
            onnx_data.demand(work / name)
        progress("compile", 0, 1, target.name)
        built = compile_plans(work, target, precision) | dict(notes)
        built |= compile_kernel(work, target, model)
        manifest = draft(model, target, precision, calibration, built)
        progress("compile", 1, 1, target.name)
        manifest = finish(work, manifest, target, expected, false_alarms, evidence, progress)
        swap(work, out)
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error}", "check the free space and permissions") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def expect(source: Path, held_out: Sequence[Frame], progress: Progress = silent) -> gate.Expected:
    """What the FP32 graphs of a bundle make of held-out frames of good parts and of copies with a defect.

    Raises DataError for too few frames, BundleError for a damaged bundle, BackendError.
    """
    bundle.load_bundle(source)
    if len(held_out) < threshold.MINIMUM:
        raise DataError(
            f"{len(held_out)} held-out photos; the gate and the threshold need at least {threshold.MINIMUM}",
            "train with more photos of good parts",
        )
    with openvino.OpenvinoEngine(source / FEATURES, source / HEAD, name="fp32") as reference:
        return gate.expect(reference, held_out, progress=progress)


def check_place(out: Path) -> None:
    """Raises UsageError where something stands that an engine must not replace."""
    if out.exists() and not (out / ENGINE).is_file():
        raise UsageError(f"{out} is there and is not an engine; it is not replaced", "--out FOLDER")


def compile_plans(work: Path, target: Target, precision: Precision) -> dict[str, str]:
    """The target's own compiled form, where it has one, and what the manifest says of this build. BackendError."""
    if target.backend == "openvino":
        recipe = target.openvino
        return openvino.versions() | {"hint": recipe.hint, "threads": str(recipe.threads)}
    if target.backend == "tensorrt":
        from mtkd_edge.device.engines import tensorrt

        return tensorrt.build(work, target, precision)
    from mtkd_edge.device.engines import tensorrt_rtx

    return tensorrt_rtx.build(work, target, precision)


def compile_kernel(work: Path, target: Target, model: Manifest) -> dict[str, str]:
    """The fused scoring kernel for targets of NVIDIA, and what the manifest says of it."""
    if target.backend == "openvino":
        return {}
    from mtkd_edge.device.kernel import build as kernels

    return kernels.build(work, model.score, _trt_driver.find_or_none())


def draft(
    model: Manifest, target: Target, precision: Precision, calibration: str, built: dict[str, str]
) -> EngineManifest:
    """The manifest before the gate has spoken: enough to open the engine."""
    return EngineManifest(
        target=target.name,
        backend=target.backend,
        precision=precision,
        batch=(target.batch.min, target.batch.opt, target.batch.max),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=model,
        built={"mtkd-edge": __version__, **built},
        gate={},
        calibration=calibration,
        files={},
    )


def finish(
    work: Path,
    manifest: EngineManifest,
    target: Target,
    expected: gate.Expected,
    false_alarms: float,
    evidence: Evidence | None,
    progress: Progress,
) -> EngineManifest:
    """Gate, threshold, evidence and the final manifest, written into `work`."""
    manifest = msgspec.structs.replace(manifest, files=bundle.seal(work))
    engine, note = runnable(work, manifest)
    with engine:
        compared = gate.compare(engine, expected, false_alarms, progress)
    gate.demand(compared.figures, target.gate, manifest.precision)
    if evidence is not None:
        evidence(work, compared)
    manifest = msgspec.structs.replace(
        manifest, gate=compared.figures, built=manifest.built | note, files=bundle.seal(work)
    )
    bundle.save(work, manifest, compared.threshold)
    return manifest


def runnable(work: Path, manifest: EngineManifest) -> tuple[Engine, dict[str, str]]:
    """The engine to measure, and what the manifest must say about it.

    A plan that was built without a GPU cannot run here: OpenVINO then runs the same graph, and the manifest says so.
    """
    if manifest.backend == "openvino" or _trt_driver.find_or_none() is not None:
        return open_engine(work, manifest), {"gate": "measured with this engine"}
    engine = openvino.OpenvinoEngine(work / FEATURES, work / HEAD, name=f"{manifest.model.name}-{manifest.target}")
    return engine, {"gate": "measured with OpenVINO on the same graph; the plan itself has not run, no GPU here"}


def swap(work: Path, out: Path) -> None:
    """Put the finished folder in its place; the old one goes only when the new one stands. Raises OSError."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old.tmp")
    if out.exists():
        out.rename(old)
    try:
        work.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
