"""CUDA graphs: work captured from a stream once, one launch afterwards. The only file that imports cuda-bindings.

pycuda has no graphs. Both libraries call the same driver, so cuda-bindings works on pycuda's stream by its raw handle,
in the context that is current; it owns the graphs and nothing else. Knows nothing of what is captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from mtkd_edge.device.engine import STEADY
from mtkd_edge.errors import BackendError, MissingExtraError


def import_bindings() -> ModuleType:
    """cuda.bindings.driver. Raises MissingExtraError where it is not installed, BackendError where it does not load."""
    try:
        import cuda.bindings.driver
    except ModuleNotFoundError as error:
        raise MissingExtraError("cuda-bindings", "graph", "CUDA graphs") from error
    except (ImportError, RuntimeError) as error:
        raise BackendError(f"cuda-bindings cannot be loaded: {error}", "pip install --upgrade cuda-bindings") from error
    driver: ModuleType = cuda.bindings.driver
    return driver


class Graph:
    """What `work` queues on `stream` (a raw handle), captured and ready to launch. The context must be current.

    Raises BackendError where it cannot be captured. The stream then works as before, and nothing has run.
    """

    def __init__(self, driver: Any, stream: int, work: Callable[[], None]) -> None:
        self._driver, self._stream = driver, driver.CUstream(stream)
        # thread-local: other threads may allocate memory meanwhile, which a global capture would forbid them
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call(driver, "cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            # whatever broke the work also broke the capture, and says more; a stream left capturing would be lost
            with contextlib.suppress(BackendError):
                self._destroy(call(driver, "cuStreamEndCapture", self._stream))
            raise
        graph = call(driver, "cuStreamEndCapture", self._stream)
        try:
            self._launchable = call(driver, "cuGraphInstantiate", graph, 0)
        finally:
            self._destroy(graph)

    def launch(self) -> None:
        """Queue all of it. Raises BackendError."""
        call(self._driver, "cuGraphLaunch", self._launchable, self._stream)

    def close(self) -> None:
        """Free it; one that is under way ends first. To be called once, with the context current."""
        call(self._driver, "cuGraphExecDestroy", self._launchable)

    def _destroy(self, graph: Any) -> None:
        call(self._driver, "cuGraphDestroy", graph)


class Graphs:
    """A graph for each of a few tasks, all of one kind: another kind lets go of them, and has to be steady first.

    A graph of TensorRT's work is valid while its execution context is as it was at the capture, so graphs of two batch
    sizes cannot both be kept. `refused`: why there are none for good; the caller then queues its work itself.
    """

    def __init__(self, driver: Any, stream: int) -> None:
        self._driver, self._stream = driver, stream
        self._kind: Hashable = None
        self._seen = 0
        self._graphs: dict[int, Graph] = {}
        self.refused = ""

    def launch(self, kind: Hashable, task: int, work: Callable[[], None]) -> bool:
        """Whether `work` was queued as a graph. False: nothing was queued."""
        if kind != self._kind:
            self.forget()
            self._kind = kind
        self._seen += 1
        if self.refused or self._seen <= STEADY:
            return False
        try:
            if task not in self._graphs:
                self._graphs[task] = Graph(self._driver, self._stream, work)
            self._graphs[task].launch()
        except BackendError as error:
            self.refused = error.message
            self.forget()
            return False
        return True

    def forget(self) -> None:
        """Free all graphs, with the context current: what they captured is about to change."""
        self._kind, self._seen = None, 0
        while self._graphs:
            graph = self._graphs.popitem()[1]
            # a context that is broken for good frees nothing any more, and says so at its next call
            with contextlib.suppress(BackendError):
                graph.close()


def call(driver: Any, name: str, *arguments: Any) -> Any:
    """The result of a driver function, None without one. Raises BackendError with the driver's name for the error."""
    try:
        status, *results = getattr(driver, name)(*arguments)
    except RuntimeError as error:
        # so says cuda-bindings where the driver is older than the function
        raise BackendError(f"{name} cannot be called: {error}", "nvidia-smi") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"{name} gave {getattr(status, 'name', status)}", "nvidia-smi")
    return results[0] if results else None
