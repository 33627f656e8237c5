"""A TensorRT plan of the features and a scorer -> maps and scores, over one stream and shared device memory.

The vendor's module and the CUDA device are arguments. Knows nothing of how plans and kernels are built.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import NO_BOUNDS, Bounds, Frames, Inference, check_frames
from mtkd_edge.device.engines import _cuda, _cuda_graph
from mtkd_edge.device.engines._cuda_graph import Graphs
from mtkd_edge.device.engines._trt_build import made, make_log
from mtkd_edge.device.engines._trt_plan import Plan
from mtkd_edge.device.engines._trt_score import HeadScorer, KernelScorer, Scorer
from mtkd_edge.device.engines._trt_slot import Slot
from mtkd_edge.device.kernel import build as kernels
from mtkd_edge.errors import BackendError, MtkdError

AT_ONCE = 2
"""Batches that may be under way: one is computed, the next is uploaded; a third could only wait."""
Mark = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Fusion:
    """A kernel that replaces the plan of the head, and the features it reads: all students, then all references."""

    kernel: kernels.Fused
    names: tuple[str, ...]


class TensorrtEngine:
    """An engine on one GPU, used from the thread that made it. All buffers are made once, for the largest batch.

    plans: of the features and of the head; with a `fusion` the second is not even loaded. Two batches may be under way:
    the second is copied into pinned memory, and uploaded on a stream of its own, while the first is computed.

    `cuda_graph`: the whole of a batch (upload, features, score, download) is one launch once STEADY batches of one size
    have passed. Uploads are then a part of it and wait for the batch before. `remark` says why there is none.

    `host_code`: the plans bring code for this CPU, as version-compatible ones do, and TensorRT may run it.
    """

    at_once = AT_ONCE

    def __init__(
        self,
        trt: ModuleType,
        device: _cuda.Device,
        plans: Sequence[bytes],
        *,
        batch: int,
        name: str = "tensorrt",
        fusion: Fusion | None = None,
        cuda_graph: bool = False,
        host_code: bool = False,
    ) -> None:
        self.name, self.batch = name, batch
        self._device = device
        self._thread = threading.get_ident()
        self._open = True
        with device.current() as cuda:
            log = make_log(trt)
            self._runtime = made(trt.Runtime(log), "a runtime", log)
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self._features = Plan(trt, self._runtime, plans[0], log)
            tensors = {key: (shape, self._features.types[key]) for key, shape in self._features.shapes.items()}
            self._scorer: Scorer
            if fusion is None:
                self._scorer = HeadScorer(trt, self._runtime, plans[1], log)
            else:
                self._scorer = KernelScorer(cuda, fusion.kernel, batch, fusion.names, tensors)
            self._input = self._features.inputs[0]
            own = {self._input: tensors.pop(self._input)} | self._scorer.results
            self._buffers = {key: cuda.mem_alloc(batch * size(*tensor)) for key, tensor in tensors.items()}
            self._stream, self._copies = cuda.Stream(), cuda.Stream()
            self._refused, self._graphs = self._make_graphs(fusion is not None) if cuda_graph else ("", None)
            # TensorRT's context must find the same addresses for every graph: one input, uploaded by the graph itself
            shared = {self._input: cuda.mem_alloc(batch * size(*own[self._input]))} if self._graphs is not None else {}
            self._buffers |= shared
            self._slots = [Slot(cuda, batch, self._input, own, shared=shared) for _ in range(AT_ONCE)]
        height, width, channels = self._features.shapes[self._input]
        self._frame = height, width, channels

    @property
    def remark(self) -> str:
        """As `Pipelined` says: why frames are not launched as a CUDA graph although they should be."""
        why = self._refused or (self._graphs.refused if self._graphs is not None else "")
        return f"no CUDA graph, each step is launched on its own: {why}" if why else ""

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8 -> maps, scores, and the stages as the GPU's clock saw them."""
        return self.collect(self.submit(frames))

    def submit(self, frames: Frames, bounds: Bounds | None = None) -> int:
        """As `Pipelined` says."""
        self._check_use()
        check_frames(frames, self._frame, self.batch)
        ticket = next((number for number, slot in enumerate(self._slots) if not slot.count), None)
        if ticket is None:
            raise BackendError(f"the engine {self.name} has {AT_ONCE} batches under way", "collect one first")
        slot = self._slots[ticket]
        with self._device.current() as cuda, self._settled_on_error(slot):
            slot.take(frames, bounds if "verdict" in self._scorer.results else None)
            slot.events["begun"].record(self._stream)
            kind = slot.count, slot.bounds
            slot.graph = self._graphs is not None and self._graphs.launch(kind, ticket, lambda: self._capture(slot))
            if not slot.graph:
                self._queue(cuda, slot, self._copies if self._graphs is None else self._stream, slot.mark)
            slot.mark("done", self._stream)
        return ticket

    def collect(self, ticket: int) -> Inference:
        """As `Pipelined` says."""
        self._check_use()
        if not (0 <= ticket < AT_ONCE and self._slots[ticket].count):
            raise BackendError(f"the engine {self.name} has no batch number {ticket} under way")
        slot = self._slots[ticket]
        with self._device.current() as cuda, self._settled_on_error(slot):
            slot.events["done"].synchronize()
            has_map = None if slot.bounds is None else self._fetch_maps(cuda, slot)
            maps, scores = slot.results("map"), slot.results("score")
            stages = slot.stages(self._scorer.stage)
            slot.count = 0
        if has_map is not None:
            maps[~has_map] = np.nan  # what lies in that memory is of another batch
        return Inference(maps, scores, stages, has_map)

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """The outputs of the feature graph by name. Raises BackendError, also while a batch is under way."""
        self._check_use()
        check_frames(frames, self._frame, self.batch)
        slot, count = self._slots[0], len(frames)
        if any(one.count for one in self._slots):
            raise BackendError(f"the engine {self.name} has a batch under way", "collect it first")
        found: dict[str, NDArray[np.float32]] = {}
        with self._device.current() as cuda, self._settled_on_error(slot):
            if self._graphs is not None:
                self._graphs.forget()
            slot.take(frames, None)
            cuda.memcpy_htod_async(slot.device[self._input], slot.pinned[self._input][:count], self._stream)
            self._features.run(count, self._addresses(slot), self._stream.handle)
            self._stream.synchronize()
            for tensor in self._features.outputs:
                found[tensor] = np.empty((count, *self._features.shapes[tensor]), self._features.types[tensor])
                cuda.memcpy_dtoh(found[tensor], self._buffers[tensor])
            slot.count = 0
        return found

    def close(self) -> None:
        """Frees everything in its own context: destructors elsewhere would leak. Calling it twice is harmless.

        Raises BackendError in another thread, where pycuda would free nothing and warn.
        """
        if not self._open:
            return
        self._check_thread()
        self._open = False
        with self._device.current() as cuda:
            self._settle(cuda)
            if self._graphs is not None:
                self._graphs.forget()
            # TensorRT's objects and the kernel before the memory and the context they use
            self._scorer.close()
            del self._features, self._scorer, self._runtime
            for slot in self._slots:
                slot.close()
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            self._slots.clear()
            del self._stream, self._copies

    def __enter__(self) -> TensorrtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_graphs(self, fused: bool) -> tuple[str, Graphs | None]:
        """Why there can be no graphs, and else the graphs."""
        if not fused:
            return "the plan of the head scores, and would need a context for each graph", None
        try:
            return "", Graphs(_cuda_graph.import_bindings(), self._stream.handle)
        except MtkdError as error:
            return f"{error.message}; {error.hint}", None

    def _queue(self, cuda: Any, slot: Slot, uploads: Any, mark: Mark) -> None:
        """All work of a slot's batch, but for maps that its verdict bits will ask for."""
        count, addresses = slot.count, self._addresses(slot)
        mark("uploading", uploads)
        cuda.memcpy_htod_async(slot.device[self._input], slot.pinned[self._input][:count], uploads)
        mark("uploaded", uploads)
        if uploads is not self._stream:
            self._stream.wait_for_event(slot.events["uploaded"])
        mark("begun", self._stream)
        self._features.run(count, addresses, self._stream.handle)
        mark("features", self._stream)
        self._scorer.queue(count, addresses, self._stream, slot.bounds or NO_BOUNDS)
        mark("scored", self._stream)
        for tensor in self._scorer.results:
            if tensor != "map" or slot.bounds is None:
                cuda.memcpy_dtoh_async(slot.pinned[tensor][:count], slot.device[tensor], self._stream)

    def _capture(self, slot: Slot) -> None:
        # pushed again, so that what pycuda raises comes as a BackendError; events of a capture would tell no time
        with self._device.current() as cuda:
            self._queue(cuda, slot, self._stream, lambda name, stream: None)

    def _fetch_maps(self, cuda: Any, slot: Slot) -> NDArray[np.bool_]:
        """Copy the maps that the verdict bits ask for; which those were. The next batch may be computed meanwhile."""
        has_map = slot.results("verdict") != 0
        pinned, start = slot.pinned["map"], int(slot.device["map"])
        for number in np.flatnonzero(has_map).tolist():
            cuda.memcpy_dtoh_async(pinned[number], start + number * pinned[number].nbytes, self._copies)
        if has_map.any():
            self._copies.synchronize()
        return np.asarray(has_map)

    @contextmanager
    def _settled_on_error(self, slot: Slot) -> Iterator[None]:
        """A slot is free again only when nothing reads or writes its memory any more."""
        try:
            yield
        except BaseException:
            with self._device.current() as cuda:
                self._settle(cuda)
            slot.count = 0
            raise

    def _settle(self, cuda: Any) -> None:
        for stream in (self._copies, self._stream):
            # where even waiting fails nothing is under way any more, and the error that led here is told
            with contextlib.suppress(cuda.Error):
                stream.synchronize()

    def _check_use(self) -> None:
        if not self._open:
            raise BackendError(f"the engine {self.name} is closed")
        self._check_thread()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError(
                f"the engine {self.name} was made in another thread: CUDA contexts and their objects belong to one",
                "open an engine of its own in each thread",
            )

    def _addresses(self, slot: Slot) -> dict[str, int]:
        return {name: int(buffer) for name, buffer in (self._buffers | slot.device).items()}


def size(shape: Sequence[int], kind: np.dtype[Any]) -> int:
    """Bytes of one image's tensor."""
    return int(np.prod(shape)) * kind.itemsize
