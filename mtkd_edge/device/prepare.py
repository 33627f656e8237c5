"""From a captured photo to the engine's frame, on the thread of its source, while the engine is at work."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mtkd_edge.device.sources.base import Captured
from mtkd_edge.errors import DataError
from mtkd_edge.frames import Frame, FrameSpec, to_frame


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A captured frame in the engine's size; `frame` is None where there is a `problem`."""

    captured: Captured
    frame: Frame | None
    problem: str
    resize_ms: float


def prepare(captured: Captured, spec: FrameSpec) -> Prepared:
    """Photo -> frame. A photo that cannot be one becomes a problem, not an error: the next may be good."""
    if captured.photo is None:
        return Prepared(captured, None, captured.problem or "the source gave no photo", 0.0)
    began = time.perf_counter()
    try:
        return Prepared(captured, to_frame(captured.photo, spec), "", (time.perf_counter() - began) * 1e3)
    except DataError as error:
        return Prepared(captured, None, error.message, 0.0)
