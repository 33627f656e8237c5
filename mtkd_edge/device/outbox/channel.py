"""What a way out is: it delivers events one after the other, or says why it could not, and for how long to wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from mtkd_edge.device.events.record import Event


class NotDelivered(Exception):  # noqa: N818 - no error of the program: the other side is away
    """The first event could not be delivered now. `after`: the seconds the other side asked to be left alone."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Refused(Exception):  # noqa: N818 - as above
    """The other side will never take the first event: trying it again would only hold up those behind it."""


class Channel(Protocol):
    """Used from one thread, its sender's. `close` may block for a second; everything else within its time limits."""

    name: str

    @property
    def trouble(self) -> str:
        """Why nothing could be sent now, as far as is known without trying; "" where nothing speaks against it."""
        ...

    def send(self, events: Sequence[Event]) -> int:
        """Deliver events in order -> how many of the first ones were taken, at least one.

        Raises NotDelivered or Refused about the first event.
        """
        ...

    def close(self) -> None:
        """Leave in good order."""
        ...


class Backoff:
    """Pauses that double up to `most` seconds, each with a random part: many stations do not knock together."""

    def __init__(self, first: float = 0.5, most: float = 60.0, chance: random.Random | None = None) -> None:
        self._first, self._most, self._failures = first, most, 0
        self._chance = chance or random.Random()

    def next(self) -> float:
        """The pause after one more failure: between half of and the whole doubled time."""
        longest = min(self._most, self._first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Something was delivered."""
        self._failures = 0
