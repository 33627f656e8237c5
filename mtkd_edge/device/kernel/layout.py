"""ScoreSpec -> how its levels lie in memory, how threads share them out, and the tables the kernel reads.

Every choice here is a function of the spec and the type of the features alone, never of the GPU or of a launch: that is
what makes results the same everywhere. Knows nothing of C or CUDA; `header.py` writes these values down.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.score import Level, ScoreSpec, resampler

FeatureType = Literal["float32", "float16"]
BLOCK = MAX_BLOCK = 256
"""Threads of a block: what is launched unless someone asks otherwise, and what the kernel is compiled to allow."""
LANES = 32
"""Most threads that share the channels of one position; a block must be a multiple of it."""
CHANNELS_A_LANE = 8
"""A lane gets at least so many channels: as many loads must be in flight to hide the latency of memory."""
AT_ONCE = 10
"""Most pairs of loads a thread has in flight: 80 registers. At batch 1 each further round costs a trip to memory."""
WORD = 16
"""Bytes of the widest load."""
SIDE = 4
"""Map rows one thread makes at once; SIDE of score.cu."""
SHARED = 47 << 10
"""Bytes of shared memory a block may use: every GPU since sm_75 gives 48 KiB without being asked."""
RESERVED, SELECTION = 4, 16 * 32 + 16
"""Floats at the start of shared memory, and those that selecting the largest pixels needs."""
ABI = 2
"""Counts changes of the kernel's arguments; a cubin of another ABI is refused."""

Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Band:
    """A resampler matrix without its zeros: output o is sum_k weights[k, o] * input[first[o] + k]."""

    first: NDArray[np.int64]
    weights: Table


@dataclass(frozen=True, slots=True)
class LevelLayout:
    """One level as the kernel sees it: `rows` x `entries` numbers an image, `vector` of them in one load.

    A row is a channel and an entry a position, except for maps of one position: their channels lie side by side, so
    `fold` of them make a row, and are added up at the end.
    """

    level: Level
    rows: int
    entries: int
    fold: int
    vector: int
    lanes: int

    @property
    def positions(self) -> int:
        """Height times width."""
        return self.level.height * self.level.width

    @property
    def at_once(self) -> int:
        """Rows a lane loads before it adds the first: its rows in as few equal rounds as AT_ONCE allows."""
        each = math.ceil(self.rows / self.lanes)
        return math.ceil(each / math.ceil(each / AT_ONCE))

    @property
    def terms(self) -> int:
        """Sums over channels that its distance is made of."""
        return 3 if self.level.kind == "cosine" else 1

    def tiles(self, block: int) -> int:
        """How many pieces of work one image is for blocks of `block` threads."""
        return math.ceil(self.entries / (block // self.lanes * self.vector))


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole score. `band`: map rows made at a time; `keeps_map`: the map stays in shared memory while pooled."""

    spec: ScoreSpec
    features: FeatureType
    levels: tuple[LevelLayout, ...]
    band: int
    keeps_map: bool

    @property
    def positions(self) -> int:
        """Distances of one image over all levels: floats of scratch memory."""
        return sum(level.positions for level in self.levels)

    @property
    def work(self) -> int:
        """Floats of shared memory that distances, rows and selection use in turn, at the largest block."""
        partial = max(MAX_BLOCK * level.vector * level.terms for level in self.levels)
        rows = self.band * sum(level.level.width for level in self.levels)
        return math.ceil(max(partial, rows, SELECTION) / 4) * 4

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory a block asks for."""
        return 4 * (RESERVED + self.work + (self.spec.height * self.spec.width if self.keeps_map else 0))

    def tiles(self, block: int = BLOCK) -> int:
        """Pieces of work of one image."""
        return sum(level.tiles(block) for level in self.levels)

    def traffic(self, batch: int = 1) -> int:
        """The floor: bytes that must be read (features) and written (map, score, verdict) whatever the method."""
        size = np.dtype(self.features).itemsize
        features = sum(2 * size * level.rows * level.entries for level in self.levels)
        return batch * (features + 4 * (self.spec.height * self.spec.width + 2))

    def digest(self) -> str:
        """16 hex digits that tell one kernel from another: spec, type of the features, arguments."""
        return hashlib.sha256(f"{self.spec.digest()} {self.features} {ABI}".encode()).hexdigest()[:16]


def layout(spec: ScoreSpec, features: FeatureType = "float32") -> Layout:
    """How the kernel for a spec works. Raises ValueError for maps too wide for the shared memory of a block."""
    levels = tuple(_level(level, np.dtype(features).itemsize) for level in spec.levels)
    whole = math.ceil(spec.height / SIDE) * SIDE
    for keeps_map, band in ((keeps, band) for keeps in (True, False) for band in range(whole, 0, -SIDE)):
        found = Layout(spec, features, levels, band, keeps_map)
        if found.shared_bytes <= SHARED:
            return found
    raise ValueError(f"the rows of {len(levels)} levels do not fit into {SHARED} bytes of shared memory")


def _level(level: Level, size: int) -> LevelLayout:
    positions, widest = level.height * level.width, WORD // size
    alone = positions == 1
    vector = math.gcd(level.channels if alone else positions, widest)
    fold = vector if alone else 1
    rows = level.channels // fold
    lanes = 1
    while lanes < LANES and rows >= 2 * lanes * CHANNELS_A_LANE:
        lanes *= 2
    return LevelLayout(level, rows, positions * fold, fold, vector, lanes)


def band(matrix: NDArray[np.float64]) -> Band:
    """The taps of a resampler matrix [n_out, n_in], in single precision, as many for every row."""
    used = matrix != 0
    first = used.argmax(1)
    taps = int((matrix.shape[1] - used[:, ::-1].argmax(1) - first).max())
    first = np.minimum(first, matrix.shape[1] - taps)
    columns = first[None, :] + np.arange(taps)[:, None]
    return Band(first, matrix[np.arange(len(matrix))[None, :], columns].astype(np.float32))


def bands(spec: ScoreSpec, level: Level) -> tuple[Band, Band]:
    """The vertical and the horizontal resampler of a level."""
    return (
        band(resampler(spec.height, level.height, spec.sigma)),
        band(resampler(spec.width, level.width, spec.sigma)),
    )


def statistics(level: Level) -> tuple[Table, Table]:
    """center and gain = weight / scale, one number or one a position, in single precision.

    Raises ValueError for a gain that single precision cannot hold: all scores would be invalid.
    """
    by_position = max(len(level.center), len(level.scale))
    center = np.broadcast_to(np.asarray(level.center, np.float64), by_position)
    with np.errstate(over="ignore"):
        gain = (level.weight / np.broadcast_to(np.asarray(level.scale), by_position)).astype(np.float32)
        single = center.astype(np.float32)
    if not (np.isfinite(gain).all() and np.isfinite(single).all()):
        raise ValueError(f"level {level.name!r}: its center or weight / scale is beyond single precision")
    return single, gain
