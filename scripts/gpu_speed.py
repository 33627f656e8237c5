"""Speed of the kernel on a GPU, against the floor that no implementation can be faster than: bytes over copy bandwidth.

Times are those of CUDA events around many launches. `cold` walks through more memory than any L2 cache holds, `warm`
reads features that may still be in the cache, as they are right after an engine has written them. Small batches end
before Python has launched the next; the launches of a `graph` follow each other without it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from gpu_cases import features
from gpu_rows import Row, attempt
from gpu_runners import Compile, Session, loaded

from mtkd_edge.device.engine import NO_BOUNDS
from mtkd_edge.device.engines import _cuda, _cuda_graph
from mtkd_edge.device.kernel.layout import BLOCK, FeatureType, Layout, layout
from mtkd_edge.score import ScoreSpec

EMPTY = 'extern "C" __global__ void empty() {}'
COPY = 256 << 20
COLD = 256 << 20
"""Bytes that a cold run walks through: several times the L2 of any GPU we name."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def milliseconds(cuda: Any, stream: Any, work: Callable[[int], None], times: int, warm_up: int = 3) -> float:
    """Of one call of `work(number)`, by the GPU's clock, over `times` calls queued at once."""
    for number in range(warm_up):
        work(number)
    begin, end = cuda.Event(), cuda.Event()
    begin.record(stream)
    for number in range(times):
        work(number)
    end.record(stream)
    stream.synchronize()
    return float(begin.time_till(end)) / times


def replayed(cuda: Any, stream: Any, work: Callable[[int], None], times: int) -> float:
    """As `milliseconds`, the calls captured as one CUDA graph. Raises MissingExtraError, BackendError."""

    def all_calls() -> None:
        for number in range(times):
            work(number)

    graph = _cuda_graph.Graph(_cuda_graph.import_bindings(), stream.handle, all_calls)
    try:
        return milliseconds(cuda, stream, lambda _: graph.launch(), 3, 1) / times
    finally:
        graph.close()


def in_graph(cuda: Any, stream: Any, works: dict[str, Callable[[int], None]], times: int) -> Row:
    """Microseconds of each of the works as a graph, or a remark why there are none: the other times stand without."""
    found = attempt(lambda: {name: replayed(cuda, stream, work, times) * 1e3 for name, work in works.items()})
    return {"remark": found["found"]} if "state" in found else found


def copy_bandwidth(device: _cuda.Device, size: int = COPY) -> float:
    """Bytes a second of a device-to-device copy, read and written counted, best of ten."""
    with device.current() as cuda:
        source, target, stream = cuda.mem_alloc(size), cuda.mem_alloc(size), cuda.Stream()
        cuda.memset_d32(source, 0, size // 4)
        runs = [
            milliseconds(cuda, stream, lambda _: cuda.memcpy_dtod_async(target, source, size, stream), 3)
            for _ in range(10)
        ]
        source.free()
        target.free()
    return 2 * size / min(runs) * 1e3


def empty_launch(device: _cuda.Device, cubin: bytes, times: int = 1000) -> Row:
    """Microseconds of a kernel that does nothing: queued back to back, launched and waited for, and in a graph."""
    with device.current() as cuda:
        module, stream = cuda.module_from_buffer(cubin), cuda.Stream()
        function = module.get_function("empty")
        function.prepare("")
        launch = partial(_launch_empty, function, stream)
        queued = milliseconds(cuda, stream, launch, times)
        waited = waiting(launch, stream, times)
        graph = in_graph(cuda, stream, {"graph_us": launch}, times)
        # unloaded here, where the context is current
        del launch, function, module, stream
    return {"queued_us": queued * 1e3, "waited_us": waited, **graph}


def _launch_empty(function: Any, stream: Any, _: int) -> None:
    function.prepared_async_call((1, 1), (32, 1, 1), stream)


def waiting(launch: Callable[[int], None], stream: Any, times: int) -> float:
    """Median microseconds from before a launch until the host knows that it is done."""
    found = []
    for number in range(times):
        began = time.perf_counter()
        launch(number)
        stream.synchronize()
        found.append((time.perf_counter() - began) * 1e6)
    return statistics.median(found)


def copies(cuda: Any, session: Session, sizes: Sequence[int], total: int) -> list[list[int]]:
    """Addresses of the session's features and of as many copies as make `total` bytes. The session frees them."""
    sets = [session.addresses]
    for _ in range(math.ceil(total / sum(sizes)) - 1):
        memory = [cuda.mem_alloc(size) for size in sizes]
        session.memory += memory
        for target, source, size in zip(memory, session.addresses, sizes, strict=True):
            cuda.memcpy_dtod(target, source, size)
        sets.append([int(one) for one in memory])
    return sets


def kernel_row(
    device: _cuda.Device,
    compile_kernel: Compile,
    found: Layout,
    batch: int,
    *,
    block: int = BLOCK,
    cold: int = COLD,
    times: int = 200,
) -> Row:
    """Microseconds of one launch for `batch` images: cold, warm, launched and waited for, and both in a graph."""
    student, reference = features(found.spec, batch, 0, found.features)
    with device.current() as cuda, loaded(cuda, compile_kernel(found), found, student, reference) as session:
        sets = copies(cuda, session, [array.nbytes for array in (*student, *reference)], cold)

        def walk(number: int) -> None:
            addresses = sets[number % len(sets)]
            session.kernel.queue(batch, addresses, session.outputs, session.stream, NO_BOUNDS, block)

        def stay(_: int) -> None:
            walk(0)

        walked = milliseconds(cuda, session.stream, walk, times, len(sets))
        stayed = milliseconds(cuda, session.stream, stay, times)
        waited = waiting(stay, session.stream, times)
        graph = in_graph(cuda, session.stream, {"graph_cold_us": walk, "graph_warm_us": stay}, max(times, len(sets)))
        finite = bool(np.isfinite(session.results().scores).all())
    if not finite:
        raise ValueError("the timed launches made no finite scores, and would have skipped the pooling")
    row = {"batch": batch, "block": block, "cold_us": walked * 1e3, "warm_us": stayed * 1e3, "waited_us": waited}
    return {**row, **graph}


def bandwidth_table(
    device: _cuda.Device,
    compile_kernel: Compile,
    spec: ScoreSpec,
    bandwidth: float,
    batches: Sequence[int] = BATCHES,
    **options: int,
) -> Iterator[Row]:
    """A row for each type of features and batch, with the floor and the share of the copy bandwidth reached."""

    def one(kind: FeatureType, batch: int) -> Row:
        found = layout(spec, kind)
        row = kernel_row(device, compile_kernel, found, batch, **options)
        floor = found.traffic(batch) / bandwidth * 1e6
        cold = row["graph_cold_us" if "graph_cold_us" in row else "cold_us"]
        return {**row, "floor_us": floor, "share_of_copy": floor / cold}

    kinds: tuple[FeatureType, ...] = ("float32", "float16")
    for kind, batch in product(kinds, batches):
        yield {"features": kind, "batch": batch, **attempt(partial(one, kind, batch))}
