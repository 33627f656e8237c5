"""TensorRT's runtime on the CPU, as strict as the real one, for machines without a GPU; CUDA is `cuda_double`.

A "plan" is an ONNX file that onnxruntime runs on raw addresses. An address or a shape that was never set, a capture
before the first run of a shape, and a context that was changed after its work was captured are AssertionErrors here.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
from cuda_double import Cuda
from graph_double import Bindings

__all__ = ["Bindings", "Cuda", "Tensorrt"]
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class Tensorrt:
    """What the engine uses of the vendor's module.

    `capture`: "works"; "refused", as for a plan with a loop; or "broken", by a call that no capture allows.
    `compatible`: plans are version compatible, so that they hold code for the CPU, which has to be allowed.
    """

    __name__, __version__ = "tensorrt", "10.3.0"
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        Severity = SimpleNamespace(__members__={"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})

    def __init__(self, cuda: Cuda, capture: str = "works", compatible: bool = False) -> None:
        self.cuda, self.capture, self.compatible = cuda, capture, compatible

    def nptype(self, kind: type) -> type:
        return kind

    def Runtime(self, log: object) -> SimpleNamespace:  # noqa: N802 - TensorRT's name
        self.cuda.need_context()
        runtime = SimpleNamespace(engine_host_code_allowed=False)

        def deserialize(data: bytes) -> PlanDouble | None:
            assert self.compatible or not runtime.engine_host_code_allowed, "code is allowed that no plan holds"
            if self.compatible and not runtime.engine_host_code_allowed:
                log.log(1, "the engine contains host code, which is not allowed")
                return None
            try:
                return PlanDouble(self, data, log)
            except onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf:
                log.log(1, "magic tag does not match")
                return None

        runtime.deserialize_cuda_engine = deserialize
        return runtime


class PlanDouble:
    """ICudaEngine and IExecutionContext in one."""

    def __init__(self, trt: Tensorrt, data: bytes, log: object) -> None:
        self.trt, self.log = trt, log
        self.seen: list[dict[str, tuple[int, ...]]] = []
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        # in reverse, because nobody may rely on an order
        self.values = {v.name: v for v in [*self.session.get_outputs()[::-1], *self.session.get_inputs()]}
        self.inputs = {v.name for v in self.session.get_inputs()}
        graph = onnx.load_from_string(data).graph
        self.declared = {
            v.name: tuple(d.dim_value or -1 for d in v.type.tensor_type.shape.dim)
            for v in (*graph.input, *graph.output)
        }
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    @property
    def num_io_tensors(self) -> int:
        return len(self.values)

    def create_execution_context(self) -> PlanDouble:
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.declared[name]

    def get_tensor_dtype(self, name: str) -> type:
        return TYPES[self.values[name].type]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return name in self.inputs and tuple(shape)[1:] == self.declared[name][1:]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int)
        self.addresses[name] = address
        return name in self.values

    def execute_async_v3(self, handle: int) -> bool:
        self.trt.cuda.need_context()
        assert self.addresses.keys() == self.values.keys(), "an address was not set"
        stream, state = self.trt.cuda.streams[handle], (dict(self.shapes), dict(self.addresses))
        captured = stream.captured is not None
        if captured and self.trt.capture == "refused":
            self.log.log(1, "this engine cannot be captured into a graph")
            return False
        if captured and self.trt.capture == "broken":
            stream.broken = True
        assert not captured or self.shapes in self.seen, "TensorRT wants to be run once in a shape before a capture"
        self.seen.append(dict(self.shapes))
        spans = {name: (self.addresses[name], self._bytes(name)) for name in self.values}

        def work() -> None:
            assert not captured or state == (self.shapes, self.addresses), "the context has changed since the capture"
            self._run(*state)

        inputs = [spans[name] for name in self.inputs]
        outputs = [spans[name] for name in self.values if name not in self.inputs]
        self.trt.cuda.queue(stream, work, inputs, outputs, "features")
        return True

    def _bytes(self, name: str) -> int:
        count = next(iter(self.shapes.values()))[0]
        return int(np.prod((count, *self.declared[name][1:]))) * np.dtype(self.get_tensor_dtype(name)).itemsize

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feed = {}
        for name in self.inputs:
            count = int(np.prod(shapes[name])) * np.dtype(self.get_tensor_dtype(name)).itemsize
            data = ctypes.string_at(addresses[name], count)
            feed[name] = np.frombuffer(data, self.get_tensor_dtype(name)).reshape(shapes[name])
        names = [name for name in self.values if name not in self.inputs]
        for name, value in zip(names, self.session.run(names, feed), strict=True):
            ctypes.memmove(addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
