"""What an engine is: two methods and a lifetime; some also take the next batch while one computes.

The engine knows nothing about photos, thresholds or verdicts. It takes frames and gives maps and scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.errors import BackendError

Frames = NDArray[np.uint8]
STEADY = 8
"""Batches of one kind in a row after which an engine may change how it works: a CUDA graph is captured, which costs
more than a few launches save. Whoever measures lets them pass."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What whoever loads an engine may say about this machine; the defaults are the engine's own.

    `threads`: CPU threads, 0 = as built (all). `hint`: "" = as built. `cache`: where OpenVINO keeps compiled models,
    None = inside the engine folder where that can be written. `gpu`: which CUDA device. `cuda_graph`: None = as built.
    """

    threads: int = 0
    hint: Literal["", "latency", "throughput"] = ""
    cache: Path | None = None
    gpu: int = 0
    cuda_graph: bool | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which maps are worth having: of images whose score, or any map value, is above its bound, or not finite."""

    score: float
    map: float


NO_BOUNDS = Bounds(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Inference:
    """maps [N, H, W] float32, scores [N] float32, and the milliseconds of the whole batch by stage.

    `has_map` [N]: which maps there are, None = all; the others are NaN.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    stages: Mapping[str, float] = field(default_factory=dict)
    has_map: NDArray[np.bool_] | None = None


class EngineLost(BackendError):  # noqa: N818 - what happened, not whose error it was
    """The engine has crashed, hung or failed, and is started anew: the next call waits for it.

    Other batches that were under way are lost with it, their tickets void; it may have been one of them that did it.
    """


class Engine(Protocol):
    """A loaded model. Used from one thread; buffers it returns are the caller's own.

    `batch` is the largest number of frames one call takes.
    """

    name: str
    batch: int

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8, 1 <= N <= batch. Raises BackendError with the runtime's own words."""
        ...

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """The outputs of the feature graph alone, by name: for `check`, the gate and calibration, not for the line."""
        ...

    def close(self) -> None:
        """Frees what the runtime holds. Calling it twice is harmless; `infer` afterwards raises BackendError."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Pipelined(Engine, Protocol):
    """An engine that takes the next batch while one computes. `infer` is `collect(submit(frames))`.

    An engine that only stands for others may take one batch at a time, and says so by `at_once`.
    """

    @property
    def remark(self) -> str:
        """What it does otherwise than its recipe asks, and why; empty where there is nothing to say."""
        ...

    @property
    def at_once(self) -> int:
        """Batches that it is worth giving it before the first is collected."""
        ...

    def submit(self, frames: Frames, bounds: Bounds | None = None) -> int:
        """Begin a batch; the ticket for its result. The frames are copied: they may change afterwards.

        With `bounds` the engine may leave out the maps that nobody needs. Raises BackendError, also where as many
        batches as it takes are under way; never EngineLost, which `collect` tells.
        """
        ...

    def collect(self, ticket: int) -> Inference:
        """Wait for a batch. Raises BackendError as `infer`, also for a ticket that is not out; it is then used up."""
        ...


def check_frames(frames: Frames, shape: tuple[int, int, int], batch: int) -> None:
    """Every engine's first step. Raises BackendError unless frames is [1 ... batch, *shape] of uint8.

    Runtimes convert other types silently: a float image in [0, 1] would be scored as an almost black one.
    """
    if frames.dtype != np.uint8 or frames.shape[1:] != shape or not 1 <= len(frames) <= batch:
        raise BackendError(
            f"an engine takes [1 to {batch}, {', '.join(map(str, shape))}] of uint8, "
            f"got {list(frames.shape)} of {frames.dtype}",
            "frames come from mtkd_edge.frames.to_frame",
        )
