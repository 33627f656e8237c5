"""Engines through TensorRT 10.3 to 11. The only file that imports `tensorrt`; what it does is in `_trt_*.py`.

Knows nothing of TensorRT for RTX, which has the same API, another name, and a builder that needs no GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mtkd_edge.bundle import EngineManifest
from mtkd_edge.device.engine import EngineOptions
from mtkd_edge.device.engines import _trt_build, _trt_driver, _trt_open
from mtkd_edge.device.engines._trt_run import TensorrtEngine
from mtkd_edge.device.targets import Target
from mtkd_edge.errors import BackendError, MissingExtraError


def module() -> ModuleType:
    """The vendor's module. Raises MissingExtraError where it is not installed, BackendError where it does not load."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        fix = _trt_driver.install("tensorrt")
        raise MissingExtraError("tensorrt", "tensorrt", "an engine for this target", fix) from error
    except (ImportError, OSError) as error:
        raise BackendError(f"tensorrt cannot be loaded: {error}", "mtkd-edge doctor") from error
    found: ModuleType = tensorrt
    return found


def build(folder: Path, target: Target, precision: str) -> dict[str, str]:
    """Compile the plans of an engine folder for this machine's GPU; what they were built with. Raises BackendError."""
    gpu = str(_trt_driver.find())  # its builder measures on the GPU: without one there is nothing to build for
    trt = module()
    return _trt_build.build_plans(trt, folder, target, precision, gpu, _trt_build.timings_file(trt, gpu))


def open_engine(folder: Path, manifest: EngineManifest, options: EngineOptions) -> TensorrtEngine:
    """An engine folder whose manifest is read already -> engine. Raises BackendError, BundleError."""
    return _trt_open.open_engine(module(), folder, manifest, options)
