"""An engine folder of TensorRT -> engine, if this machine is the one that its plans were built for.

Knows nothing of how a plan is run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

from mtkd_edge.bundle import EngineManifest
from mtkd_edge.device.engine import EngineOptions
from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.engines._trt_build import PLANS
from mtkd_edge.device.engines._trt_run import Fusion, TensorrtEngine
from mtkd_edge.device.kernel import build as kernels
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.errors import BackendError, BundleError


def open_engine(trt: ModuleType, folder: Path, manifest: EngineManifest, options: EngineOptions) -> TensorrtEngine:
    """An engine folder -> engine. Raises BackendError where this machine is not the one the plans were built for."""
    gpu = _trt_driver.find(options.gpu)  # first: without a driver, trt.Runtime crashes the process
    check_machine(manifest, trt.__version__, gpu)
    plans = [read_plan(folder / name, manifest.files.get(name, "")) for name in PLANS]
    fusion, cubin, model = None, kernels.file_name(gpu), manifest.model
    if cubin in manifest.files:
        kernel = kernels.Fused(read_plan(folder / cubin, manifest.files[cubin]), layout(model.score))
        fusion = Fusion(kernel, tuple(model.feature_names()))
    device = _cuda.Device(options.gpu)
    name = f"{model.name}-{manifest.target}"
    graph = manifest.built.get("cuda_graph") == "yes" if options.cuda_graph is None else options.cuda_graph
    return TensorrtEngine(
        trt, device, plans, batch=manifest.batch[2], name=name, fusion=fusion, cuda_graph=graph,
        # only where it is needed: TensorRT refuses such plans without, and other plans have none to run
        host_code=manifest.built.get("version_compatible") == "yes",
    )  # fmt: skip


def check_machine(manifest: EngineManifest, version: str, gpu: _trt_driver.Gpu) -> None:
    """A plan is code for one TensorRT and one kind of GPU. Raises BackendError unless both are here."""
    built, hint = manifest.built, f"mtkd-edge build-engine --{manifest.precision} --target {manifest.target}"
    if built.get("version_compatible") != "yes" and built.get("version") != version:
        raise BackendError(f"the plan is of {manifest.backend} {built.get('version')}, here is {version}", hint)
    if built.get("hardware_compatible") != "yes" and built.get("gpu", "none") not in ("none", str(gpu)):
        raise BackendError(f"the plan is for {built.get('gpu')}, here is {gpu}", hint)


def read_plan(path: Path, wanted: str) -> bytes:
    """The bytes of a plan whose sha256 is the manifest's. A plan is native code: what was hashed is what is run."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "copy the whole folder again") from error
    if hashlib.sha256(data).hexdigest() != wanted:
        raise BundleError(f"{path} was changed: its sha256 is not the manifest's", "copy the folder again")
    return data
