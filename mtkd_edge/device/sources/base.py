"""What a source is: something that gives frames, one after the other, until it ends or is closed.

A *live* source (camera, stream) cannot wait: whoever reads it takes each frame at once and decides what to drop. The
others (photos, video files) wait for their reader and lose nothing. This file knows nothing of engines or verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mtkd_edge.frames import Photo


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One frame as it came. `photo` is None where it could not be read, and `problem` then says why.

    `captured` is seconds since the epoch, `monotonic` the same moment on the clock that never steps; `decode_ms` is
    what reading and decoding took before that moment. `seq` counts the frames of one source from 0.
    """

    source: str
    seq: int
    captured: float
    monotonic: float
    photo: Photo | None
    path: Path | None = None
    problem: str = ""
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Times in seconds.

    `open_timeout` and `read_timeout` bound a live source's calls; a lost one is retried for ever, after `retry` and
    twice as long each time up to `retry_most`. A followed folder is looked at every `poll`; a photo in it is complete
    when its size and time have not changed for `settle`.
    """

    open_timeout: float = 5.0
    read_timeout: float = 2.0
    retry: float = 0.25
    retry_most: float = 5.0
    poll: float = 0.1
    settle: float = 0.3


Lost = Callable[[str], None]
"""Called by a source that has lost its camera or folder and will try again, with the reason."""


def untold(reason: str) -> None:
    """The listener that does not listen."""


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
