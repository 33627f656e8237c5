"""pycuda on the CPU, as strict as the real ones, for machines without a GPU.

Device memory is host memory, a "cubin" is the host build of the scoring kernel. What the real libraries punish by a
crash or a leak is an AssertionError here: a call without a current context, a copy beyond an allocation, an object
that is freed twice; and what `cuda_order` finds.
"""

from __future__ import annotations

import ctypes
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from cuda_order import Op, Order, Pinned, Ranges

from mtkd_edge.device.kernel import host
from mtkd_edge.errors import BackendError


class Cuda(Order):
    """What the engine uses of pycuda.driver. `alive` counts what has not been freed; `log` names the work queued."""

    class Error(Exception):
        pass

    def __init__(self, late: bool = False) -> None:
        self.stacks = threading.local()
        super().__init__(late)
        self.alive = 0
        self.most = 0
        self.fail = ""
        self.memory: dict[int, int] = {}
        self.streams: dict[int, Stream] = {}

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

    def forbidden_in_capture(self, what: str) -> None:
        """The thread that captures may not do what is not queued on a stream; the capture is then worth nothing."""
        for stream in self.streams.values():
            if stream.captured is not None and stream.thread == threading.get_ident():
                stream.broken = True
                raise self.Error(f"{what} failed: operation not permitted when stream is capturing")

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
        self.forbidden_in_capture("cuMemAlloc")
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
        self.forbidden_in_capture("cuMemHostAlloc")
        pinned = np.empty(shape, dtype).view(Pinned)
        pinned.cuda = self
        return pinned

    def Stream(self) -> Stream:  # noqa: N802 - pycuda's name
        self.need_context()
        return Stream(self)

    def Event(self) -> Event:  # noqa: N802 - pycuda's name
        self.need_context()
        return Event(self)

    def size_at(self, address: int) -> int:
        """Bytes from an address, which may lie inside an allocation, to the allocation's end."""
        for start, size in self.memory.items():
            if start <= address < start + size:
                return start + size - address
        raise AssertionError("a pointer to no allocation")

    def _copy(self, target: int, source: int, size: int, stream: Stream, name: str) -> None:
        self.queue(stream, lambda: ctypes.memmove(target, source, size), [(source, size)], [(target, size)], name)

    def memcpy_htod_async(self, target: Allocation, source: np.ndarray, stream: Stream) -> None:
        self.need_context()
        assert source.flags.c_contiguous
        assert source.nbytes <= target.size, "copy beyond the allocation"
        assert isinstance(source, Pinned), "a copy that does not wait wants pinned memory"
        self._copy(int(target), source.ctypes.data, source.nbytes, stream, "upload")

    def memcpy_dtoh_async(self, target: np.ndarray, source: Allocation | int, stream: Stream) -> None:
        self.need_context()
        assert target.flags.c_contiguous
        assert target.nbytes <= self.size_at(int(source)), "copy beyond the allocation"
        assert isinstance(target, Pinned), "a copy that does not wait wants pinned memory"
        self._copy(target.ctypes.data, int(source), target.nbytes, stream, f"download {target.nbytes}")

    def memcpy_htod(self, target: Allocation, source: np.ndarray) -> None:
        self.need_context()
        self.forbidden_in_capture("cuMemcpyHtoD")
        assert source.flags.c_contiguous
        assert source.nbytes <= target.size, "copy beyond the allocation"
        self.on_host((), [(int(target), source.nbytes)])
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_dtoh(self, target: np.ndarray, source: Allocation | int) -> None:
        self.need_context()
        self.forbidden_in_capture("cuMemcpyDtoH")
        assert target.flags.c_contiguous
        assert target.nbytes <= self.size_at(int(source)), "copy beyond the allocation"
        self.on_host([(int(source), target.nbytes)], ())
        ctypes.memmove(target.ctypes.data, int(source), target.nbytes)

    def memcpy_dtod(self, target: Allocation, source: int, size: int) -> None:
        self.need_context()
        assert size <= min(target.size, self.memory[int(source)]), "copy beyond the allocation"
        ctypes.memmove(int(target), int(source), size)

    def memcpy_dtod_async(self, target: Allocation, source: Allocation, size: int, stream: Stream) -> None:
        assert size <= min(target.size, self.memory[int(source)]), "copy beyond the allocation"
        self._copy(int(target), int(source), size, stream, "copy")

    def mem_get_info(self) -> tuple[int, int]:
        self.need_context()
        return (1 << 30) - sum(self.memory.values()), 1 << 30


class Stream:
    """`captured`: what it was given since its capture began, None where none has."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.handle = cuda, 7 + len(cuda.streams)
        cuda.streams[self.handle] = self
        self.tail: Op | None = None
        self.waited: set[Op] = set()
        self.captured: list[tuple[Callable[[], None], Ranges, Ranges, str]] | None = None
        self.thread, self.broken = 0, False

    def synchronize(self) -> None:
        self.cuda.forbidden_in_capture("cuStreamSynchronize")
        self.cuda.wait(self.tail)

    def wait_for_event(self, event: Event) -> None:
        self.cuda.need_context()
        assert self.captured is None or event.op is None, "an event from outside the capture"
        if event.op is not None:
            self.waited |= {event.op} | event.op.before


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.at = cuda, 0.0
        self.op: Op | None = None

    def record(self, stream: Stream) -> None:
        assert stream.captured is None, "an event of a capture tells no time"
        self.op = self.cuda.queue(stream, self._mark)

    def _mark(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        self.cuda.forbidden_in_capture("cuEventSynchronize")
        self.cuda.wait(self.op)

    def time_till(self, other: Event) -> float:
        for event in (self, other):
            if event.op is None or not event.op.ran:
                raise self.cuda.Error("cuEventElapsedTime failed: device not ready")
        return (other.at - self.at) * 1e3


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
        self.cuda.on_host((), [(int(self), self.size)])
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
        self, grid: tuple[int, int], block: tuple[int, int, int], stream: Stream, *arguments: float,
        shared_size: int = 0,
    ) -> None:  # fmt: skip
        self.cuda.need_context()
        struct.pack(self.form, *arguments)  # as pycuda does: the number and the types must fit
        if not self.form:
            self.cuda.queue(stream, self.library.empty)
            return
        pointers = self.form.count("P")
        assert all(address in self.cuda.memory for address in arguments[:pointers]), "a pointer to no allocation"
        rows = {"grid": grid[0], "block": block[0], "shared": shared_size}
        assert (grid[1], block[1:]) == (1, (1, 1))
        addresses, rest = arguments[: pointers - 5], arguments[pointers - 5 :]
        spans = [(address, self.cuda.memory.get(address, 0)) for address in arguments[:pointers]]
        if block[0] > 1024:  # seen at the launch itself; what goes wrong inside the kernel is seen later
            raise self.cuda.Error("cuLaunchKernel failed: invalid argument")

        library, kind = self.library, self.cuda.Error  # and not self, which work that waits would keep alive

        def work() -> None:
            try:
                host.launch(library, addresses, rest, **rows)
            except BackendError as error:
                raise kind(error.message) from error

        self.cuda.queue(stream, work, spans[: pointers - 5], spans[pointers - 5 :], "score")

    def __del__(self) -> None:
        self.cuda.count(-1)
        assert self.cuda.stack, "a module is unloaded without its context"
