"""Engines: one file a vendor runtime, and only the file that bears its name imports it.

`load` turns an engine folder into an engine; it is all that the rest of the device needs to know.
"""

from __future__ import annotations

from pathlib import Path

from mtkd_edge.bundle import EngineManifest, load_engine
from mtkd_edge.device.engine import Engine, EngineOptions

DEFAULTS = EngineOptions()


def load(folder: Path, options: EngineOptions = DEFAULTS) -> Engine:
    """An engine folder -> engine, every hash checked. Raises BundleError, BackendError or MissingExtraError."""
    return open_engine(folder, load_engine(folder), options)


def open_engine(folder: Path, manifest: EngineManifest, options: EngineOptions = DEFAULTS) -> Engine:
    """As `load`, for a manifest that is known already."""
    # imported here, so that nobody pays for a runtime that is not used
    if manifest.backend == "openvino":
        from mtkd_edge.device.engines import openvino

        return openvino.open_engine(folder, manifest, options)
    if manifest.backend == "tensorrt":
        from mtkd_edge.device.engines import tensorrt

        return tensorrt.open_engine(folder, manifest, options)
    from mtkd_edge.device.engines import tensorrt_rtx

    return tensorrt_rtx.open_engine(folder, manifest, options)
