"""Parts of a production line for the tests of the runtime: photos whose score is known, a camera in memory, a watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mtkd_edge.bundle import Manifest
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Event
from mtkd_edge.device.sinks import Sink
from mtkd_edge.device.sources.base import Captured, Lost, Source, untold
from mtkd_edge.device.summary import Summary
from mtkd_edge.device.watch import WatchOptions, watch
from mtkd_edge.frames import FrameSpec, Photo
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import Verdict

SPEC = FrameSpec(64, 64)
THRESHOLD = Threshold(0.5, 0.5, "manual", 0.01, 0)
"""For FakeEngine, whose score is the brightness of the brightest cell of 8 x 8 pixels."""
MANIFEST = Manifest(
    name="line",
    method="map",
    created="2026-01-01T00:00:00Z",
    version="0",
    seed=0,
    frame=SPEC,
    score=ScoreSpec((Level("fake", "squared", 1, 8, 8, 1.0),), 8, 8, 0.0, 0.01),
    teachers=(),
    student="fake",
    photos=0,
    held_out=0,
    files={},
)


def part(brightness: int = 20, defect: bool = False, size: int = 64) -> np.ndarray:
    """A grey photo; a defect is a white square in the third row and sixth column of eight."""
    photo = np.full((size, size, 3), brightness, np.uint8)
    if defect:
        cell = size // 8
        photo[2 * cell : 3 * cell, 5 * cell : 6 * cell] = 255
    return photo


def write_photo(path: Path, photo: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), photo[:, :, ::-1])
    return path


def write_video(path: Path, photos: Sequence[np.ndarray], codec: str = "mp4v") -> Path:
    height, width = photos[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened()
    for photo in photos:
        writer.write(np.ascontiguousarray(photo[:, :, ::-1]))
    writer.release()
    return path


class Memory:
    """A source of given photos; live ones come every `period` seconds whether anybody takes them or not."""

    def __init__(self, name: str, photos: Sequence[Photo | None], live: bool = False, period: float = 0.0) -> None:
        self.name, self.live = name, live
        self._photos, self._period = photos, period
        self._closed = threading.Event()

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        for seq, photo in enumerate(self._photos):
            if self._closed.wait(self._period) if self._period else self._closed.is_set():
                return
            problem = "" if photo is not None else "unreadable"
            yield Captured(self.name, seq, time.time(), time.monotonic(), photo, None, problem)

    def close(self) -> None:
        self._closed.set()


def run(
    sources: Sequence[Source],
    engine: Engine | None = None,
    stop: threading.Event | None = None,
    sinks: Sequence[Sink] = (),
    events: list[Event] | None = None,
    manifest: Manifest = MANIFEST,
    **options: float,
) -> tuple[list[Verdict], Summary]:
    """A watch with the fake engine, and every verdict it gave."""
    verdicts: list[Verdict] = []
    summary = watch(
        engine or FakeEngine(),
        manifest,
        THRESHOLD,
        sources,
        [lambda verdict, photo, values: verdicts.append(verdict), *sinks],
        stop or threading.Event(),
        WatchOptions(tell=(events if events is not None else []).append, **options),
    )
    return verdicts, summary
