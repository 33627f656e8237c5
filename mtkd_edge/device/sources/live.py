"""Cameras and streams: read as fast as they come, reconnected for ever, and never a frame that was not sent.

The end of a live stream looks like success (`read()` just says no), so every end is taken as a loss and retried, with
growing pauses that differ from camera to camera. Each connection is opened from its path or address anew: a USB camera
that comes back under another number is found again if it was given by its /dev/v4l/by-id/ path.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import cv2

from mtkd_edge.device.sources.base import Captured, Lost, SourceOptions, untold
from mtkd_edge.device.sources.opencv import to_rgb
from mtkd_edge.errors import DataError


class Live:
    """A camera (`target` is its device path) or a stream (its address, with login: never shown)."""

    live = True

    def __init__(self, name: str, target: str, camera: bool, options: SourceOptions) -> None:
        self.name = name
        self._target = target
        self._camera = camera
        self._options = options
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends `frames`; a read that is blocked ends with its own time limit."""
        self._closed.set()

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        """Frames for ever. `lost` hears why each time the connection is gone or could not be made."""
        seq, failures = 0, 0
        while not self._closed.is_set():
            capture = self._open()
            first = seq
            if capture.isOpened():
                while not self._closed.is_set() and self._grab(capture):
                    yield self._retrieve(capture, seq)
                    seq += 1
            why = "it stopped sending" if seq > first else "it gave no frame" if capture.isOpened() else "no connection"
            # closing a hung stream waits seconds for an answer that never comes: not on this thread
            threading.Thread(target=capture.release, daemon=True, name=f"release {self.name}").start()
            if self._closed.is_set():
                return
            failures = 0 if seq > first else failures + 1
            lost(why)
            self._closed.wait(self._pause(failures))

    def _open(self) -> cv2.VideoCapture:
        if self._camera:
            return cv2.VideoCapture(self._target, cv2.CAP_V4L2)
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._options.open_timeout * 1e3)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._options.read_timeout * 1e3)),
            *(cv2.CAP_PROP_N_THREADS, 1),  # n decoding threads hold n - 1 frames back: 0.28 s with 8 at 25 a second
        ]
        return cv2.VideoCapture(self._target, cv2.CAP_FFMPEG, limits)

    def _grab(self, capture: cv2.VideoCapture) -> bool:
        """Waits for a frame. One that comes when the time is up does not count: the decoder had held it back."""
        began = time.monotonic()
        return capture.grab() and time.monotonic() - began < self._options.read_timeout

    def _retrieve(self, capture: cv2.VideoCapture, seq: int) -> Captured:
        arrived, captured = time.monotonic(), time.time()
        read, picture = capture.retrieve()
        try:
            photo, problem = (to_rgb(picture), "") if read else (None, "the camera's frame could not be decoded")
        except DataError as error:
            photo, problem = None, error.message
        return Captured(self.name, seq, captured, arrived, photo, None, problem, (time.monotonic() - arrived) * 1e3)

    def _pause(self, failures: int) -> float:
        """Doubles with every failure; the random part keeps many cameras behind one switch from knocking together."""
        longest = min(self._options.retry * 2.0 ** min(failures, 16), self._options.retry_most)
        return longest * random.uniform(0.5, 1.0)
