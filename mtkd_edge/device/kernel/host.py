"""The CUDA text on a CPU: compiled by g++ behind `host_cuda.h`, called through ctypes.

It is the referee where there is no GPU (tests) and where there is one (`scripts/gpu_report.py` asks for the same bits),
not a way to score on a line. Knows nothing of pycuda.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.kernel.header import source
from mtkd_edge.device.kernel.host_arena import Arena
from mtkd_edge.device.kernel.layout import BLOCK, Layout
from mtkd_edge.errors import BackendError

FOLDER = Path(__file__).parent
FLAGS = (
    *("-std=c++17", "-ffp-contract=off", "-march=native", "-fPIC", "-shared", "-Wno-unknown-pragmas"),
    "-U_FORTIFY_SOURCE",  # Ubuntu's compiler sets it, and glibc then aborts where fibers jump between their stacks
)
"""No contraction: an fma is where score.cu says fmaf, as -fmad=false has it on the GPU."""
PROBLEMS = {
    1: "a barrier was reached by some threads only",
    2: "a block wrote beyond its shared memory",
    3: "more threads or shared memory than the host build has",
    4: "a load was not aligned",
    5: "an address belongs to nobody",
}
Features = Sequence[NDArray[Any]]
_ONE_AT_A_TIME = threading.Lock()
"""The host build keeps its fibers and its signal handler in static memory."""


@dataclass(frozen=True, slots=True)
class Scored:
    """map [N, H, W], score [N], verdict bits [N], and the tickets [N] as the launch left them."""

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    verdicts: NDArray[np.uint32]
    tickets: NDArray[np.uint32]


def build(found: Layout, folder: Path, text: str = "", optimise: str = "-O1") -> Path:
    """Compile the kernel, or `text` instead of it, as a shared library in `folder`; kept by the hash of its text.

    Raises BackendError with the compiler's words, or where there is no g++.
    """
    whole = f'#include "host_cuda.h"\n{text or source(found)}\n#include "host_launch.h"\n'
    parts = [whole, optimise, *FLAGS, *((FOLDER / name).read_text() for name in ("host_cuda.h", "host_launch.h"))]
    library = folder / f"score-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    temporary = library.with_suffix(".tmp")
    command = ["g++", optimise, *FLAGS, f"-I{FOLDER}", "-x", "c++", "-", "-o", str(temporary)]
    try:
        done = subprocess.run(command, input=whole, capture_output=True, text=True)
    except OSError as error:
        raise BackendError(f"g++ cannot be run: {error}", "sudo apt-get install g++") from error
    if done.returncode:
        raise BackendError(f"g++ does not take the kernel: {done.stderr.strip()[:2000]}")
    temporary.replace(library)
    return library


def launch(
    library: ctypes.CDLL,
    addresses: Sequence[int],
    arguments: Sequence[Any],
    *,
    grid: int,
    block: int,
    shared: int,
    order: int = 0,
) -> None:
    """The kernel on raw addresses: features, then `arguments` as score.cu names them from `distances` on.

    `order`: 0 runs threads and blocks in the order of their numbers, anything else is the seed of another order.
    Raises BackendError for what a GPU would punish.
    """
    features = (ctypes.c_void_p * len(addresses))(*addresses)
    kinds = [ctypes.c_void_p] * 5 + [ctypes.c_double, ctypes.c_double, ctypes.c_int]
    values = [kind(value) for kind, value in zip(kinds, arguments, strict=True)]
    sizes = [ctypes.c_uint(number) for number in (grid, block, shared, order)]
    with _ONE_AT_A_TIME:
        code = library.launch(features, *values, *sizes)
    if code:
        raise BackendError(f"the host build of the kernel stopped: {PROBLEMS[code]}")


def run(
    found: Layout,
    library: Path,
    student: Features,
    reference: Features,
    *,
    threshold: float = np.inf,
    map_threshold: float = np.inf,
    grid: int = 0,
    block: int = BLOCK,
    order: int = 0,
) -> Scored:
    """One launch on arrays [N, C, h, w] of the layout's type, one a level. `grid` 0: a block for every tile.

    Raises ValueError for other shapes or types, BackendError as `launch`.
    """
    count = len(student[0])
    arrays = [np.ascontiguousarray(array) for array in (*student, *reference)]
    for array, level in zip(arrays, (*found.levels, *found.levels), strict=True):
        wanted = (count, level.level.channels, level.level.height, level.level.width)
        if array.shape != wanted or array.dtype != np.dtype(found.features):
            raise ValueError(f"level {level.level.name!r} wants {wanted} of {found.features}, got {array.shape}")
    spec = found.spec
    arena = Arena()
    addresses = [arena.put(array) for array in arrays]
    distances = arena.room((count, found.positions))
    tickets = arena.put(np.zeros(count, np.uint32))
    maps, scores, verdicts = (arena.room(shape) for shape in ((count, spec.height, spec.width), (count,), (count,)))
    arguments = [arena.address(at) for at in (distances, tickets, maps, scores, verdicts)]
    launch(
        ctypes.CDLL(str(library)),
        [arena.address(at) for at in addresses],
        [*arguments, threshold, map_threshold, count],
        grid=grid or count * found.tiles(block),
        block=block,
        shared=found.shared_bytes,
        order=order,
    )
    arena.check()
    return Scored(
        arena.take(maps, np.float32), arena.take(scores, np.float32),
        arena.take(verdicts, np.uint32), arena.take(tickets, np.uint32),
    )  # fmt: skip
