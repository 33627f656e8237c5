"""What a source's process is told, and what it says."""

from __future__ import annotations

from typing import Literal

import msgspec

from mtkd_edge.device.sources.base import Loss, SourceOptions


class Plan(msgspec.Struct, frozen=True):
    """What to read: a `camera` (device path), a `stream` (address and login), a `pipeline` or a `video` (path)."""

    kind: Literal["camera", "stream", "pipeline", "video"]
    target: str
    name: str
    options: SourceOptions


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process has started; a video has been opened. It now waits for the number of frames to skip."""


class Soon(msgspec.Struct, frozen=True, tag=True):
    """Something that may take `within` seconds begins."""

    within: float


class Frame(msgspec.Struct, frozen=True, tag=True):
    """A frame lies in a slot, or could not be read: `slot` is then -1. The next word comes `within` seconds."""

    captured: float
    monotonic: float
    decode_ms: float
    within: float
    missed: int = 0
    problem: str = ""
    slot: int = -1
    stamp: int = 0
    shape: tuple[int, int, int] = (0, 0, 0)
    kind: str = ""


class Gone(msgspec.Struct, frozen=True, tag=True):
    """The camera is lost and will be tried again."""

    reason: str
    loss: Loss


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There is nothing to hope for."""

    message: str
    hint: str


class End(msgspec.Struct, frozen=True, tag=True):
    """All frames have been given."""


Word = Ready | Soon | Frame | Gone | Refused | End
_words: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)
_plans = msgspec.msgpack.Decoder(Plan)
encode = msgspec.msgpack.encode


def word(data: bytes) -> Word:
    """What the process has said. Raises msgspec.DecodeError for anything else."""
    return _words.decode(data)


def plan(data: bytes) -> Plan:
    """What it is to read."""
    return _plans.decode(data)
