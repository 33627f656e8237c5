"""What turns the features of a TensorRT engine into maps and scores: the fused kernel, or the plan of head.onnx.

Both work on the same stream and device memory as the plan of the features. Knows nothing of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from mtkd_edge.device.engine import Bounds
from mtkd_edge.device.engines._trt_plan import Plan
from mtkd_edge.device.kernel.build import Fused
from mtkd_edge.device.kernel.launcher import Kernel, Outputs
from mtkd_edge.errors import BackendError

Tensors = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape without the batch, and type, by name."""


class Scorer(Protocol):
    """`stage` is its name in `bench`, `results` what it makes, of a batch: "map", "score" and, if it can, "verdict".

    The bits of `verdict` say which maps are worth copying; what a verdict is `mtkd_edge.verdict` decides.
    """

    stage: str
    results: Tensors

    def queue(self, count: int, addresses: Mapping[str, int], stream: Any, bounds: Bounds) -> None:
        """Queue the work of `count` images on pycuda's `stream`. Raises BackendError."""
        ...

    def close(self) -> None:
        """Frees what it holds; the context must be current."""
        ...


class HeadScorer:
    """head.onnx as TensorRT compiled it."""

    stage = "head"

    def __init__(self, trt: ModuleType, runtime: Any, plan: bytes, log: Any) -> None:
        self._plan: Plan | None = Plan(trt, runtime, plan, log)
        self.results: Tensors = {name: (self._plan.shapes[name], self._plan.types[name]) for name in self._plan.outputs}

    def queue(self, count: int, addresses: Mapping[str, int], stream: Any, bounds: Bounds) -> None:
        """As `Scorer` says."""
        assert self._plan is not None, "queued after close"
        self._plan.run(count, addresses, stream.handle)

    def close(self) -> None:
        """As `Scorer` says."""
        self._plan = None


class KernelScorer:
    """The fused kernel. `features`: names and types of the feature plan's outputs.

    Raises BackendError where the plan's features are not what the kernel reads.
    """

    stage = "score"

    def __init__(self, cuda: Any, fused: Fused, batch: int, names: Sequence[str], features: Tensors) -> None:
        spec, wanted = fused.layout.spec, np.dtype(fused.layout.features)
        for name, level in zip(names, (*spec.levels, *spec.levels), strict=True):
            shape = level.channels, level.height, level.width
            if features.get(name) != (shape, wanted):
                raise BackendError(
                    f"the scoring kernel reads {name} as {shape} of {wanted}, the plan makes {features.get(name)}",
                    "build the engine again: mtkd-edge build-engine",
                )
        self._names = names
        self._kernel = Kernel(cuda, fused.cubin, fused.layout, batch)
        self.results: Tensors = {
            "map": ((spec.height, spec.width), np.dtype(np.float32)),
            "score": ((), np.dtype(np.float32)),
            "verdict": ((), np.dtype(np.uint32)),
        }

    def queue(self, count: int, addresses: Mapping[str, int], stream: Any, bounds: Bounds) -> None:
        """As `Scorer` says."""
        outputs = Outputs(addresses["map"], addresses["score"], addresses["verdict"])
        self._kernel.queue(count, [addresses[name] for name in self._names], outputs, stream, bounds)

    def close(self) -> None:
        """As `Scorer` says."""
        self._kernel.close()
