"""What is normal, and how much each level counts: from normal photos and defects pasted on them.

No anomalous photo has any part in this. Center and scale of each level's distance come from the `tune` photos. Which
autoencoder is kept, and then the weights of the two levels: what best ranks defects pasted on the same photos. Each of
the two questions keeps its first answer where no other is clearly better: the first autoencoder, and equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.metrics import auroc
from mtkd_edge.score import Level, ScoreSpec, distance, pool, resampler

MARGIN = 0.005
"""An answer must beat the first one by this much AUROC: less is noise on a few dozen photos."""
SHARES = ((0.5, 0.5), (0.75, 0.25), (0.25, 0.75), (0.9, 0.1), (0.1, 0.9))
"""Both levels always count: a student that is never asked would not be worth its time."""
Maps = NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """Distances of one level on a set of frames: [N, h, w]."""

    normal: Maps
    defect: Maps


@dataclass(frozen=True)
class Choice:
    """What is kept: the autoencoder's name, the score, and this choice's name among all `tried` (name -> AUROC)."""

    autoencoder: str
    score: ScoreSpec
    name: str
    tried: dict[str, float]


class Option(NamedTuple):
    """One thing to try: the student's level with that of index `rebuilt`."""

    rebuilt: int
    shares: tuple[float, float]


def statistics(normal: Maps) -> tuple[tuple[float], tuple[float]]:
    """Distances on normal photos [N, h, w] -> center and scale of a Level, one number each."""
    return (float(normal.mean()),), (max(float(normal.std()), 1e-9),)


def choose(levels: Sequence[Level], found: Sequence[Distances], shape: ScoreSpec) -> Choice:
    """`levels`: the student's deviation, then the reconstruction of each autoencoder that was fitted.

    The score keeps the first and one of the others, which is then called "reconstruction".
    """
    options = [[Option(rebuilt, shares) for shares in SHARES] for rebuilt in range(1, len(levels))]
    reached = [[_reached(levels, found, shape, option) for option in row] for row in options]
    autoencoder = first_or_better([max(row) for row in reached])
    kept = options[autoencoder][first_or_better(reached[autoencoder])]
    names = [_name(levels, option) for row in options for option in row]
    tried = dict(zip(names, chain(*reached), strict=True))
    return Choice(levels[kept.rebuilt].name, _candidate(levels, found, shape, kept), _name(levels, kept), tried)


def first_or_better(reached: Sequence[float]) -> int:
    """The number of the best, or of the first where the best is not clearly better."""
    best = int(np.argmax(reached))
    return best if reached[best] >= reached[0] + MARGIN else 0


def _name(levels: Sequence[Level], option: Option) -> str:
    return f"{levels[option.rebuilt].name}, {'/'.join(f'{share:g}' for share in option.shares)}"


def _candidate(levels: Sequence[Level], found: Sequence[Distances], shape: ScoreSpec, option: Option) -> ScoreSpec:
    filled = []
    for i, name, weight in zip((0, option.rebuilt), ("deviation", "reconstruction"), option.shares, strict=True):
        center, scale = statistics(found[i].normal)
        filled.append(msgspec.structs.replace(levels[i], name=name, center=center, scale=scale, weight=weight))
    return msgspec.structs.replace(shape, levels=tuple(filled))


def _reached(levels: Sequence[Level], found: Sequence[Distances], shape: ScoreSpec, option: Option) -> float:
    """AUROC on pasted defects."""
    spec, asked = _candidate(levels, found, shape, option), (found[0], found[option.rebuilt])
    normal = pool(spec, _total(spec, [d.normal for d in asked]))
    defect = pool(spec, _total(spec, [d.defect for d in asked]))
    labels = np.r_[np.zeros(len(normal), bool), np.ones(len(defect), bool)]
    value = auroc(labels, np.r_[normal, defect])
    return 0.5 if value is None else float(value)


def _total(spec: ScoreSpec, maps: Sequence[Maps]) -> Maps:
    total: Maps = np.zeros((len(maps[0]), spec.height, spec.width))
    for level, d in zip(spec.levels, maps, strict=True):
        rows = resampler(spec.height, level.height, spec.sigma)
        columns = resampler(spec.width, level.width, spec.sigma)
        total += level.weight * (rows @ ((d - level.grid(level.center)) / level.grid(level.scale)) @ columns.T)
    return total


def distances(levels: Sequence[Level], features: dict[str, NDArray[np.float32]]) -> list[Maps]:
    """The outputs of the feature graph by name -> d_l of each level, [N, h, w]."""
    return [
        np.asarray(distance(level, features[f"student_{level.name}"], features[f"reference_{level.name}"]), np.float64)
        for level in levels
    ]
