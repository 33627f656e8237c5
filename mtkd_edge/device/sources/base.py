"""What a source is: something that gives frames, one after the other, until it ends or is closed.

A *live* source (camera, stream) cannot wait: whoever reads it takes each frame at once and decides what to drop. The
others (photos, video files) wait for their reader and lose nothing. This file knows nothing of engines or verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from mtkd_edge.frames import Photo


class Mark(msgspec.Struct, frozen=True):
    """What to remember of a file once its frame has its verdict: the file as it was, and what of it is done.

    `frames` counts the frames of a video up to this one (of a photo: 1), `seq` the source's. A file of another `size`
    (bytes) or time of change (`changed`, nanoseconds since the epoch) is another file.
    """

    item: str
    size: int
    changed: int
    frames: int
    seq: int


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One frame as it came. `photo` is None where it could not be read, and `problem` then says why.

    `captured` is seconds since the epoch, `monotonic` the same moment on the clock that never steps; `decode_ms` is
    what reading and decoding took before that moment. `seq` counts the frames of one source from 0; of a live source
    `missed` frames came just before this one and were overwritten by it. `mark` is set for frames of files.
    """

    source: str
    seq: int
    captured: float
    monotonic: float
    photo: Photo | None
    path: Path | None = None
    problem: str = ""
    decode_ms: float = 0.0
    missed: int = 0
    mark: Mark | None = None


class SourceOptions(msgspec.Struct, frozen=True):
    """Times in seconds.

    `open_timeout` and `read_timeout` bound a live source's calls; a lost one is retried for ever, after `retry` and
    twice as long each time up to `retry_most`; one that refuses our login only every `login_retry`, lest it locks the
    account. A video's decoder gets `decode_timeout` for a frame. A followed folder is looked at every `poll`; a photo
    in it is complete when its size and time have not changed for `settle`.
    """

    open_timeout: float = 5.0
    read_timeout: float = 1.1
    retry: float = 0.25
    retry_most: float = 1.0
    login_retry: float = 30.0
    decode_timeout: float = 10.0
    poll: float = 0.1
    settle: float = 0.3

    def pause(self, failures: int) -> float:
        """Seconds before the next try. The random part keeps many cameras behind one switch from knocking together."""
        return min(self.retry * 2.0 ** min(failures, 16), self.retry_most) * random.uniform(0.5, 1.0)


class Loss(str, Enum):
    """What is lost: the connection, the right to have one, or the process that held it (which is started anew).

    OVER: nothing any more, although no frame says so: a folder that was away is there again, with nothing new in it.
    """

    CONNECTION = "connection"
    LOGIN = "login"
    WORKER = "worker"
    OVER = "over"


class Lost(Protocol):
    """Called by a source that has lost its camera, folder or process and will try again, with the reason."""

    def __call__(self, reason: str, loss: Loss = Loss.CONNECTION, /) -> None:
        """Hear of it."""
        ...


Promise = Callable[[float], None]
"""Called by a source with the seconds within which it will be heard of again, or else it hangs."""


def untold(reason: str, loss: Loss = Loss.CONNECTION, /) -> None:
    """The listener that does not listen."""


def unpromised(seconds: float) -> None:
    """The listener that does not wait."""


def decoders_replaced(source: object) -> dict[str, int]:
    """How many decoders of a source died, by what they died of, where it counts them (`replaced`)."""
    return dict(getattr(source, "replaced", {}))


class Source(Protocol):
    """A name that is safe to show (no password), whether it is live, its frames, and an end.

    `frames` is asked for once, and read by one thread. `close` may come from another thread, more than once; it makes
    `frames` end soon: within one read for files, within `read_timeout` for cameras.
    """

    name: str
    live: bool

    def frames(self, lost: Lost = untold) -> Iterator[Captured]:
        """Every frame in order. Raises SourceError where there is nothing to hope for."""
        ...

    def close(self) -> None:
        """No further frame is captured."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A source of files, which can leave out what is done."""

    def resume(self, marks: Sequence[Mark], seq: int, gone: Callable[[Iterable[str]], None], /) -> None:
        """Before `frames`: what is done, the `seq` of the next frame, and who hears of files that are there no more."""
        ...
