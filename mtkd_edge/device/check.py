"""Replays an engine's golden frames: does it still make, here and now, what the reference made of them?

Deviations are relative: of a feature map its L2 norm, of the map and the score the range of the golden maps. The
bounds are those of the precision; they catch a wrong runtime, a damaged graph or another normalisation, and are no
statement about accuracy, which is the gate's. A flipped byte is found before, by `bundle.load_engine`, and in the
threshold by its own seal.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import npz
from mtkd_edge.bundle import GOLDEN, load_engine, load_threshold
from mtkd_edge.device.engine import Engine
from mtkd_edge.errors import BundleError, DataError, GateError

BOUNDS = {"fp32": (1e-3, 5e-3), "fp16": (0.02, 0.05), "int8": (0.25, 0.30)}
"""Largest deviation of a feature, and of map and score, by precision."""


class Row(msgspec.Struct, frozen=True):
    """One stage: its largest deviation over the golden frames, and the bound."""

    name: str
    deviation: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for NaN as well."""
        return self.deviation <= self.bound


class CheckReport(msgspec.Struct, frozen=True):
    """All stages of an engine that passed, in order: features, map, score."""

    engine: str
    precision: str
    frames: int
    rows: tuple[Row, ...]


def check(folder: Path, engine: Engine) -> CheckReport:
    """`engine`, loaded from `folder`, on the folder's golden frames.

    Raises BundleError for a damaged folder, GateError naming every stage that is out of its bound.
    """
    manifest = load_engine(folder)
    load_threshold(folder)
    golden = read_golden(folder / GOLDEN)
    rows = compare(engine, golden, manifest.model.feature_names(), *BOUNDS[manifest.precision])
    wrong = [f"{row.name} deviates by {row.deviation:.2g}, allowed is {row.bound:g}" for row in rows if not row.passed]
    if wrong:
        raise GateError(
            f"{folder} does not reproduce its golden frames on this machine: {'; '.join(wrong)}",
            f"mtkd-edge build-engine --{manifest.precision} --target {manifest.target}",
        )
    return CheckReport(engine.name, manifest.precision, len(golden["frames"]), tuple(rows))


def compare(
    engine: Engine, golden: dict[str, NDArray[np.generic]], names: list[str], features: float, maps: float
) -> list[Row]:
    """The rows for golden arrays as `bundle.py` describes them; `features` and `maps` are the bounds."""
    frames = np.asarray(golden["frames"], np.uint8)
    made = [engine.infer(frame[None]) for frame in frames]
    rows = []
    for name in names:
        wanted = np.asarray(golden[name], np.float64)
        found = np.concatenate([engine.features(frame[None])[name] for frame in frames[: len(wanted)]])
        rows.append(
            Row(name, _largest(found, wanted, float(np.linalg.norm(wanted) / len(wanted) ** 0.5), True), features)
        )
    wanted = np.asarray(golden["map"], np.float64)
    size = float(wanted.max() - wanted.min())
    rows.append(Row("map", _largest(np.concatenate([m.maps for m in made]), wanted, size), maps))
    scores = np.concatenate([m.scores for m in made])
    return [*rows, Row("score", _largest(scores, np.asarray(golden["score"], np.float64), size), maps)]


def read_golden(path: Path) -> dict[str, NDArray[np.generic]]:
    """golden.npz, never a pickle. Raises BundleError for a file that is not one."""
    try:
        return npz.read(path)
    except DataError as error:
        raise BundleError(error.message, "copy the whole folder again") from error


def _largest(found: NDArray[np.generic], wanted: NDArray[np.float64], size: float, norm: bool = False) -> float:
    """The largest deviation over frames, in units of `size`: of the L2 norm of a frame, or of any element."""
    if found.shape != wanted.shape:
        raise GateError(f"golden arrays have shape {list(wanted.shape)}, the engine makes {list(found.shape)}")
    errors = np.abs(np.asarray(found, np.float64) - wanted).reshape(len(wanted), -1)
    each = np.linalg.norm(errors, axis=1) if norm else errors.max(1)
    return float(each.max()) / max(size, 1e-12)
