"""Where `gpu_report.py` runs the kernel: on a GPU through pycuda, or on this CPU as the host build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gpu_cases import Arrays
from numpy.typing import NDArray

from mtkd_edge.device.engine import NO_BOUNDS, Bounds
from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel import compiler, host
from mtkd_edge.device.kernel.launcher import Kernel, Outputs
from mtkd_edge.device.kernel.layout import BLOCK, Layout
from mtkd_edge.errors import BackendError

Compile = Callable[[Layout], bytes]


@dataclass(frozen=True, slots=True)
class Results:
    """map [N, H, W], score [N] and verdict bits [N] of one launch."""

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    verdicts: NDArray[np.uint32]

    def bits(self) -> bytes:
        """Everything that must be the same whatever the launch."""
        return self.maps.tobytes() + self.scores.tobytes() + self.verdicts.tobytes()


class Runner(Protocol):
    """One launch on arrays in main memory."""

    name: str

    def run(
        self, found: Layout, student: Arrays, reference: Arrays, *, bounds: Bounds = NO_BOUNDS, block: int = BLOCK
    ) -> Results:
        """student, reference: [N, C, h, w] of the layout's type, one a level. Raises BackendError."""
        ...


def compiler_for(device: _cuda.Device, arch: str, text: str) -> compiler.Compiler:
    """The first compiler whose code of `text` loads here. Raises BackendError with what is wrong with each."""
    reasons = []
    for found in compiler.candidates():
        reason = _misfit(device, found, arch, text)
        if not reason:
            return found
        reasons.append(f"{found.name}: {reason}")
    raise BackendError("; ".join(reasons) or "neither nvcc nor NVRTC is here: no kernel can be compiled", compiler.HINT)


def _misfit(device: _cuda.Device, found: compiler.Compiler, arch: str, text: str) -> str:
    try:
        code = found.compile(text, arch)
        with device.current() as cuda:
            cuda.module_from_buffer(code)
    except BackendError as error:
        return error.message
    return ""


class HostRunner:
    """The CUDA text compiled by g++, kept in `folder`. `order` seeds the order of threads and blocks."""

    name = "host build"

    def __init__(self, folder: Path, order: int = 0) -> None:
        self._folder, self._order = folder, order

    def run(
        self, found: Layout, student: Arrays, reference: Arrays, *, bounds: Bounds = NO_BOUNDS, block: int = BLOCK
    ) -> Results:
        """As `Runner` says."""
        library = host.build(found, self._folder)
        made = host.run(
            found, library, student, reference, threshold=bounds.score, map_threshold=bounds.map, block=block,
            order=self._order,
        )  # fmt: skip
        return Results(made.maps, made.scores, made.verdicts)


class CudaRunner:
    """A GPU. Every run loads the kernel, uses it and frees all, as an engine does in its life."""

    name = "GPU"

    def __init__(self, device: _cuda.Device, compile_kernel: Compile) -> None:
        self._device, self._compile = device, compile_kernel

    def run(
        self, found: Layout, student: Arrays, reference: Arrays, *, bounds: Bounds = NO_BOUNDS, block: int = BLOCK
    ) -> Results:
        """As `Runner` says."""
        with self._device.current() as cuda, loaded(cuda, self._compile(found), found, student, reference) as session:
            session.launch(bounds, block)
            return session.results()


class Session:
    """A loaded kernel, its features and results in device memory, and a stream; made by `loaded`."""

    def __init__(self, cuda: Any, cubin: bytes, found: Layout, student: Arrays, reference: Arrays) -> None:
        self._cuda, self._spec, self.count = cuda, found.spec, len(student[0])
        self.memory: list[Any] = []
        self.kernel = Kernel(cuda, cubin, found, self.count)
        self.stream = cuda.Stream()
        self.addresses = [int(self._put(array)) for array in (*student, *reference)]
        pixels = self._spec.height * self._spec.width
        self._results = [self._room(4 * self.count * size) for size in (pixels, 1, 1)]
        self.outputs = Outputs(*map(int, self._results))

    def launch(self, bounds: Bounds = NO_BOUNDS, block: int = BLOCK) -> None:
        """Queue one launch."""
        self.kernel.queue(self.count, self.addresses, self.outputs, self.stream, bounds, block)

    def results(self) -> Results:
        """Wait, then copy the results back."""
        self.stream.synchronize()
        maps = np.empty((self.count, self._spec.height, self._spec.width), np.float32)
        scores, verdicts = np.empty(self.count, np.float32), np.empty(self.count, np.uint32)
        for array, memory in zip((maps, scores, verdicts), self._results, strict=True):
            self._cuda.memcpy_dtoh(array, memory)
        return Results(maps, scores, verdicts)

    def close(self) -> None:
        """Free everything; the context must be current."""
        self.kernel.close()
        for memory in self.memory:
            memory.free()
        del self.stream

    def _room(self, size: int) -> Any:
        self.memory.append(self._cuda.mem_alloc(size))
        return self.memory[-1]

    def _put(self, array: NDArray[np.floating]) -> Any:
        memory = self._room(array.nbytes)
        self._cuda.memcpy_htod(memory, np.ascontiguousarray(array))
        return memory


@contextmanager
def loaded(cuda: Any, cubin: bytes, found: Layout, student: Arrays, reference: Arrays) -> Iterator[Session]:
    """A session that is freed whatever happens."""
    session = Session(cuda, cubin, found, student, reference)
    try:
        yield session
    finally:
        session.close()
