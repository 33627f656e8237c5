"""One TensorRT plan: deserialised, its tensors by name, run on raw device addresses.

The calls used are those that TensorRT 10.3 to 11 and TensorRT for RTX have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from mtkd_edge.device.engines._trt_build import made
from mtkd_edge.errors import BackendError


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

    def run(self, count: int, addresses: Mapping[str, int], stream: int) -> None:
        """Queue the work of `count` frames. Raises BackendError with TensorRT's words."""
        done = [self._context.set_input_shape(name, (count, *self.shapes[name])) for name in self.inputs]
        done += [self._context.set_tensor_address(name, addresses[name]) for name in self.shapes]
        if not all(done) or not self._context.execute_async_v3(stream):
            raise BackendError(f"TensorRT did not run {count} frames: {self._log.reason()}", "mtkd-edge doctor")
