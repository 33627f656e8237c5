"""How fast an engine is: percentiles by stage, throughput, and the floor that nothing in FP32 can be faster than.

Pure numbers; nothing is printed. The frames are noise, because no engine's speed may depend on its pixels.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from mtkd_edge.device.engine import STEADY, Engine
from mtkd_edge.errors import UsageError
from mtkd_edge.progress import Progress, silent

Clock = Callable[[], float]
WARM_UP = STEADY + 2
"""One more is captured as a CUDA graph, where there is one, and one shows that the graph runs."""


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds that 50, 90 and 99 % of the calls stay within."""

    p50: float
    p90: float
    p99: float


class Row(msgspec.Struct, frozen=True):
    """One batch size: `call` is a whole call of `infer`, `stages` are the engine's own parts of it."""

    batch: int
    calls: int
    call: Percentiles
    stages: dict[str, Percentiles]
    frames_per_second: float


class Floor(msgspec.Struct, frozen=True):
    """The least time one frame can take in FP32 on this machine's CPU.

    `macs`: multiply-accumulates, `traffic`: bytes that must be moved; `macs_per_second` is the rate of a large FP32
    matrix product (an INT8 kernel may beat it by the factor its instructions have), `bytes_per_second` that of a copy.
    """

    macs: int
    traffic: int
    macs_per_second: float
    bytes_per_second: float
    milliseconds: float


def bench(
    engine: Engine,
    frame_shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 2, 4, 8),
    seconds: float = 2.0,
    progress: Progress = silent,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Run every batch size for about `seconds`, at least ten calls. Raises UsageError for a batch it does not take."""
    for batch in batches:
        if not 1 <= batch <= engine.batch:
            raise UsageError(f"the engine takes batches of 1 to {engine.batch}, got {batch}", f"--batch {engine.batch}")
    rng = np.random.default_rng(0)
    rows = []
    for number, batch in enumerate(batches):
        frames = rng.integers(0, 256, (batch, *frame_shape), dtype=np.uint8)
        rows.append(measure(engine, frames, seconds, clock))
        progress("bench", number + 1, len(batches), f"batch {batch}")
    return rows


def measure(engine: Engine, frames: np.ndarray, seconds: float, clock: Clock = time.perf_counter) -> Row:
    """One batch size, after a warm-up."""
    for _ in range(WARM_UP):
        engine.infer(frames)
    calls: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    began = clock()
    while len(calls) < 10 or clock() - began < seconds:
        start = clock()
        result = engine.infer(frames)
        calls.append((clock() - start) * 1e3)
        for name, milliseconds in result.stages.items():
            stages[name].append(milliseconds)
    return Row(
        batch=len(frames),
        calls=len(calls),
        call=percentiles(calls),
        stages={name: percentiles(values) for name, values in stages.items()},
        frames_per_second=len(frames) * len(calls) * 1e3 / sum(calls),
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    """p50, p90 and p99, each one of the values and never between two of them."""
    return Percentiles(*(float(np.percentile(values, p, method="higher")) for p in (50, 90, 99)))


def floor(macs: int, traffic: int) -> Floor:
    """The floor of one frame: the larger of computing `macs` and moving `traffic` bytes at the rates measured here."""
    products, copies = multiply_rate(), copy_rate()
    return Floor(macs, traffic, products, copies, max(macs / products, traffic / copies) * 1e3)


def copy_rate(size: int = 64 << 20) -> float:
    """Bytes a second of a large copy, read and written counted, best of five."""
    source = np.ones(size, np.uint8)
    target = np.empty_like(source)
    return 2 * size / _best(lambda: np.copyto(target, source))


def multiply_rate(size: int = 1024) -> float:
    """Multiply-accumulates a second of an FP32 matrix product on all cores, best of five."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    return size**3 / _best(lambda: np.matmul(a, a, out=out))


def _best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some runs, the first of which also touches the memory."""
    work()
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations)
