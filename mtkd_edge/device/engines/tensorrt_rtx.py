"""Engines through TensorRT for RTX. The only file that imports `tensorrt_rtx`; what it does is in `_trt_*.py`.

Its builder needs no GPU, so the whole build runs on any x86-64 or aarch64 machine; only running the plan needs one.
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
        import tensorrt_rtx
    except ModuleNotFoundError as error:
        raise MissingExtraError("tensorrt-rtx", "rtx", "an engine for this target") from error
    except (ImportError, OSError) as error:
        raise BackendError(f"tensorrt_rtx cannot be loaded: {error}", "mtkd-edge doctor") from error
    found: ModuleType = tensorrt_rtx
    return found


def build(folder: Path, target: Target, precision: str) -> dict[str, str]:
    """Compile the plans of an engine folder, with or without a GPU; what they were built with. Raises BackendError."""
    gpu = _trt_driver.find_or_none()
    # no timings are kept: it compiles for the GPU when the plan is loaded, and measures nothing here
    return _trt_build.build_plans(module(), folder, target, precision, str(gpu) if gpu else "none")


def open_engine(folder: Path, manifest: EngineManifest, options: EngineOptions) -> TensorrtEngine:
    """An engine folder whose manifest is read already -> engine. Raises BackendError, BundleError."""
    return _trt_open.open_engine(module(), folder, manifest, options)
