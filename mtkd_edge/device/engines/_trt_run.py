"""A TensorRT plan of the features and a scorer -> maps and scores, over one stream and shared device memory.

The vendor's module and the CUDA device are arguments. Knows nothing of how plans and kernels are built.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.bundle import EngineManifest
from mtkd_edge.device.engine import EngineOptions, Frames, Inference, check_frames
from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.engines._trt_build import PLANS, made, make_log
from mtkd_edge.device.engines._trt_plan import Plan
from mtkd_edge.device.engines._trt_score import RESULTS, HeadScorer, KernelScorer, Scorer
from mtkd_edge.device.kernel import build as kernels
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.errors import BackendError, BundleError


@dataclass(frozen=True, slots=True)
class Fusion:
    """A kernel that replaces the plan of the head, and the features it reads: all students, then all references."""

    kernel: kernels.Fused
    names: tuple[str, ...]


class TensorrtEngine:
    """An engine on one GPU, used from the thread that made it. All buffers are made once, for the largest batch.

    plans: of the features and of the head; with a `fusion` the second is not even loaded.
    """

    def __init__(
        self,
        trt: ModuleType,
        device: _cuda.Device,
        plans: Sequence[bytes],
        *,
        batch: int,
        name: str = "tensorrt",
        fusion: Fusion | None = None,
    ) -> None:
        self.name, self.batch = name, batch
        self._device = device
        self._thread = threading.get_ident()
        self._buffers: dict[str, Any] = {}
        self._pinned: dict[str, NDArray[Any]] = {}
        self._open = True
        with device.current() as cuda:
            log = make_log(trt)
            self._runtime = made(trt.Runtime(log), "a runtime", log)
            self._features = Plan(trt, self._runtime, plans[0], log)
            tensors = {key: (shape, self._features.types[key]) for key, shape in self._features.shapes.items()}
            self._scorer: Scorer
            if fusion is None:
                self._scorer = HeadScorer(trt, self._runtime, plans[1], log)
            else:
                self._scorer = KernelScorer(cuda, fusion.kernel, batch, fusion.names, tensors)
            tensors |= self._scorer.tensors
            for key, (shape, kind) in tensors.items():
                self._buffers[key] = cuda.mem_alloc(batch * int(np.prod(shape)) * kind.itemsize)
            for key in (*self._features.inputs, *RESULTS):
                shape, kind = tensors[key]
                self._pinned[key] = cuda.pagelocked_empty((batch, *shape), kind)
            self._stream = cuda.Stream()
            self._stages = "upload", "features", self._scorer.stage, "download"
            self._events = [cuda.Event() for _ in range(len(self._stages) + 1)]
        self._input = self._features.inputs[0]
        height, width, channels = self._features.shapes[self._input]
        self._frame = height, width, channels

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8 -> maps, scores, and the stages as the GPU's clock saw them."""
        self._check(frames)
        count = len(frames)
        with self._device.current() as cuda:
            self._upload(cuda, frames)
            self._features.run(count, self._addresses(), self._stream.handle)
            self._events[2].record(self._stream)
            self._scorer.queue(count, self._addresses(), self._stream)
            self._events[3].record(self._stream)
            for tensor in RESULTS:
                cuda.memcpy_dtoh_async(self._pinned[tensor][:count], self._buffers[tensor], self._stream)
            self._events[4].record(self._stream)
            self._stream.synchronize()
            times = [a.time_till(b) for a, b in zip(self._events[:-1], self._events[1:], strict=True)]
            maps, scores = self._pinned["map"][:count].copy(), self._pinned["score"][:count].copy()
        return Inference(maps, scores, dict(zip(self._stages, times, strict=True)))

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """The outputs of the feature graph by name. Raises BackendError."""
        self._check(frames)
        count = len(frames)
        found: dict[str, NDArray[np.float32]] = {}
        with self._device.current() as cuda:
            self._upload(cuda, frames)
            self._features.run(count, self._addresses(), self._stream.handle)
            self._stream.synchronize()
            for tensor in self._features.outputs:
                found[tensor] = np.empty((count, *self._features.shapes[tensor]), self._features.types[tensor])
                cuda.memcpy_dtoh(found[tensor], self._buffers[tensor])
        return found

    def close(self) -> None:
        """Frees everything in its own context: destructors elsewhere would leak. Calling it twice is harmless.

        Raises BackendError in another thread, where pycuda would free nothing and warn.
        """
        if not self._open:
            return
        self._check_thread()
        self._open = False
        with self._device.current():
            # TensorRT's objects and the kernel before the memory and the context they use
            self._scorer.close()
            del self._features, self._scorer, self._runtime
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers.clear()
            self._pinned.clear()
            self._events.clear()
            del self._stream

    def __enter__(self) -> TensorrtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, frames: Frames) -> None:
        if not self._open:
            raise BackendError(f"the engine {self.name} is closed")
        self._check_thread()
        check_frames(frames, self._frame, self.batch)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError(
                f"the engine {self.name} was made in another thread: CUDA contexts and their objects belong to one",
                "open an engine of its own in each thread",
            )

    def _upload(self, cuda: Any, frames: Frames) -> None:
        pinned = self._pinned[self._input][: len(frames)]
        pinned[:] = frames
        self._events[0].record(self._stream)
        cuda.memcpy_htod_async(self._buffers[self._input], pinned, self._stream)
        self._events[1].record(self._stream)

    def _addresses(self) -> dict[str, int]:
        return {name: int(buffer) for name, buffer in self._buffers.items()}


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
    return TensorrtEngine(trt, device, plans, batch=manifest.batch[2], name=name, fusion=fusion)


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
