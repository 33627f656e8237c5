"""Processes that misbehave, for the tests of whoever supervises them: decoders and engines that hang or crash.

`run` of a source gives grey 64 x 64 frames whose brightness counts up, and does what its target's name says.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import line
import msgspec
import numpy as np

from mtkd_edge.device.engine import Bounds, Frames, Inference
from mtkd_edge.device.engines import serving
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.sources.base import Captured
from mtkd_edge.device.sources.messages import End, Frame, encode, plan
from mtkd_edge.device.sources.worker import _Sender
from mtkd_edge.device.workers.shared import Shared
from mtkd_edge.device.workers.wire import Wire
from mtkd_edge.errors import BackendError

LIBC = ctypes.PyDLL(None)
"""Called with the interpreter's lock held, as a bad C extension would: no Python thread runs meanwhile."""


def hang() -> None:
    LIBC.sleep(1000)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def source(wire: Wire, shared: Shared, order: bytes) -> None:
    """The target says what happens: "hang-9" after nine frames, "crash-9", "torn-9" a slot overwritten too early."""
    wanted = plan(order)
    what, _, after = wanted.target.partition("-")
    sender = _Sender(wire, shared, wanted)
    skip = sender.begin()
    marker = Path(wanted.name)

    def frames() -> Iterator[Captured]:
        for seq in range(skip, 100_000 if sender._live else 200):
            if sender._live:
                time.sleep(0.02)
            first = what.endswith("1") and marker.exists()  # misbehaves only once
            if seq == int(after) and not first:
                marker.touch()
                {"hang": hang, "crash": crash, "torn": lambda: None}[what.rstrip("1")]()
            photo = np.full((64, 64, 3), seq % 200, np.uint8)
            yield Captured(wanted.name, seq, time.time(), time.monotonic(), photo)
            if what == "torn" and seq == int(after):
                shared.write(3, 77, photo)
                times = time.time(), time.monotonic(), 0.0, 1.0
                wire.send(encode(Frame(*times, 0, "", 3, 78, (64, 64, 3), "|u1")))

    sender.send(frames())
    wire.send(encode(End()))
    wire.receive(None)


class BadEngine(FakeEngine):
    """A frame of brightness 77 hangs it, 78 crashes it, 79 makes it refuse, 80 takes one second, 81 two."""

    def infer(self, frames: Frames) -> Inference:
        shades = set(frames[:, 0, 0, 0].tolist())
        if 77 in shades:
            hang()
        if 78 in shades:
            crash()
        if 79 in shades:
            raise BackendError("CUDA error 700")
        time.sleep(1.0 * (80 in shades) + 2.0 * (81 in shades))
        return super().infer(frames)


def engine(wire: Wire, shared: Shared, order: bytes) -> None:
    _serve(wire, shared, order, BadEngine)


class Overlapping(BadEngine):
    """Takes two batches, as one on a GPU: what a frame does to it, it does when its batch is given or collected.

    It leaves out maps below the bounds. A frame of brightness 82 crashes it as soon as its batch is given.
    """

    at_once, remark = 2, ""

    def __init__(self, *shape: int, batch: int) -> None:
        super().__init__(*shape, batch=batch)
        self._given: dict[int, tuple[Frames, Bounds | None]] = {}
        self._tickets = itertools.count()

    def submit(self, frames: Frames, bounds: Bounds | None = None) -> int:
        assert len(self._given) < 2, "two at once"
        if 82 in frames[:, 0, 0, 0]:
            crash()
        ticket = next(self._tickets)
        self._given[ticket] = frames.copy(), bounds
        return ticket

    def collect(self, ticket: int) -> Inference:
        frames, bounds = self._given.pop(ticket)
        found = super().infer(frames)
        self.remark = f"{len(self._given)} beside"
        if bounds is None:
            return found
        wanted = (found.scores > bounds.score) | (found.maps.max((1, 2)) > bounds.map)
        maps = np.where(wanted[:, None, None], found.maps, np.float32(np.nan))
        return Inference(maps, found.scores, found.stages, wanted)


def overlapping(wire: Wire, shared: Shared, order: bytes) -> None:
    _serve(wire, shared, order, Overlapping)


class Slow(FakeEngine):
    """Takes 0.3 s for anything."""

    def infer(self, frames: Frames) -> Inference:
        time.sleep(0.3)
        return super().infer(frames)


def slow(wire: Wire, shared: Shared, order: bytes) -> None:
    _serve(wire, shared, order, Slow)


def _serve(wire: Wire, shared: Shared, order: bytes, kind: type[FakeEngine]) -> None:
    frame = msgspec.msgpack.decode(order, type=serving.Order).frame
    assert frame == (line.SPEC.height, line.SPEC.width, 3)
    serving.serve(wire, shared, lambda: kind(*frame[:2], batch=4), frame)


def broken(wire: Wire, shared: Shared, order: bytes) -> None:
    """An engine that cannot be loaded."""
    raise ZeroDivisionError("no such luck")
