"""Frames through the engine: batches, and what happens when the engine refuses.

A frame the engine fails on is a problem of that frame; the next one is tried. When it fails on `patience` frames in a
row, nothing more is to be hoped for: `gave_up` then holds the engine's last words, and the caller ends the watch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import Engine
from mtkd_edge.device.prepare import Prepared
from mtkd_edge.errors import BackendError

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A prepared frame with its map [h, w] and score, or with its problem. `stages`: milliseconds of its batch."""

    prepared: Prepared
    values: Map | None = None
    score: float | None = None
    problem: str = ""
    wait_ms: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)


class Scorer:
    """Keeps count of the engine's failures. Used from one thread, as the engine is."""

    def __init__(self, engine: Engine, patience: int) -> None:
        self._engine = engine
        self._patience = patience
        self._failures = 0
        self.gave_up: BackendError | None = None

    def score(self, batch: Sequence[Prepared], waits: Sequence[float]) -> list[Scored]:
        """One result for each, in order. `waits` are the milliseconds each has waited for this call."""
        good = [number for number, prepared in enumerate(batch) if not prepared.problem]
        results = {n: Scored(p, problem=p.problem, wait_ms=waits[n]) for n, p in enumerate(batch) if p.problem}
        results |= self._infer(batch, good, waits)
        return [results[number] for number in range(len(batch))]

    def _infer(self, batch: Sequence[Prepared], numbers: list[int], waits: Sequence[float]) -> dict[int, Scored]:
        if not numbers:
            return {}
        try:
            inference = self._engine.infer(np.stack([_frame(batch[n]) for n in numbers]))
        except BackendError as error:
            if len(numbers) > 1:  # one bad frame must not take the others with it
                return {k: v for n in numbers for k, v in self._infer(batch, [n], waits).items()}
            self._failures += 1
            if self._failures >= self._patience:
                self.gave_up = error
            problem = f"the engine failed: {error.message}"
            return {numbers[0]: Scored(batch[numbers[0]], problem=problem, wait_ms=waits[numbers[0]])}
        self._failures = 0
        return {
            n: Scored(batch[n], values, float(score), wait_ms=waits[n], stages=inference.stages)
            for n, values, score in zip(numbers, inference.maps, inference.scores, strict=True)
        }


def _frame(prepared: Prepared) -> NDArray[np.uint8]:
    assert prepared.frame is not None, "a prepared frame without a problem has its pixels"
    return prepared.frame
