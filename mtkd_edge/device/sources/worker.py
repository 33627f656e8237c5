"""The process of one camera, stream or video: nothing that its decoder or driver does can reach another.

A camera's frames that find no free slot are counted and dropped; those of a video wait for one.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mtkd_edge.device.sources.base import Captured, Loss
from mtkd_edge.device.sources.messages import End, Frame, Gone, Plan, Ready, Refused, Soon, encode, plan
from mtkd_edge.device.workers.shared import Shared
from mtkd_edge.device.workers.wire import Wire
from mtkd_edge.errors import SourceError

SLOTS = 4
MEMORY = 2 << 30
"""Bytes that a decoder may ask for beyond what the process starts with: a file must not take the machine's memory."""


def run(wire: Wire, shared: Shared, order: bytes) -> None:
    """Read the source that `order` names until the wire is closed."""
    wanted = plan(order)
    # before OpenCV looks: it knows whole seconds only
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(max(1, int(wanted.options.read_timeout))))
    from mtkd_edge.device.sources.live import Live
    from mtkd_edge.device.sources.pipeline import Pipeline
    from mtkd_edge.device.sources.video import Video

    if wanted.kind != "pipeline":  # that one is the user's own, and a GPU's driver reserves more than any limit
        bound_memory()
    sender = _Sender(wire, shared, wanted)
    try:
        if wanted.kind == "video":
            video = Video(wanted.name, Path(wanted.target))
            busy = partial(sender.soon, wanted.options.decode_timeout)
            sender.send(video.frames(skip=sender.begin(), busy=busy))
        else:
            live = (
                Pipeline(wanted.name, wanted.target, wanted.options)
                if wanted.kind == "pipeline"
                else Live(wanted.name, wanted.target, wanted.kind == "camera", wanted.options)
            )
            sender.begin()
            sender.send(live.frames(sender.gone, sender.soon))
        wire.send(encode(End()))
    except SourceError as error:
        wire.send(encode(Refused(error.message, error.hint)))
    wire.receive(None)  # what lies in the slots is read before the end


class _Sender:
    """Puts frames into free slots and says so. Raises EOFError once the parent has closed the wire."""

    def __init__(self, wire: Wire, shared: Shared, wanted: Plan) -> None:
        self._wire, self._shared = wire, shared
        self._live = wanted.kind != "video"
        self._within = wanted.options.read_timeout if self._live else wanted.options.decode_timeout
        self._free = list(range(SLOTS))
        self._stamp = self._missed = 0

    def begin(self) -> int:
        """Say that all is ready -> the number of frames to skip."""
        self._wire.send(encode(Ready()))
        answer = self._wire.receive(None)
        assert answer is not None, "it waits for ever"
        return int(answer)

    def soon(self, within: float) -> None:
        self._wire.send(encode(Soon(within)))

    def gone(self, reason: str, loss: Loss = Loss.CONNECTION, /) -> None:
        self._wire.send(encode(Gone(reason, loss)))

    def send(self, frames: Iterator[Captured]) -> None:
        for captured in frames:
            while (back := self._wire.receive(0.0 if self._live or self._free else None)) is not None:
                self._free.append(int(back))
            if not self._free:
                self._missed += 1
                continue
            self._send(captured)
            self._missed = 0

    def _send(self, captured: Captured) -> None:
        times = captured.captured, captured.monotonic, captured.decode_ms, self._within
        photo = captured.photo
        if photo is None:
            self._wire.send(encode(Frame(*times, self._missed, captured.problem)))
            return
        slot = self._free.pop(0)
        self._stamp += 1
        self._shared.write(slot, self._stamp, photo)
        shape = (photo.shape[0], photo.shape[1], photo.shape[2])
        self._wire.send(encode(Frame(*times, self._missed, "", slot, self._stamp, shape, photo.dtype.str)))


def bound_memory() -> None:
    """No more than MEMORY from here on: an allocation beyond it fails, in this process alone."""
    # data, not addresses: a thread reserves far more of these than it ever uses
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
