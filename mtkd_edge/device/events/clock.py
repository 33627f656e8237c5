"""When something happened, said in a way that survives a clock being set: order by id, age by a clock that is believed.

A wall clock steps: a board without a battery wakes up in 1970 and jumps once the network is there, an operator sets it,
a time server errs. So each event carries wall time, monotonic time and the boot they belong to, and an id that sorts
by the order of writing whatever the wall clock does.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

SLEW = 2.0
"""Seconds by which the wall clock may drift against the monotonic one between two looks without having been set."""
TRUST = 3600.0
"""Seconds for which a clock that was just set, or just started, is not believed where data would be deleted by it."""
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: sorts as text like the numbers it writes, and has no letter that looks like another."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
RANDOM_BITS = 80
LENGTH = 26


class Stamp(msgspec.Struct, frozen=True):
    """One moment: `wall` seconds since the epoch as the machine believed, `monotonic` seconds within `boot`."""

    wall: float
    monotonic: float
    boot: str


def boot_id() -> str:
    """The kernel's name for the time since power-on; one of our own where there is none: never an earlier one."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"process-{secrets.token_hex(8)}"


class Clock:
    """Wall and monotonic time together. `believed` follows a step of the wall clock only after TRUST seconds."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self.boot = boot_id() if boot is None else boot
        self._lock = threading.Lock()
        self._offset = self._candidate = wall() - monotonic()
        self._since = monotonic()
        self.steps = 0

    def stamp(self) -> Stamp:
        """This moment."""
        return Stamp(self._wall(), self._monotonic(), self.boot)

    def believed(self) -> float:
        """Seconds since the epoch, without steps that have not yet stood for TRUST seconds."""
        with self._lock:
            now = self._monotonic()
            offset = self._wall() - now
            if abs(offset - self._candidate) > SLEW:
                self.steps += 1
                self._since = now
            self._candidate = offset
            if abs(offset - self._offset) <= SLEW or now - self._since >= TRUST:
                self._offset = offset
            return now + self._offset

    def settled(self) -> bool:
        """Whether the clock has run for TRUST seconds without being set: only then may age delete anything."""
        self.believed()
        with self._lock:
            return self._monotonic() - self._since >= TRUST


class Ids:
    """Ids of 26 letters (the form of a ULID: 48 bits of milliseconds, 80 of chance) that only ever grow.

    `last` is the greatest id there is already. When the clock stands still or goes back the last id is counted on, so
    its time is then that of the latest id and not of the event. Used from one thread.
    """

    def __init__(self, clock: Clock, last: str = "") -> None:
        self._clock = clock
        self._last = decode(last) if last else 0

    @property
    def last(self) -> str:
        """The latest id, "" before the first."""
        return encode(self._last) if self._last else ""

    def next(self) -> str:
        """An id greater than every one before it."""
        fresh = int(max(0.0, self._clock.believed()) * 1e3) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
        step = 1 + secrets.randbits(32)  # ids of one millisecond cannot be guessed from each other
        self._last = fresh if fresh >> RANDOM_BITS > self._last >> RANDOM_BITS else self._last + step
        return encode(self._last)


def encode(number: int) -> str:
    """128 bits as 26 letters."""
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH)))


def decode(text: str) -> int:
    """26 letters as a number. Raises ValueError for any other text."""
    if len(text) != LENGTH or not set(text) <= set(ALPHABET):
        raise ValueError(f"an event id has {LENGTH} letters of {ALPHABET}, got {text!r}")
    return sum(ALPHABET.index(letter) << 5 * place for place, letter in enumerate(reversed(text)))


def seconds_of(text: str) -> float:
    """The time in an id, in seconds since the epoch."""
    return (decode(text) >> RANDOM_BITS) / 1e3
