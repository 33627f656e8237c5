"""Which target an engine is built for where the user does not say: this machine's GPU, or its CPU."""

from __future__ import annotations

from importlib.util import find_spec

from mtkd_edge.device.engines._trt_driver import Gpu, find_or_none

RUNTIMES = {"h100": "tensorrt", "orin-nano": "tensorrt", "orin-agx": "tensorrt", "thor": "tensorrt"}
ORIN, THOR, DATA_CENTRE = (8, 7), (11, 0), frozenset({(7, 0), (8, 0), (9, 0), (10, 0), (10, 3)})


def default_target() -> tuple[str, str]:
    """The name of the recipe, and why it is that one, for people."""
    gpu = find_or_none()
    if gpu is None:
        return "cpu", "no NVIDIA GPU here"
    name = fitting(gpu)
    runtime = RUNTIMES.get(name, "tensorrt_rtx")
    if find_spec(runtime) is None:
        return "cpu", f"{gpu} is here, but {runtime} is not installed: see mtkd-edge doctor"
    return name, str(gpu)


def fitting(gpu: Gpu) -> str:
    """The recipe made for a GPU."""
    if gpu.capability == ORIN:
        return "orin-agx" if "AGX" in gpu.name else "orin-nano"
    if gpu.capability == THOR:
        return "thor"
    return "h100" if gpu.capability in DATA_CENTRE else "rtx"
