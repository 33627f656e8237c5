"""Cameras and streams: read as fast as they come, reconnected for ever, and never a frame that was not sent.

The end of a live stream looks like success (`read()` just says no), so every end is taken as a loss and retried, with
growing pauses that differ from camera to camera. A stream that was lost is asked whether it is there before FFmpeg
opens it again: FFmpeg would wait for a dead host for as long as the camera needs to come back. Each connection is
opened from its path or address anew: a USB camera that comes back under another number is found again if it was given
by its /dev/v4l/by-id/ path.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import cv2

from mtkd_edge.device.sources.base import Captured, Loss, Lost, Promise, SourceOptions, unpromised, untold
from mtkd_edge.device.sources.opencv import to_rgb
from mtkd_edge.device.sources.refusal import Refusal, ask, reach
from mtkd_edge.errors import DataError

ASKING = 1.0
"""Seconds that a stream gets to say that it is there."""


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

    def frames(self, lost: Lost = untold, promise: Promise = unpromised) -> Iterator[Captured]:
        """Frames for ever. `lost` hears why each time the connection is gone or could not be made."""
        seq, failures = 0, 0
        known, refusal = True, None
        while not self._closed.is_set():
            first = seq
            if not known:
                refusal = self._refusal(promise, whole=refusal is not None and refusal.login)
            why = "" if refusal is None else refusal.reason
            if refusal is None:
                promise(self._options.open_timeout + self._options.read_timeout)
                capture = self._open()
                if opened := capture.isOpened():
                    while not self._closed.is_set() and self._grab(capture):
                        yield self._retrieve(capture, seq)
                        seq += 1
                # closing a hung stream waits seconds for an answer that never comes: not on this thread
                threading.Thread(target=capture.release, daemon=True, name=f"release {self.name}").start()
                if self._closed.is_set():
                    return
                refusal = None if seq > first else self._refusal(promise, whole=True)
                why = "it gave no frame" if opened else refusal.reason if refusal else "no connection"
            known, failures = False, 0 if seq > first else failures + 1
            self._wait(lost, promise, "it stopped sending" if seq > first else why, refusal, failures)

    def _refusal(self, promise: Promise, whole: bool) -> Refusal | None:
        """`whole`: whether it gives us the stream, too, and not only whether it is there."""
        if self._camera:
            return None
        timeout = min(ASKING, self._options.open_timeout)
        promise(4 * timeout)  # two requests, each of a connection and an answer
        return (ask if whole else reach)(self._target, timeout)

    def _wait(self, lost: Lost, promise: Promise, why: str, refusal: Refusal | None, failures: int) -> None:
        login = refusal is not None and refusal.login
        lost(why, Loss.LOGIN if login else Loss.CONNECTION)
        pause = self._options.login_retry * random.uniform(0.8, 1.2) if login else self._options.pause(failures)
        promise(pause)
        self._closed.wait(pause)

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
