"""Layout -> the C text that goes before the kernel's: every number of the score, as an exact hexadecimal float.

The tables (center, gain, resampler taps) are constants of the cubin and not buffers of their own: one file is the whole
scorer, its digest covers every number, and nobody can pair it with another model's tables. They are `__device__`, not
`__constant__`, because neighbouring threads read different elements.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np

from mtkd_edge.device.kernel.layout import MAX_BLOCK, Layout, bands, statistics
from mtkd_edge.score import EPSILON

TEXTS = ("words.cuh", "distances.cuh", "map.cuh", "pool.cuh", "score.cu")
"""The kernel's text, in the order in which its parts are joined: one file for every compiler, nothing to include."""
KINDS = ("squared", "distance", "cosine")
TYPES = {"float32": "float", "float16": "unsigned short"}
FIELDS = (
    "kind", "channels", "positions", "rows", "entries", "fold", "vector", "lanes", "at_once", "width", "offset", "statistics",
    "by_position", "y_taps", "x_taps", "y_table", "x_table", "column",
)  # fmt: skip
"""Of `struct Level` in the header; offsets are in elements of the flat tables."""


def source(found: Layout) -> str:
    """The whole kernel: its numbers, then TEXTS. The same for nvcc, NVRTC and the host's compiler."""
    folder = Path(__file__).parent
    return "\n".join([header(found), *((folder / name).read_text() for name in TEXTS)])


def header(found: Layout) -> str:
    """The constants of one kernel."""
    spec = found.spec
    single = [statistics(level.level) for level in found.levels]
    taps = [bands(spec, level.level) for level in found.levels]
    names = "center", "gain", "y_first", "x_first", "y_weight", "x_weight"
    columns = zip(
        *((c, g, y.first, x.first, y.weights, x.weights) for (c, g), (y, x) in zip(single, taps, strict=True)),
        strict=True,
    )
    tables = {name: np.concatenate([part.ravel() for part in parts]) for name, parts in zip(names, columns, strict=True)}
    rows = [dict(zip(FIELDS, values, strict=True)) for values in _levels(found, single, taps)]
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
    return "\n".join(
        [
            f"#define DIGEST 0x{found.digest()}ULL",
            f"typedef {TYPES[found.features]} FEATURE;",
            f"enum Kind {{ {', '.join(kind.upper() for kind in KINDS)} }};",
            *(f"constexpr int {name} = {value};" for name, value in constants.items()),
            f"constexpr float EPSILON = {literal(EPSILON)};",
            f"struct Level {{ int {', '.join(FIELDS)}; }};",
            f"constexpr Level LEVEL[LEVELS] = {{ {', '.join(_braced(row.values()) for row in rows)} }};",
            *(_table(name, values) for name, values in tables.items()),
            "",
        ]
    )


def literal(value: float) -> str:
    """A float of C with exactly the bits of `value` in single precision."""
    return f"{float(np.float32(value)).hex()}f"


def _levels(found: Layout, single: list, taps: list) -> Iterable[tuple[int, ...]]:  # type: ignore[type-arg]
    """The values of FIELDS, level by level."""
    levels = found.levels
    offset = _starts(level.positions for level in levels)
    start = _starts(len(center) for center, _ in single)
    y_table = _starts(y.weights.size for y, _ in taps)
    x_table = _starts(x.weights.size for _, x in taps)
    column = _starts(level.level.width for level in levels)
    for i, one in enumerate(levels):
        yield (
            KINDS.index(one.level.kind), one.level.channels, one.positions, one.rows, one.entries, one.fold,
            one.vector, one.lanes, one.at_once, one.level.width, offset[i], start[i], int(len(single[i][0]) > 1),
            len(taps[i][0].weights), len(taps[i][1].weights), y_table[i], x_table[i], column[i],
        )  # fmt: skip


def _starts(sizes: Iterable[int]) -> list[int]:
    return [0, *accumulate(sizes)]


def _braced(values: Iterable[int]) -> str:
    return f"{{{', '.join(map(str, values))}}}"


def _table(name: str, values: np.ndarray) -> str:  # type: ignore[type-arg]
    if values.dtype.kind == "f":
        return f"__device__ const float {name}[] = {{{', '.join(map(literal, values))}}};"
    return f"__device__ const unsigned short {name}[] = {{{', '.join(map(str, values))}}};"
