"""CUDA and TensorRT's runtime on the CPU, as strict as the real ones, for machines without a GPU.

Device memory is host memory, a "plan" is an ONNX file that onnxruntime runs on raw addresses, a "cubin" is the host
build of the scoring kernel. What the real libraries punish by a crash or a leak is an AssertionError here: a call
without a current context, a copy beyond an allocation, an object that is freed twice, an address or a shape that was
never set.
"""

from __future__ import annotations

import ctypes
import struct
import tempfile
import threading
import time
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

from mtkd_edge.device.kernel import host
from mtkd_edge.errors import BackendError

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class Cuda:
    """What the engine uses of pycuda.driver. `alive` counts what has not been freed."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.stacks = threading.local()
        self.lock = threading.Lock()
        self.alive = 0
        self.most = 0
        self.fail = ""
        self.memory: dict[int, int] = {}

    @property
    def stack(self) -> list[object]:
        """Contexts of this thread."""
        return self.stacks.__dict__.setdefault("stack", [])

    def count(self, change: int) -> None:
        with self.lock:
            self.alive += change
            self.most = max(self.most, self.alive)

    def need_context(self) -> None:
        assert self.stack, "no currently active context?"
        if self.fail:
            raise self.Error(self.fail)

    def init(self) -> None:
        if self.fail:
            raise self.Error(self.fail)

    def Device(self, index: int) -> SimpleNamespace:  # noqa: N802 - pycuda's name
        cuda = self

        class Context:
            def push(self) -> None:
                cuda.stack.append(self)

            def pop(self) -> None:
                assert cuda.stack.pop() is self, "contexts are popped in order"

        return SimpleNamespace(retain_primary_context=Context)

    def mem_alloc(self, size: int) -> Allocation:
        self.need_context()
        self.count(1)
        return Allocation(self, size)

    def memset_d32(self, target: Allocation, value: int, count: int) -> None:
        self.need_context()
        assert 4 * count <= target.size, "set beyond the allocation"
        ctypes.memmove(int(target), np.full(count, value, np.uint32).tobytes(), 4 * count)

    def module_from_buffer(self, data: bytes) -> Module:
        self.need_context()
        if data[:4] != b"\x7fELF":
            raise self.Error("device kernel image is invalid")
        return Module(self, data)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.need_context()
        return np.empty(shape, dtype)

    def Stream(self) -> SimpleNamespace:  # noqa: N802 - pycuda's name
        self.need_context()
        return SimpleNamespace(handle=7, synchronize=self.need_context)

    def Event(self) -> Event:  # noqa: N802 - pycuda's name
        self.need_context()
        return Event(self)

    def memcpy_htod_async(self, target: Allocation, source: np.ndarray, stream: SimpleNamespace) -> None:
        self.need_context()
        assert stream.handle == 7
        assert source.flags.c_contiguous
        assert source.nbytes <= target.size, "copy beyond the allocation"
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_htod(self, target: Allocation, source: np.ndarray) -> None:
        self.memcpy_htod_async(target, source, SimpleNamespace(handle=7))

    def memcpy_dtod(self, target: Allocation, source: int, size: int) -> None:
        self.need_context()
        assert size <= min(target.size, self.memory[int(source)]), "copy beyond the allocation"
        ctypes.memmove(int(target), int(source), size)

    def memcpy_dtod_async(self, target: Allocation, source: Allocation, size: int, stream: SimpleNamespace) -> None:
        assert stream.handle == 7
        self.memcpy_dtod(target, int(source), size)

    def mem_get_info(self) -> tuple[int, int]:
        self.need_context()
        return (1 << 30) - sum(self.memory.values()), 1 << 30

    def memcpy_dtoh(self, target: np.ndarray, source: Allocation | int) -> None:
        self.need_context()
        assert target.flags.c_contiguous
        size = source.size if isinstance(source, Allocation) else self.memory[source]
        assert target.nbytes <= size, "copy beyond the allocation"
        ctypes.memmove(target.ctypes.data, int(source), target.nbytes)

    def memcpy_dtoh_async(self, target: np.ndarray, source: Allocation, stream: SimpleNamespace) -> None:
        assert stream.handle == 7
        self.memcpy_dtoh(target, source)


class Allocation:
    def __init__(self, cuda: Cuda, size: int) -> None:
        self.cuda, self.size = cuda, size
        self.memory: ctypes.Array | None = ctypes.create_string_buffer(size)
        cuda.memory[int(self)] = size

    def __int__(self) -> int:
        assert self.memory is not None, "used after free"
        return ctypes.addressof(self.memory)

    def free(self) -> None:
        self.cuda.need_context()
        assert self.memory is not None, "freed twice"
        del self.cuda.memory[int(self)]
        self.memory = None
        self.cuda.count(-1)


class Module:
    """pycuda's Module and Function in one; unloaded by its destructor, which needs the context as the real one does."""

    def __init__(self, cuda: Cuda, data: bytes) -> None:
        self.cuda, self.form = cuda, ""
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(data)
            file.flush()
            self.library = ctypes.CDLL(file.name)
        cuda.count(1)

    def get_global(self, name: str) -> tuple[int, int]:
        address = ctypes.addressof(ctypes.c_ulonglong.in_dll(self.library, name))
        self.cuda.memory[address] = 8
        return address, 8

    def get_function(self, name: str) -> Module:
        assert hasattr(self.library, name), f"no kernel {name}"
        return self

    def prepare(self, form: str) -> None:
        self.form = form

    def prepared_async_call(
        self, grid: tuple[int, int], block: tuple[int, int, int], stream: SimpleNamespace, *arguments: float,
        shared_size: int = 0,
    ) -> None:  # fmt: skip
        self.cuda.need_context()
        assert stream.handle == 7
        struct.pack(self.form, *arguments)  # as pycuda does: the number and the types must fit
        if not self.form:
            return self.library.empty()
        pointers = self.form.count("P")
        assert all(address in self.cuda.memory for address in arguments[:pointers]), "a pointer to no allocation"
        rows = {"grid": grid[0], "block": block[0], "shared": shared_size}
        assert (grid[1], block[1:]) == (1, (1, 1))
        try:
            host.launch(self.library, arguments[: pointers - 5], arguments[pointers - 5 :], **rows)
        except BackendError as error:
            raise self.cuda.Error(error.message) from error

    def __del__(self) -> None:
        self.cuda.count(-1)
        assert self.cuda.stack, "a module is unloaded without its context"


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self, stream: SimpleNamespace) -> None:
        self.cuda.need_context()
        self.at = time.perf_counter()

    def time_till(self, other: Event) -> float:
        assert self.at, "the event was never recorded"
        return (other.at - self.at) * 1e3


class Tensorrt:
    """What the engine uses of the vendor's module. A shape or address of None stands for one never set."""

    __name__, __version__ = "tensorrt", "10.3.0"
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        Severity = SimpleNamespace(__members__={"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def nptype(self, kind: type) -> type:
        return kind

    def Runtime(self, log: object) -> SimpleNamespace:  # noqa: N802 - TensorRT's name
        self.cuda.need_context()

        def deserialize(data: bytes) -> PlanDouble | None:
            try:
                return PlanDouble(self, data)
            except onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf:
                log.log(1, "magic tag does not match")
                return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class PlanDouble:
    """ICudaEngine and IExecutionContext in one."""

    def __init__(self, trt: Tensorrt, data: bytes) -> None:
        self.trt = trt
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

    def execute_async_v3(self, stream: int) -> bool:
        self.trt.cuda.need_context()
        assert stream == 7
        assert self.addresses.keys() == self.values.keys(), "an address was not set"
        feed = {}
        for name in self.inputs:
            count = int(np.prod(self.shapes[name])) * np.dtype(self.get_tensor_dtype(name)).itemsize
            data = ctypes.string_at(self.addresses[name], count)
            feed[name] = np.frombuffer(data, self.get_tensor_dtype(name)).reshape(self.shapes[name])
        names = [name for name in self.values if name not in self.inputs]
        for name, value in zip(names, self.session.run(names, feed), strict=True):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return True
