"""Device memory as the host build sees it: arrays far apart, with NaN between them.

A read beyond an array gives NaN, which no comparison passes; a write beyond it is found afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.errors import BackendError

MARGIN = 16 << 10
"""Words of 4 bytes around every array."""
MARK = 0x7FDEADAD


@dataclass(frozen=True, slots=True)
class Place:
    """An array inside an arena: where it begins and how long it is, in words of 4 bytes."""

    start: int
    words: int
    shape: tuple[int, ...]


class Arena:
    """Device memory of one run, every array between margins of NaN."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint32]] = []
        self._places: list[Place] = []
        self._end = 0
        self._memory: NDArray[np.uint32] | None = None
        self._pad(MARGIN)

    def put(self, values: NDArray[Any]) -> Place:
        """A copy of an array."""
        raw = np.frombuffer(values.tobytes() + bytes(-values.nbytes % 4), np.uint32)
        place = Place(self._end, len(raw), values.shape)
        self._parts.append(raw)
        self._end += len(raw)
        # 64 words are the 256 bytes that CUDA aligns an allocation to
        self._pad(MARGIN + -len(raw) % 64)
        self._places.append(place)
        return place

    def room(self, shape: tuple[int, ...]) -> Place:
        """An array that nobody has written yet: NaN."""
        return self.put(np.full(shape, MARK, np.uint32))

    def address(self, place: Place) -> int:
        """Of the place's first byte. Nothing can be put afterwards."""
        if self._memory is None:
            whole = np.concatenate([np.empty(0, np.uint32), *self._parts])
            spare = np.empty(len(whole) + 64, np.uint32)
            begin = -spare.ctypes.data // 4 % 64
            self._memory = spare[begin : begin + len(whole)]
            self._memory[:] = whole
        return int(self._memory.ctypes.data) + 4 * place.start

    def take(self, place: Place, kind: type[np.generic]) -> NDArray[Any]:
        """What the place holds, as an array of its own."""
        assert self._memory is not None, "taken before it was used"
        return self._memory[place.start : place.start + place.words].view(kind).reshape(place.shape).copy()

    def check(self) -> None:
        """Raises BackendError where a margin was written to."""
        assert self._memory is not None, "checked before it was used"
        outside = np.ones(len(self._memory), bool)
        for place in self._places:
            outside[place.start : place.start + place.words] = False
        if (self._memory[outside] != MARK).any():
            raise BackendError("the host build of the kernel stopped: a write outside its arrays")

    def _pad(self, words: int) -> None:
        self._parts.append(np.full(words, MARK, np.uint32))
        self._end += words
