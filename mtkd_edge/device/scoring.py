"""Frames through the engine: batches, and what happens when the engine refuses.

A frame the engine fails on is a problem of that frame; the next one is tried, by a new engine where the old one was
lost over it (`engines/process.py`). Where an engine is lost with two batches under way nobody knows over which: both
are given again, and only a frame that was alone is blamed. When it fails on `patience` frames in a row, nothing more is
to be hoped for: `gave_up` then holds the engine's last words, and the caller ends the watch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import Bounds, Engine, EngineLost, Inference, Pipelined
from mtkd_edge.device.prepare import Prepared
from mtkd_edge.errors import BackendError

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A prepared frame with its score, and its map [h, w] if somebody wants it; or with its problem.

    `stages`: milliseconds of its batch.
    """

    prepared: Prepared
    values: Map | None = None
    score: float | None = None
    problem: str = ""
    wait_ms: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """A batch that was begun: `good` are the numbers of its frames without a problem.

    `given`: whether an engine has it, which may be lost over it; otherwise `answer` gives it first.
    """

    batch: Sequence[Prepared]
    waits: Sequence[float]
    good: list[int]
    answer: Callable[[], Inference]
    given: bool

    def frames(self) -> list[Prepared]:
        """Those without a problem."""
        return [self.batch[number] for number in self.good]


class Scorer:
    """Keeps count of the engine's failures. Used from one thread, as the engine is.

    `at_once`: batches that may be begun before the first is ended, where the engine can do that. `bounds`: which maps
    somebody wants, None = all; an engine that can leaves out the others.
    """

    def __init__(
        self,
        engine: Engine,
        patience: int,
        restarted: Callable[[str], None],
        at_once: int = 1,
        bounds: Bounds | None = None,
    ) -> None:
        """`restarted` hears why each time the engine was started anew."""
        self._engine, self._restarted = engine, restarted
        self._patience, self._bounds = patience, bounds
        self._at_once = min(at_once, engine.at_once) if isinstance(engine, Pipelined) else 1
        self._flights: deque[_Flight] = deque()
        self._failures = 0
        self.gave_up: BackendError | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing has been begun that is not ended."""
        return not self._flights

    @property
    def full(self) -> bool:
        """Whether a batch must be ended before the next is begun."""
        return len(self._flights) >= self._at_once

    @property
    def remark(self) -> str:
        """What the engine does otherwise than it was built to, and why."""
        return self._engine.remark if isinstance(self._engine, Pipelined) else ""

    def begin(self, batch: Sequence[Prepared], waits: Sequence[float]) -> None:
        """Give the engine a batch. `waits` are the milliseconds each frame has waited for this call."""
        good = [number for number, prepared in enumerate(batch) if not prepared.problem]
        answer = self._submit([batch[n] for n in good])
        self._flights.append(_Flight(batch, waits, good, answer, given=bool(good)))

    def end(self) -> list[Scored]:
        """One result for each frame of the batch that was begun first, in order."""
        flight = self._flights.popleft()
        batch, waits = flight.batch, flight.waits
        results = {n: Scored(p, problem=p.problem, wait_ms=waits[n]) for n, p in enumerate(batch) if p.problem}
        if flight.good:
            results |= self._results(batch, flight.good, waits, flight.answer)
        return [results[number] for number in range(len(batch))]

    def abandon(self) -> list[Prepared]:
        """The frames of all batches that are not ended; nobody waits for their answers any more."""
        left = [prepared for flight in self._flights for prepared in flight.batch]
        self._flights.clear()
        return left

    def _submit(self, frames: Sequence[Prepared]) -> Callable[[], Inference]:
        """How the answer for these frames is had; a refusal comes with it and not here."""
        engine, pixels = self._engine, partial(np.stack, [_frame(one) for one in frames])
        if not frames or not isinstance(engine, Pipelined):
            return lambda: engine.infer(pixels())
        try:
            ticket = engine.submit(pixels(), self._bounds)
        except BackendError as error:
            return partial(_refuse, error)
        return lambda: engine.collect(ticket)

    def _results(
        self, batch: Sequence[Prepared], numbers: list[int], waits: Sequence[float], answer: Callable[[], Inference]
    ) -> dict[int, Scored]:
        try:
            inference = answer()
        except BackendError as error:
            beside = isinstance(error, EngineLost) and self._lost(error)
            if len(numbers) > 1 or beside:  # one bad frame must not take the others with it
                alone = (self._results(batch, [n], waits, self._submit([batch[n]])) for n in numbers)
                return {k: v for results in alone for k, v in results.items()}
            self._failures += 1
            if self._failures >= self._patience:
                self.gave_up = error
            problem = f"the engine failed: {error.message}"
            return {numbers[0]: Scored(batch[numbers[0]], problem=problem, wait_ms=waits[numbers[0]])}
        self._failures = 0
        known = inference.has_map if inference.has_map is not None else np.ones(len(numbers), np.bool_)
        rows = zip(numbers, inference.maps, inference.scores, known, strict=True)
        return {
            n: Scored(batch[n], values if has_map else None, float(score), wait_ms=waits[n], stages=inference.stages)
            for n, values, score, has_map in rows
        }

    def _lost(self, error: EngineLost) -> bool:
        """Tell of it. What else was under way is lost as well, and given again in its turn -> whether anything was."""
        self._restarted(error.message)
        beside = any(flight.given for flight in self._flights)
        again = (replace(flight, answer=partial(self._give, flight.frames()), given=False) for flight in self._flights)
        self._flights = deque(again)
        return beside

    def _give(self, frames: Sequence[Prepared]) -> Inference:
        return self._submit(frames)()


def _refuse(error: BackendError) -> Inference:
    raise error


def _frame(prepared: Prepared) -> NDArray[np.uint8]:
    assert prepared.frame is not None, "a prepared frame without a problem has its pixels"
    return prepared.frame
