"""What a decoder process is asked and what it answers, one message each; and the memory in which pixels pass.

The memory belongs to the asker, holds one photo, and is used again for the next: fresh pages are what costs time (four
fifths more for a photo of one megapixel, measured). Its size is sealed, so a decoder gone bad cannot take it away from
under whoever reads it; what it holds is copied out, so nothing changes that is being looked at.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import cast

import msgspec
import numpy as np

from mtkd_edge import MAX_PIXELS
from mtkd_edge.frames import Photo

LIMIT = 10.0
"""Seconds of computing for one photo. The largest that is taken, 100 million pixels, takes a few."""
MEMORY = 2 << 30
"""Bytes that a decoder may have beyond those it starts with: file, pixels, and a rotated copy of the largest photo."""
SIZE = 6 * MAX_PIXELS
"""Bytes of the memory for pixels. Only what a photo has touched is really there."""
KEPT = 64 << 20
"""Bytes of it that stay; what a larger photo has touched is given back."""
WORDS = 2000
"""Bytes of what a decoder has to say about a file."""


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Which file: its path and its folder, both absolute; its name in messages; b"" for no folder to stay in."""

    path: bytes
    within: bytes
    name: str


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """Why there is no photo, or the size of the one in the memory and its bytes a channel (1 or 2)."""

    problem: str = ""
    height: int = 0
    width: int = 0
    depth: int = 1


questions = msgspec.msgpack.Decoder(Question)
answers = msgspec.msgpack.Decoder(Answer)


class Memory:
    """Pixels of one photo. `handle` is the asker's, or one that was inherited."""

    def __init__(self, handle: int | None = None) -> None:
        self.handle = os.memfd_create("photo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, SIZE)
            fcntl.fcntl(self.handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._mapped = mmap.mmap(self.handle, SIZE)

    def view(self, answer: Answer) -> Photo | None:
        """The pixels [height, width, 3]; None for a size that no photo has."""
        pixels = answer.height * answer.width
        if min(answer.height, answer.width) < 1 or pixels > MAX_PIXELS or answer.depth not in (1, 2):
            return None
        found = np.frombuffer(self._mapped, np.uint8 if answer.depth == 1 else np.uint16, 3 * pixels)
        return cast(Photo, found.reshape(answer.height, answer.width, 3))

    def take(self, answer: Answer) -> Photo | None:
        """A copy of the pixels, which makes room for the next photo; None as in `view`."""
        pixels = self.view(answer)
        if pixels is None:
            return None
        copy = pixels.copy()
        if copy.nbytes > KEPT:
            self._mapped.madvise(mmap.MADV_REMOVE)
        return copy

    def close(self) -> None:
        """Give it back."""
        self._mapped.close()
        os.close(self.handle)
