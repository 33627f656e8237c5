"""Pixels between two processes: slots in anonymous memory, each stamped in front and behind.

A slot is written only while its reader has given it back, so nothing is torn by design; the stamps are for when that
design is broken. Writer and reader go from front to back: a reader that was overtaken finds another stamp behind, one
that came too late finds it in front, and neither gets pixels. Slots lie 4 GiB apart in a sparse file without a name:
only what was written takes memory, a frame may be of any size, and nothing is left behind by `kill -9`.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

APART = 1 << 32
STAMP = struct.Struct("<Q")


class Torn(Exception):  # noqa: N818 - what happened, not whose error it was
    """A slot does not hold, whole, what was announced."""


class Shared:
    """The memory behind a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> Shared:
        """New and empty. The descriptor is handed to a child by `pass_fds` alone."""
        return cls(os.memfd_create("frames", os.MFD_CLOEXEC))

    def write(self, slot: int, stamp: int, data: NDArray[Any]) -> None:
        """Copy an array into a slot."""
        mark = STAMP.pack(stamp)
        parts: list[Any] = [memoryview(mark), _bytes(np.ascontiguousarray(data)), memoryview(mark)]
        place = slot * APART
        while parts:
            written = os.pwritev(self.descriptor, parts, place)
            place += written
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    def read(self, slot: int, stamp: int, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
        """A copy of what was written as `stamp`. Raises Torn where that is not, whole, what is there."""
        data = np.empty(shape, kind)
        front, behind = bytearray(STAMP.size), bytearray(STAMP.size)
        got = os.preadv(self.descriptor, [front, _bytes(data), behind], slot * APART)
        if got != data.nbytes + 2 * STAMP.size or front != behind or STAMP.unpack(front)[0] != stamp:
            raise Torn(f"slot {slot} does not hold frame {stamp} whole")
        return data

    def close(self) -> None:
        """Give the memory up; it is freed when the other process has as well. Once only."""
        os.close(self.descriptor)


def _bytes(data: NDArray[Any]) -> memoryview:
    return memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy's types say less than it does
