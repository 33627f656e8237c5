"""cuda-bindings on the CPU: graphs of what `cuda_double`'s streams are given."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from cuda_double import Cuda


class Bindings:
    """What `_cuda_graph` uses of cuda.bindings.driver, on the same streams. `graphs` counts those not destroyed.

    `missing`: a function that this driver is too old for.
    """

    class CUstream(int):
        """A handle."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=SimpleNamespace(name="CUDA_SUCCESS"))
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread-local")

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.graphs, self.launches, self.missing = cuda, 0, 0, ""

    def __getattribute__(self, name: str) -> object:
        if name.startswith("cu") and name == object.__getattribute__(self, "missing"):
            raise RuntimeError(f'Function "{name}" not found')
        return object.__getattribute__(self, name)

    def _ok(self, *results: object) -> tuple[object, ...]:
        self.cuda.need_context()
        return self.CUresult.CUDA_SUCCESS, *results

    def cuStreamBeginCapture(self, stream: CUstream, mode: str) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        assert (type(stream), mode) == (self.CUstream, "thread-local")
        found = self.cuda.streams[int(stream)]
        assert found.captured is None, "captured twice"
        found.captured, found.broken, found.thread = [], False, threading.get_ident()
        return self._ok()

    def cuStreamEndCapture(self, stream: CUstream) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        found = self.cuda.streams[int(stream)]
        assert found.captured is not None, "nothing is captured"
        work, found.captured = found.captured, None
        if found.broken:
            return SimpleNamespace(name="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"), None
        self.graphs += 1
        return self._ok(work)

    def cuGraphInstantiate(self, graph: list[object], flags: int) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        assert flags == 0
        self.graphs += 1
        return self._ok(list(graph))

    def cuGraphLaunch(self, graph: list, stream: CUstream) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        self.launches += 1
        for work, reads, writes, name in graph:
            self.cuda.queue(self.cuda.streams[int(stream)], work, reads, writes, f"graph: {name}")
        return self._ok()

    def cuGraphDestroy(self, graph: object) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        assert graph is not None
        self.graphs -= 1
        return self._ok()

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815 - CUDA's name
