"""The process that has an engine, and the messages to and from it. `process.py` is the other end.

A batch is begun by one message and asked for by another, so the process needs no thread to have two under way: where
its engine takes the next batch while it computes one, it is given it; where not, it computes when it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from mtkd_edge.device.engine import Bounds, Engine, EngineOptions, Frames, Inference, Pipelined
from mtkd_edge.device.workers.shared import Shared
from mtkd_edge.device.workers.wire import Wire
from mtkd_edge.errors import MtkdError

AT_ONCE = 2
"""Batches that may be under way."""
FRAMES, RESULTS = 0, AT_ONCE
"""Slots of the shared memory: one a ticket for frames, then maps, then scores."""


class Order(msgspec.Struct, frozen=True):
    """What the process is to load; `frame` is the shape of a frame."""

    folder: str
    frame: tuple[int, int, int]
    options: EngineOptions


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The engine is there."""

    name: str
    batch: int
    at_once: int


class Warm(msgspec.Struct, frozen=True, tag=True):
    """It has scored black frames, and sets nothing up any more. `took`: seconds for its largest batch."""

    took: float
    remark: str


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Frames of `shape` lie in shared memory, in the slot `ticket`. `bounds`: those of score and map."""

    number: int
    ticket: int
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None


class Ask(msgspec.Struct, frozen=True, tag=True):
    """The answer for a batch is wanted now."""

    number: int


class Scored(msgspec.Struct, frozen=True, tag=True):
    """Maps, then scores, lie in shared memory. `maps`: the shape of all maps; there are only those of `has_map`."""

    number: int
    maps: tuple[int, int, int]
    has_map: list[bool] | None
    stages: dict[str, float]
    remark: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It refused. `kind` is the name of the error's class."""

    kind: str
    message: str
    hint: str


Answer = Loaded | Warm | Scored | Failed
answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_orders = msgspec.msgpack.Decoder(Order)
_asks: msgspec.msgpack.Decoder[Begin | Ask] = msgspec.msgpack.Decoder(Begin | Ask)
encode = msgspec.msgpack.encode


def run(wire: Wire, shared: Shared, order: bytes) -> None:
    """The process: load, then score until the wire is closed."""
    from mtkd_edge.device import engines

    wanted = _orders.decode(order)

    def load() -> Engine:
        return engines.load(Path(wanted.folder), wanted.options)

    serve(wire, shared, load, wanted.frame)


def serve(wire: Wire, shared: Shared, load: Callable[[], Engine], frame: tuple[int, int, int]) -> None:
    """Load an engine and answer for it."""
    try:
        engine = load()
        at_once = engine.at_once if isinstance(engine, Pipelined) else 1
        wire.send(encode(Loaded(engine.name, engine.batch, min(at_once, AT_ONCE))))
        wire.send(encode(Warm(_warm_up(engine, frame), _remark(engine))))
        begun: dict[int, Callable[[], Inference]] = {}
        while (data := wire.receive(None)) is not None:
            message = _asks.decode(data)
            if isinstance(message, Begin):
                frames = shared.read(FRAMES + message.ticket, message.number, message.shape, "|u1")
                begun[message.number] = _give(engine, frames, message.bounds)
            else:
                found = begun.pop(message.number)()
                wire.send(encode(_left(shared, message.number, found, _remark(engine))))
    except MtkdError as error:
        wire.send(encode(Failed(type(error).__name__, error.message, error.hint)))
        while wire.receive(None) is not None:  # whoever asked reads this, and ends the process
            continue


def _warm_up(engine: Engine, frame: tuple[int, int, int]) -> float:
    """What the first calls set up is set up before a frame waits for it -> seconds for the largest batch."""
    for count in (1, engine.batch):
        engine.infer(np.zeros((count, *frame), np.uint8))
    began = time.monotonic()
    engine.infer(np.zeros((engine.batch, *frame), np.uint8))
    return time.monotonic() - began


def _remark(engine: Engine) -> str:
    return engine.remark if isinstance(engine, Pipelined) else ""


def _give(engine: Engine, frames: Frames, bounds: tuple[float, float] | None) -> Callable[[], Inference]:
    """How the answer for these frames is had."""
    if not isinstance(engine, Pipelined):
        return partial(engine.infer, frames)
    return partial(engine.collect, engine.submit(frames, None if bounds is None else Bounds(*bounds)))


def _left(shared: Shared, number: int, found: Inference, remark: str) -> Scored:
    """Leave the maps that there are, and the scores, in shared memory."""
    maps = found.maps if found.has_map is None else found.maps[found.has_map]
    if len(maps):
        shared.write(RESULTS, number, maps.astype(np.float32, copy=False))
    shared.write(RESULTS + 1, number, found.scores.astype(np.float32, copy=False))
    count, height, width = found.maps.shape
    has_map = None if found.has_map is None else [bool(one) for one in found.has_map]
    return Scored(number, (count, height, width), has_map, dict(found.stages), remark)
