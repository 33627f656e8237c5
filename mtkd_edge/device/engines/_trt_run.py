"""TensorRT plans -> maps and scores. Two plans share device memory: what `plan.features` writes, `plan.head` reads.

The calls used are those that TensorRT 10.3 to 11 and TensorRT for RTX have in common. The vendor's module and the CUDA
device are arguments. Knows nothing of how a plan is built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.bundle import EngineManifest
from mtkd_edge.device.engine import EngineOptions, Frames, Inference, check_frames
from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.engines._trt_build import PLANS, made, make_log
from mtkd_edge.errors import BackendError, BundleError

STAGES = "upload", "features", "head", "download"


class Plan:
    """A deserialised plan, its execution context, and the shapes of its tensors without the batch."""

    def __init__(self, trt: ModuleType, runtime: Any, data: bytes, log: Any) -> None:
        self._log = log
        self._engine = made(runtime.deserialize_cuda_engine(data), "an engine of the plan", log)
        self._context = made(self._engine.create_execution_context(), "an execution context", log)
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype[Any]] = {}
        for name in (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)):
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append(name)
            self.shapes[name] = tuple(self._engine.get_tensor_shape(name))[1:]
            self.types[name] = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))

    def run(self, count: int, addresses: dict[str, int], stream: int) -> None:
        """Queue the work of `count` frames. Raises BackendError with TensorRT's words."""
        done = [self._context.set_input_shape(name, (count, *self.shapes[name])) for name in self.inputs]
        done += [self._context.set_tensor_address(name, addresses[name]) for name in self.shapes]
        if not all(done) or not self._context.execute_async_v3(stream):
            raise BackendError(f"TensorRT did not run {count} frames: {self._log.reason()}", "mtkd-edge doctor")


class TensorrtEngine:
    """An engine on one GPU, used from one thread. All buffers are made once, for the largest batch."""

    def __init__(
        self, trt: ModuleType, device: _cuda.Device, plans: Sequence[bytes], *, batch: int, name: str = "tensorrt"
    ) -> None:
        self.name, self.batch = name, batch
        self._device = device
        self._buffers: dict[str, Any] = {}
        self._pinned: dict[str, NDArray[Any]] = {}
        self._open = True
        with device.current() as cuda:
            log = make_log(trt)
            self._runtime = made(trt.Runtime(log), "a runtime", log)
            self._features, self._head = (Plan(trt, self._runtime, data, log) for data in plans)
            shapes = self._features.shapes | self._head.shapes
            self._types = self._features.types | self._head.types
            for tensor, shape in shapes.items():
                size = batch * int(np.prod(shape)) * self._types[tensor].itemsize
                self._buffers[tensor] = cuda.mem_alloc(size)
            for tensor in (*self._features.inputs, *self._head.outputs):
                self._pinned[tensor] = cuda.pagelocked_empty((batch, *shapes[tensor]), self._types[tensor])
            self._stream = cuda.Stream()
            self._events = [cuda.Event() for _ in range(len(STAGES) + 1)]
        self._input = self._features.inputs[0]
        height, width, channels = shapes[self._input]
        self._frame = height, width, channels

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8 -> maps, scores, and the stages as the GPU's clock saw them."""
        self._check(frames)
        count = len(frames)
        with self._device.current() as cuda:
            self._upload(cuda, frames)
            self._features.run(count, self._addresses(), self._stream.handle)
            self._events[2].record(self._stream)
            self._head.run(count, self._addresses(), self._stream.handle)
            self._events[3].record(self._stream)
            for tensor in self._head.outputs:
                cuda.memcpy_dtoh_async(self._pinned[tensor][:count], self._buffers[tensor], self._stream)
            self._events[4].record(self._stream)
            self._stream.synchronize()
            times = [a.time_till(b) for a, b in zip(self._events[:-1], self._events[1:], strict=True)]
            maps, scores = self._pinned["map"][:count].copy(), self._pinned["score"][:count].copy()
        return Inference(maps, scores, dict(zip(STAGES, times, strict=True)))

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
                found[tensor] = np.empty((count, *self._features.shapes[tensor]), self._types[tensor])
                cuda.memcpy_dtoh(found[tensor], self._buffers[tensor])
        return found

    def close(self) -> None:
        """Frees everything in its own context: destructors elsewhere would leak. Calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        with self._device.current():
            # TensorRT's objects before the memory and the context they use
            del self._features, self._head, self._runtime
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
        check_frames(frames, self._frame, self.batch)

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
    device = _cuda.Device(options.gpu)
    name = f"{manifest.model.name}-{manifest.target}"
    return TensorrtEngine(trt, device, plans, batch=manifest.batch[2], name=name)


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
