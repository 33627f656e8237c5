"""What an engine is: two methods and a lifetime.

The engine knows nothing about photos, thresholds or verdicts. It takes frames and gives maps and scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Inference:
    """maps [N, H, W] float32, scores [N] float32, and the milliseconds of the whole batch by stage."""

    maps: NDArray[np.float32]
    scores: NDArray[np.float32]
    stages: Mapping[str, float] = field(default_factory=dict)


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
