"""An engine in a process of its own: a crash or a hang in a vendor's runtime costs one frame and a restart.

A thread that hangs in C cannot be ended, a process can. Frames, maps and scores go through shared memory. The engine
that failed is never asked again: after an error of the CUDA runtime nothing in its process can be trusted.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import Bounds, EngineLost, EngineOptions, Frames, Inference, check_frames
from mtkd_edge.device.engines.serving import (
    AT_ONCE,
    FRAMES,
    RESULTS,
    Answer,
    Ask,
    Begin,
    Failed,
    Loaded,
    Order,
    Scored,
    Warm,
    answers,
    encode,
)
from mtkd_edge.device.workers.child import Child
from mtkd_edge.device.workers.shared import Torn
from mtkd_edge.errors import BackendError, BundleError, MissingExtraError, MtkdError

WORKER = "mtkd_edge.device.engines.serving:run"
LOADING = 300.0
"""Seconds that an engine gets to load: the first time some runtimes compile."""
WARMING = 60.0
"""Seconds for the first calls after loading, where a runtime still sets things up."""
HANG = 1.5
SLOWER = 20
"""A call hangs after HANG seconds, or SLOWER times what the slowest of the latest calls took, whichever is more."""
REMEMBERED = 100
GRACE = 1.0
STARTS = (0.0, 0.5, 1.0, 2.0)
"""Seconds before each attempt to start a process, on a machine that has no room for one just now."""


@dataclass(slots=True)
class _Batch:
    """A batch under way. `frames`: those that the process has not got yet."""

    number: int
    ticket: int
    bounds: Bounds | None
    frames: Frames | None


class EngineProcess:
    """The engine of a folder; `frame` is (height, width). Loads at once, and `ready` waits for it.

    `name`, `batch`, `at_once` and `remark` are the engine's own once it is ready.

    Used from one thread, which must outlive it: the process ends with the thread that has started it.
    """

    def __init__(self, folder: Path, frame: tuple[int, int], options: EngineOptions, worker: str = WORKER) -> None:
        self.name, self.batch, self.at_once, self.remark = folder.name, 1, 1, ""
        self._frame, self._worker = (*frame, 3), worker
        self._order = encode(Order(str(folder), self._frame, options))
        self._number = 0
        self._batches: dict[int, _Batch] = {}
        self._took: deque[float] = deque()
        self._loaded = self._closed = False
        self._child = self._start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    def ready(self) -> EngineProcess:
        """Itself, loaded. Raises what loading raised: BundleError, MissingExtraError or BackendError."""
        self._check_open()
        if self._loaded:
            return self
        loaded = self._answer(LOADING)
        assert isinstance(loaded, Loaded), "it says first that it is there"
        warm = self._answer(WARMING)
        assert isinstance(warm, Warm), "then that it is warm"
        self.name, self.batch, self.at_once = loaded.name, loaded.batch, loaded.at_once
        self.remark, self._loaded = warm.remark, True
        self._took = deque([warm.took], maxlen=REMEMBERED)
        return self

    def infer(self, frames: Frames) -> Inference:
        """As any engine. Raises EngineLost where it crashed, hung or failed, which the next call starts anew."""
        return self.collect(self.submit(frames))

    def submit(self, frames: Frames, bounds: Bounds | None = None) -> int:
        """As `Pipelined` says. While the engine loads, the frames wait here."""
        self._check_open()
        check_frames(frames, self._frame, max(1, self.batch))
        ticket = next((ticket for ticket in range(AT_ONCE) if ticket not in self._batches), None)
        if ticket is None:
            raise BackendError(f"the engine {self.name} has {AT_ONCE} batches under way", "collect one first")
        self._number += 1
        batch = self._batches[ticket] = _Batch(self._number, ticket, bounds, frames)
        if self._loaded:
            with contextlib.suppress(OSError):  # `collect` does it again, and tells
                self._begin(batch)
        if batch.frames is not None:
            batch.frames = batch.frames.copy()
        return ticket

    def collect(self, ticket: int) -> Inference:
        """As `Pipelined` says. Raises EngineLost where it crashed, hung or failed, which the next call starts anew."""
        self._check_open()
        batch = self._batches.pop(ticket, None)
        if batch is None:
            raise BackendError(f"the engine {self.name} has no batch number {ticket} under way")
        try:
            return self._collect(batch)
        except (BackendError, BundleError, MissingExtraError, Torn, OSError) as error:
            why = error.message if isinstance(error, MtkdError) else f"its process failed: {error}"
            self._restart()
            raise EngineLost(f"{why}; the engine is started anew", "mtkd-edge check") from error

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """Not here. Raises BackendError: `check` and calibration use the engine itself."""
        raise BackendError("features are not given by an engine in a process of its own", "mtkd_edge.device.engines")

    def close(self) -> None:
        """End the process. Calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._child.close(GRACE)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"the engine {self.name} is closed")

    def _begin(self, batch: _Batch) -> None:
        """Raises OSError where there is no memory."""
        assert batch.frames is not None, "begun once"
        bounds = (batch.bounds.score, batch.bounds.map) if batch.bounds is not None else None
        self._child.shared.write(FRAMES + batch.ticket, batch.number, batch.frames)
        self._say(Begin(batch.number, batch.ticket, batch.frames.shape, bounds))
        batch.frames = None

    def _say(self, message: Begin | Ask) -> None:
        with contextlib.suppress(BrokenPipeError):  # reading the answer tells what it died of
            self._child.wire.send(encode(message))

    def _collect(self, batch: _Batch) -> Inference:
        self.ready()
        began = time.monotonic()
        if batch.frames is not None:
            self._begin(batch)
        self._say(Ask(batch.number))
        answer = self._answer(max(HANG, SLOWER * max(self._took)))
        assert isinstance(answer, Scored) and answer.number == batch.number, "one answer for each question, in turn"
        self.remark = answer.remark
        scores = self._child.shared.read(RESULTS + 1, batch.number, answer.maps[:1], "<f4")
        has_map = None if answer.has_map is None else np.array(answer.has_map, np.bool_)
        maps = self._maps(batch.number, answer.maps, has_map)
        self._took.append(time.monotonic() - began)
        return Inference(maps, scores, answer.stages, has_map)

    def _maps(self, number: int, shape: tuple[int, int, int], has_map: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        if has_map is None:
            return self._child.shared.read(RESULTS, number, shape, "<f4")
        maps = np.full(shape, math.nan, np.float32)
        if has_map.any():
            maps[has_map] = self._child.shared.read(RESULTS, number, (int(has_map.sum()), *shape[1:]), "<f4")
        return maps

    def _answer(self, within: float) -> Answer:
        """Raises BackendError where none comes in time, and what it says of itself where it failed."""
        try:
            data = self._child.wire.receive(within)
        except EOFError as error:
            raise BackendError(f"the engine's process {self._child.death()}") from error
        if data is None:
            self._child.kill()
            raise BackendError(f"the engine hung for {within:.1f} s")
        answer = answers.decode(data)
        if isinstance(answer, Failed):
            raise _error(answer)
        return answer

    def _restart(self) -> None:
        self._child.close()
        self._loaded = False
        self._batches.clear()
        self._closed = True  # its descriptors may be others' by now: without a process nobody is spoken to
        self._child = self._start()
        self._closed = False

    def _start(self) -> Child:
        """Raises BackendError where no process can be started, although it was tried for a while."""
        for pause in STARTS:
            time.sleep(pause)
            try:
                return Child("engine", self._worker, self._order)
            except OSError as error:
                why = error.strerror
        raise BackendError(f"no process for the engine can be started: {why}", "free memory, or raise its limits")


def _error(failed: Failed) -> MtkdError:
    """The error again."""
    kinds = {kind.__name__: kind for kind in (BundleError, MissingExtraError)}
    kind: type[MtkdError] = kinds.get(failed.kind, BackendError)
    error = kind.__new__(kind)
    MtkdError.__init__(error, failed.message, failed.hint)  # a missing extra makes up its own words
    return error
