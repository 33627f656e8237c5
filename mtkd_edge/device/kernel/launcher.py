"""A cubin -> launches on one GPU. pycuda's driver module is an argument: whoever calls has the context current.

Knows nothing of how a cubin is made, of TensorRT, or of verdicts beyond the bits the kernel writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtkd_edge.device.engine import NO_BOUNDS, Bounds
from mtkd_edge.device.kernel.layout import BLOCK, Layout
from mtkd_edge.errors import BackendError

ARGUMENTS = "PPPPPddi"
"""distances, tickets, map, scores, verdicts, bounds, batch; before them a pointer for each feature map."""
ANOMALOUS, INVALID, REGION = 1, 2, 4
"""Verdict bits, as score.cu has them: score above its bound, not finite, some map value above its bound."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Device addresses of map [N, H, W] float32, score [N] float32 and verdict bits [N] uint32."""

    maps: int
    scores: int
    verdicts: int


class Kernel:
    """The loaded kernel with its scratch memory for `batch` images. Made, used and closed with the context current.

    Raises BackendError for a cubin made for another spec, type of features or kernel; what CUDA reports comes as
    pycuda's own error, which `_cuda.Device` translates.
    """

    def __init__(self, cuda: Any, cubin: bytes, found: Layout, batch: int) -> None:
        self._layout, self._batch = found, batch
        self._module: Any = cuda.module_from_buffer(cubin)
        made_for = np.zeros(1, np.uint64)
        address, _ = self._module.get_global("spec_digest")
        cuda.memcpy_dtoh(made_for, address)
        if int(made_for[0]) != int(found.digest(), 16):
            self._module = None
            raise BackendError(
                f"the scoring kernel was made for {int(made_for[0]):016x}, this model needs {found.digest()}",
                "build the engine again: mtkd-edge build-engine",
            )
        self._function: Any = self._module.get_function("score")
        self._function.prepare("P" * 2 * len(found.levels) + ARGUMENTS)
        self._distances: Any = cuda.mem_alloc(4 * found.positions * batch)
        self._tickets: Any = cuda.mem_alloc(4 * batch)
        cuda.memset_d32(self._tickets, 0, batch)

    def queue(
        self,
        count: int,
        features: Sequence[int],
        outputs: Outputs,
        stream: Any,
        bounds: Bounds = NO_BOUNDS,
        block: int = BLOCK,
    ) -> None:
        """Queue the work of `count` images. features: device addresses, all students and then all references.

        Raises BackendError for more images than there is scratch memory for.
        """
        if not 1 <= count <= self._batch:
            raise BackendError(f"the scoring kernel was made for 1 to {self._batch} images, got {count}")
        scratch = int(self._distances), int(self._tickets)
        results = outputs.maps, outputs.scores, outputs.verdicts
        arguments = (*features, *scratch, *results, bounds.score, bounds.map, count)
        grid = (count * self._layout.tiles(block), 1)
        shared = self._layout.shared_bytes
        self._function.prepared_async_call(grid, (block, 1, 1), stream, *arguments, shared_size=shared)

    def close(self) -> None:
        """Frees scratch memory and machine code. To be called once, with the context current."""
        self._distances.free()
        self._tickets.free()
        self._function = self._module = None
