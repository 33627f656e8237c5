"""Whatever GStreamer reads, as a source: a pipeline as on a command line, and its pictures over a pipe.

    gst:nvarguscamerasrc ! nvvidconv             a CSI camera of a Jetson
    gst:aravissrc camera-name=NAME ! bayer2rgb   a GenICam camera (GigE Vision, USB3 Vision), through Aravis

OpenCV's wheels are built without GStreamer and its Python bindings are no wheel, so gst-launch-1.0 runs the pipeline.
The pictures come as PNM: each says its size, so a camera that changes its format is followed, and one that is cut off
is noticed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import TracebackType

import numpy as np

from mtkd_edge import MAX_PIXELS
from mtkd_edge.device.sources.address import redact, redact_words
from mtkd_edge.device.sources.base import Captured, Lost, Promise, SourceOptions, unpromised, untold
from mtkd_edge.device.workers.main import die_with
from mtkd_edge.errors import SourceError
from mtkd_edge.frames import Photo

PREFIX = "gst:"
LAUNCH = "gst-launch-1.0"
PACKAGES = "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-bad"
TO_PNM = "! videoconvert ! video/x-raw,format=RGB ! pnmenc ! fdsink sync=false"
HEAD = re.compile(rb"P6\n(\d+) (\d+)\n255\n")
HEAD_MOST = 64
"""Bytes that the head of a picture may take."""
CHUNK = 1 << 16
KEPT = 4000
"""Characters of what GStreamer says that are remembered, to say what it ended with."""
COMPLAINT = re.compile(r"^(?:ERROR|WARNING): (?:from element \S*/\w+:)?(.*)$", re.MULTILINE)
GRACE = 1.0
WRONG = "erroneous pipeline: "


class Pipeline:
    """A live source. `text` is what stands after `gst:`. Raises SourceError as `split` does."""

    live = True

    def __init__(self, name: str, text: str, options: SourceOptions) -> None:
        self.name = name
        self._words = split(text)
        self._options = options
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends `frames`; a read that is blocked ends with its own time limit."""
        self._closed.set()

    def frames(self, lost: Lost = untold, promise: Promise = unpromised) -> Iterator[Captured]:
        """Frames for ever. `lost` hears why each time the pipeline has ended or gave nothing.

        Raises SourceError where GStreamer does not understand the pipeline.
        """
        seq, failures = 0, 0
        while not self._closed.is_set():
            first = seq
            promise(self._options.open_timeout + self._options.read_timeout)
            try:
                for captured in self._run(seq):
                    yield captured
                    seq += 1
            except _OverError as over:
                why = str(over)
            if self._closed.is_set():
                return
            if WRONG in why and not seq:
                words = why.partition(WRONG)[2]
                shown = redact_words(self._words)
                hint = PACKAGES if '"pnmenc"' in words else f"{LAUNCH} {shown} ! fakesink"
                raise SourceError(f"GStreamer does not understand the pipeline of {self.name}: {words}", hint)
            failures = 0 if seq > first else failures + 1
            lost(why)
            pause = self._options.pause(failures)
            promise(pause)
            self._closed.wait(pause)

    def _run(self, seq: int) -> Iterator[Captured]:
        """The frames of one start. Raises _OverError."""
        with _Launched(self._words) as launched:
            within = self._options.open_timeout
            while not self._closed.is_set():
                arrived, photo = launched.picture(within)
                took = (time.monotonic() - arrived) * 1e3
                yield Captured(self.name, seq, time.time() - took / 1e3, arrived, photo, decode_ms=took)
                seq += 1
                within = self._options.read_timeout


def split(text: str) -> list[str]:
    """The words of a pipeline, as a shell would give them to gst-launch-1.0.

    Raises SourceError where it is no command line, and where there is no gst-launch-1.0.
    """
    if shutil.which(LAUNCH) is None:
        raise SourceError(f"{LAUNCH}, which reads {PREFIX} sources, is not on this machine", PACKAGES)
    try:
        words = shlex.split(text)
    except ValueError as error:
        shown = redact(text, pipeline=True)
        raise SourceError(f"{PREFIX}{shown} is no command line: {error}", "close every quote") from error
    if not words:
        raise SourceError(f"a pipeline is missing after {PREFIX}", f"{PREFIX}videotestsrc is-live=true")
    return words


class _OverError(Exception):
    """The pipeline has ended, or gave nothing; the words are for people and hold no secret."""


class _Launched:
    """A process of GStreamer. It ends with this object, and with the thread that has made it."""

    def __init__(self, words: list[str]) -> None:
        self._pictures, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [LAUNCH, "-q", *words, *TO_PNM.split(), f"fd={theirs}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # some plugins write there, so pictures have a descriptor of their own
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                preexec_fn=partial(die_with, os.getpid()),  # safe: no other thread runs in a source's process
            )
        except OSError as error:
            os.close(self._pictures)
            raise _OverError(f"{LAUNCH} cannot be started: {error.strerror}") from error
        finally:
            os.close(theirs)
        assert self._process.stdout is not None, "it was made with a pipe"
        self._words = self._process.stdout.fileno()
        self._said = ""
        self._ahead = b""

    def __enter__(self) -> _Launched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pictures)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in a driver; it goes when that returns
            self._process.wait(GRACE)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def picture(self, within: float) -> tuple[float, Photo]:
        """The next one, and when it came, in monotonic seconds. Raises _OverError."""
        deadline = time.monotonic() + within
        while not (head := HEAD.match(self._ahead)):
            if len(self._ahead) > HEAD_MOST or not b"P6\n".startswith(self._ahead[:3]):
                raise _OverError("what came is no picture")
            self._wait(deadline)
            chunk = os.read(self._pictures, CHUNK)
            self._ahead += chunk or self._end()
        arrived = time.monotonic()
        width, height = int(head[1]), int(head[2])
        if not 0 < width * height <= MAX_PIXELS:
            raise _OverError(f"a picture of {width} x {height} came, at most {MAX_PIXELS:,} pixels are read")
        return arrived, self._pixels(height, width, self._ahead[head.end() :], deadline)

    def _pixels(self, height: int, width: int, begun: bytes, deadline: float) -> Photo:
        photo = np.empty((height, width, 3), np.uint8)
        room = photo.data.cast("B")
        filled = min(len(begun), len(room))
        room[:filled] = begun[:filled]
        self._ahead = begun[filled:]
        while filled < len(room):
            self._wait(deadline)
            filled += os.readv(self._pictures, [room[filled:]]) or len(self._end())
        return photo

    def _wait(self, deadline: float) -> None:
        """Until there is something of a picture, hearing what is said meanwhile. Raises _OverError at the deadline."""
        listen = [self._pictures, self._words]
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select(listen, [], [], left)[0]
            if self._words in ready and not self._hear():
                listen.remove(self._words)
            if self._pictures in ready:
                return
        raise _OverError("it stopped sending")

    def _hear(self) -> bool:
        words = os.read(self._words, CHUNK)
        self._said = (self._said + words.decode(errors="replace"))[-KEPT:]
        return bool(words)

    def _end(self) -> bytes:
        """Raises _OverError with the first thing that GStreamer complained of."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        while select.select([self._words], [], [], 0)[0] and self._hear():
            continue
        found = COMPLAINT.search(self._said)
        raise _OverError(redact(found[1], pipeline=True).rstrip(".") if found else "the pipeline has ended")
