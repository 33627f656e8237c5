"""The kernel's part of `build-engine`: compile it for this machine's GPU, try it, and say what will score and why.

An engine without the kernel still scores, by the plan of head.onnx; the manifest says so. So does one that is opened on
a GPU of another arch than the kernel's: plans may be compatible with it, machine code is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtkd_edge.bundle import write_file
from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.engines._cache import user_cache
from mtkd_edge.device.engines._trt_driver import Gpu
from mtkd_edge.device.kernel import compiler
from mtkd_edge.device.kernel.launcher import Kernel
from mtkd_edge.device.kernel.layout import Layout, layout
from mtkd_edge.errors import BackendError
from mtkd_edge.score import ScoreSpec

NOTE = "scorer"
"""The key of an engine's `built` that says what scores."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A kernel ready to load: its machine code and the layout that it must have been made for."""

    cubin: bytes
    layout: Layout


def file_name(gpu: Gpu) -> str:
    """score.sm_87.cubin"""
    return f"score.{compiler.arch_of(gpu.capability)}.cubin"


def try_out(fused: Fused) -> None:
    """Load it and let go of it. Raises BackendError where this machine's driver does not take the code."""
    device = _cuda.Device()
    with device.current() as cuda:
        Kernel(cuda, fused.cubin, fused.layout, 1).close()


def build(folder: Path, spec: ScoreSpec, gpu: Gpu | None, attempt: Callable[[Fused], None] = try_out) -> dict[str, str]:
    """Write the cubin into an engine folder where one can be had; {"scorer": what scores}, for the manifest.

    The features are float32: every precision of features.onnx ends in a cast to it.
    """
    if gpu is None:
        return {NOTE: "plan.head: no GPU here to compile the kernel for"}
    arch = compiler.arch_of(gpu.capability)
    reasons = []
    for found in compiler.candidates():
        made = _compiled(spec, arch, found, attempt)
        if isinstance(made, Fused):
            write_file(folder / file_name(gpu), made.cubin)
            return {NOTE: f"fused kernel for {arch}, compiled by {found.name}"}
        reasons.append(made)
    nobody = "this machine has neither nvcc nor NVRTC to compile the kernel with"
    # the head plan scores the same, only slower; what went wrong stays readable in engine.json
    return {NOTE: f"plan.head: {'; '.join(dict.fromkeys(reasons)) or nobody}"}


def _compiled(spec: ScoreSpec, arch: str, found: compiler.Compiler, attempt: Callable[[Fused], None]) -> Fused | str:
    """The kernel by one compiler, tried out; or why there is none."""
    try:
        shaped = layout(spec)
        fused = Fused(compiler.cubin(shaped, arch, found, user_cache() / "kernels"), shaped)
        attempt(fused)
    except (BackendError, ValueError) as error:
        return str(getattr(error, "message", error))
    return fused
