"""The memory of one batch on its way through a TensorRT engine, in main memory and on the device, and its events.

A slot belongs to one batch from `submit` to the end of `collect`: nobody else writes to it in between, which is what
keeps two batches under way apart. Pinned memory is what the device copies from and to without waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from mtkd_edge.device.engine import Bounds, Frames
from mtkd_edge.device.engines._trt_score import Tensors

MARKS = "uploading", "uploaded", "begun", "features", "scored", "done"
"""Its events, in order: the first two on the stream of the uploads, the others on that of the work."""


class Slot:
    """`device` and `pinned`: memory by tensor, for `batch` images. Made and closed with the context current.

    `count`: the images it holds, 0 = free. `bounds`: which of their maps are wanted, None = all. `graph`: whether they
    went off as one graph.
    """

    def __init__(self, cuda: Any, batch: int, frames: str, tensors: Tensors, *, shared: Mapping[str, Any]) -> None:
        """`shared`: device memory that is another slot's as well, and not freed here."""
        self.count, self.graph = 0, False
        self.bounds: Bounds | None = None
        self._frames, self._shared = frames, shared
        self.pinned: dict[str, NDArray[Any]] = {}
        self.device: dict[str, Any] = dict(shared)
        for name, (shape, kind) in tensors.items():
            self.pinned[name] = cuda.pagelocked_empty((batch, *shape), kind)
            if name not in shared:
                self.device[name] = cuda.mem_alloc(self.pinned[name].nbytes)
        self.events = {mark: cuda.Event() for mark in MARKS}

    def take(self, frames: Frames, bounds: Bounds | None) -> None:
        """Frames into pinned memory."""
        self.count, self.bounds, self.graph = len(frames), bounds, False
        self.pinned[self._frames][: self.count] = frames

    def mark(self, name: str, stream: Any) -> None:
        """Record an event."""
        self.events[name].record(stream)

    def results(self, name: str) -> NDArray[Any]:
        """What was copied back of a tensor, as the caller's own."""
        return self.pinned[name][: self.count].copy()

    def stages(self, scorer: str) -> dict[str, float]:
        """Milliseconds by the GPU's clock, once the batch is done."""
        marks = [("graph", "begun", "done")] if self.graph else [
            ("upload", "uploading", "uploaded"), ("features", "begun", "features"),
            (scorer, "features", "scored"), ("download", "scored", "done"),
        ]  # fmt: skip
        return {name: float(self.events[a].time_till(self.events[b])) for name, a, b in marks}

    def close(self) -> None:
        """Free it; nothing may be under way."""
        for name in self.device.keys() - self._shared.keys():
            self.device[name].free()
        self.device.clear()
        self.pinned.clear()
        self.events.clear()
