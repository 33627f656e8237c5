"""A video file: every frame exactly once, and a word about those that cannot be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from mtkd_edge.device.sources.base import Captured, Lost, untold
from mtkd_edge.device.sources.opencv import to_rgb
from mtkd_edge.errors import DataError, SourceError

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
"""Files with these endings are videos, whatever their case."""
BUSY = 0.1
"""Seconds between two signs of life while frames are skipped: a slow frame has one for itself."""


class Video:
    """The frames of one file. Raises SourceError at once where the file cannot be opened."""

    live = False

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._closed = threading.Event()
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{path} cannot be opened: damaged, unfinished, or in an unknown codec", f"ffprobe {path}"
            )

    def close(self) -> None:
        """Ends `frames` after the frame in hand."""
        self._closed.set()

    def frames(self, lost: Lost = untold, skip: int = 0, busy: Callable[[], None] = lambda: None) -> Iterator[Captured]:
        """Every frame but the first `skip`; where the file promised more than could be read, a last one says so.

        Frames to skip are decoded and thrown away: jumping by number lands elsewhere in many containers. `busy` is
        called every BUSY seconds meanwhile.
        """
        seq = 0
        promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        try:
            told = time.monotonic()
            while seq < skip and not self._closed.is_set() and self._capture.grab():
                seq += 1
                if time.monotonic() - told >= BUSY:
                    busy()
                    told = time.monotonic()
            while not self._closed.is_set():
                began = time.perf_counter()
                read, picture = self._capture.read()
                if not read:
                    break
                yield self._captured(seq, picture, began)
                seq += 1
            # some containers only estimate their number of frames, from the duration: one may be missing
            if promised - seq > max(1, promised // 100) and seq >= skip and not self._closed.is_set():
                problem = f"{self._path}: {seq} of {promised} frames can be read, the rest is damaged or missing"
                yield Captured(self.name, seq, time.time(), time.monotonic(), None, self._path, problem)
        finally:
            self._capture.release()

    def _captured(self, seq: int, picture: cv2.typing.MatLike, began: float) -> Captured:
        try:
            photo, problem = to_rgb(picture), ""
        except DataError as error:
            photo, problem = None, error.message
        took = (time.perf_counter() - began) * 1e3
        return Captured(self.name, seq, time.time(), time.monotonic(), photo, self._path, problem, took)
