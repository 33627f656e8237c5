"""An engine without a network, to test whatever uses engines: deterministic, instant, and right about bright spots.

The map is the brightness of the frame, averaged over cells of 8 x 8 pixels and scaled to 0 ... 1; the score is the
brightest cell. So a black frame scores 0, one with a white square of 8 pixels on the grid scores 1, and the region of
the verdict lies where the square is.
"""

from __future__ import annotations

import time
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.engine import Frames, Inference, check_frames
from mtkd_edge.errors import BackendError

CELL = 8


class FakeEngine:
    """Takes frames of [height, width, 3]; `delay` seconds a frame stand for the work of a real engine."""

    def __init__(
        self, height: int = 64, width: int = 64, batch: int = 8, delay: float = 0.0, name: str = "fake"
    ) -> None:
        if height % CELL or width % CELL:
            raise ValueError(f"height and width must be multiples of {CELL}, got {height} x {width}")
        self.name, self.batch, self.delay = name, batch, delay
        self._shape = height, width, 3
        self._open = True

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8 -> maps [N, height / 8, width / 8], scores [N]. Raises BackendError."""
        began = time.perf_counter()
        maps = self.features(frames)["student_fake"][:, 0]
        time.sleep(self.delay * len(frames))
        return Inference(maps, maps.max((1, 2)), {"infer": (time.perf_counter() - began) * 1e3})

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """`student_fake` is the map, `reference_fake` is zero: [N, 1, height / 8, width / 8]. Raises BackendError."""
        if not self._open:
            raise BackendError(f"the engine {self.name} is closed")
        check_frames(frames, self._shape, self.batch)
        height, width, _ = self._shape
        cells = frames.reshape(len(frames), height // CELL, CELL, width // CELL, CELL * 3)
        student = (cells.mean((2, 4), dtype=np.float64) / 255).astype(np.float32)[:, None]
        return {"student_fake": student, "reference_fake": np.zeros_like(student)}

    def close(self) -> None:
        """`infer` afterwards raises BackendError. Calling it twice is harmless."""
        self._open = False

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
