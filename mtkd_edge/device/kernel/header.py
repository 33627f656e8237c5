"""Layout -> the C text that goes before the kernel's: every number of the score, as an exact hexadecimal float.

The tables (center, gain, resampler taps) are constants of the cubin and not buffers of their own: one file is the whole
scorer, its digest covers every number, and nobody can pair it with another model's tables. They are `__device__`, not
`__constant__`, because neighbouring threads read different elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.kernel.layout import MAX_BLOCK, Band, Layout, Table, bands, statistics
from mtkd_edge.score import EPSILON

TEXTS = ("words.cuh", "distances.cuh", "map.cuh", "pool.cuh", "score.cu")
"""The kernel's text, in the order in which its parts are joined: one file for every compiler, nothing to include."""
KINDS = ("squared", "distance", "cosine")
TYPES = {"float32": "float", "float16": "unsigned short"}
FIELDS = (
    "kind", "channels", "positions", "rows", "entries", "fold", "vector", "lanes", "at_once", "width", "offset",
    "statistics", "by_position", "y_taps", "x_taps", "y_table", "x_table", "column",
)  # fmt: skip
"""Of `struct Level` in the header; offsets are in elements of the flat tables."""


def source(found: Layout) -> str:
    """The whole kernel: its numbers, then TEXTS. The same for nvcc, NVRTC and the host's compiler."""
    folder = Path(__file__).parent
    return "\n".join([header(found), *((folder / name).read_text() for name in TEXTS)])


def header(found: Layout) -> str:
    """The constants of one kernel."""
    spec = found.spec
    parts = [Parts(*statistics(level.level), *bands(spec, level.level)) for level in found.levels]
    levels = [f"{{{', '.join(map(str, values))}}}" for values in _levels(found, parts)]
    constants = {
        "LEVELS": len(found.levels),
        "MAP_H": spec.height,
        "MAP_W": spec.width,
        "POOLED": spec.pooled,
        "POSITIONS": found.positions,
        "BAND": found.band,
        "WORK": found.work,
        "KEEPS_MAP": int(found.keeps_map),
        "MAX_BLOCK": MAX_BLOCK,
    }
    lines = [
        f"#define DIGEST 0x{found.digest()}ULL",
        f"typedef {TYPES[found.features]} FEATURE;",
        f"enum Kind {{ {', '.join(kind.upper() for kind in KINDS)} }};",
        *(f"constexpr int {name} = {value};" for name, value in constants.items()),
        f"constexpr float EPSILON = {literal(EPSILON)};",
        f"struct Level {{ int {', '.join(FIELDS)}; }};",
        f"constexpr Level LEVEL[LEVELS] = {{{', '.join(levels)}}};",
        _floats("center", [part.center for part in parts]),
        _floats("gain", [part.gain for part in parts]),
        _whole("y_first", [part.y.first for part in parts]),
        _whole("x_first", [part.x.first for part in parts]),
        _floats("y_weight", [part.y.weights for part in parts]),
        _floats("x_weight", [part.x.weights for part in parts]),
    ]
    return "\n".join([*lines, ""])


class Parts(NamedTuple):
    """What one level brings to the tables."""

    center: Table
    gain: Table
    y: Band
    x: Band


def literal(value: float) -> str:
    """A float of C with exactly the bits of `value` in single precision."""
    return f"{float(np.float32(value)).hex()}f"


def _levels(found: Layout, parts: Sequence[Parts]) -> Iterator[tuple[int, ...]]:
    """The values of FIELDS, level by level."""
    levels = found.levels
    offset = _starts(level.positions for level in levels)
    statistic = _starts(part.center.size for part in parts)
    y_table, x_table = _starts(part.y.weights.size for part in parts), _starts(part.x.weights.size for part in parts)
    column = _starts(level.level.width for level in levels)
    for i, (one, part) in enumerate(zip(levels, parts, strict=True)):
        yield (
            KINDS.index(one.level.kind), one.level.channels, one.positions, one.rows, one.entries, one.fold,
            one.vector, one.lanes, one.at_once, one.level.width, offset[i], statistic[i], int(part.center.size > 1),
            len(part.y.weights), len(part.x.weights), y_table[i], x_table[i], column[i],
        )  # fmt: skip


def _starts(sizes: Iterable[int]) -> list[int]:
    return [0, *accumulate(sizes)]


def _floats(name: str, parts: Sequence[Table]) -> str:
    values = ", ".join(literal(float(value)) for part in parts for value in part.flat)
    return f"__device__ const float {name}[] = {{{values}}};"


def _whole(name: str, parts: Sequence[NDArray[np.int64]]) -> str:
    values = ", ".join(str(value) for part in parts for value in part)
    return f"__device__ const unsigned short {name}[] = {{{values}}};"
