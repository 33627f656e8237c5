"""What goes when there is too much of it, or it is too old: the oldest first, latched alarms last."""

from __future__ import annotations

from functools import cached_property

import msgspec

from mtkd_edge.device.events import pictures
from mtkd_edge.device.events.clock import Clock, seconds_of
from mtkd_edge.device.events.database import Database, Old
from mtkd_edge.device.events.naming import picture_names
from mtkd_edge.errors import DataError

AT_ONCE = 200
"""Events deleted in one transaction: the writer's thread has frames waiting behind it."""
DAY = 86400.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bytes` of rows and pictures together; `days` since the event, None for ever. The bytes always hold."""

    bytes: int = 10 << 30
    days: float | None = None


def prune(database: Database, limits: Limits, clock: Clock, used: int) -> tuple[int, int]:
    """Delete up to AT_ONCE events that are beyond the limits -> (events deleted, bytes freed).

    `used` is what the store holds, in bytes. Age deletes no latched alarm, and nothing at all until the clock has stood
    for an hour: a clock that jumps to 2099 must not empty the store. Rows go first: a crash in between leaves pictures
    without a row, which the next start removes. Raises sqlite3.Error or OSError.
    """
    doomed: list[Old] = []
    freed = 0
    ages = Ages(database, clock, limits.days * DAY) if limits.days is not None and clock.settled() else None
    for latched in (False, True):
        for event in database.oldest(latched, AT_ONCE - len(doomed)):
            stale = ages is not None and not latched and ages.stale(event)
            if used - freed <= limits.bytes and not stale:
                break
            doomed.append(event)
            freed += event.size
        if len(doomed) >= AT_ONCE:
            break
    if not doomed:
        return 0, 0
    with database.transaction():
        database.delete([event.raw for event in doomed])
    for event in doomed:
        pictures.remove(database.root, picture_names(event.id))
    return len(doomed), freed


class Ages:
    """How old events are, now, in days when a clock was wrong as well. `longest` is in seconds."""

    def __init__(self, database: Database, clock: Clock, longest: float) -> None:
        self._database, self._longest = database, longest
        self._now, self._stamp = clock.believed(), clock.stamp()

    def stale(self, event: Old) -> bool:
        """Whether it is older than `longest`."""
        if self._now - self._written(event) <= self._longest:
            return False
        try:
            whole = self._database.get(event.id)
        except DataError:  # its id is damaged: kept for ever it would keep all that follow it
            return True
        # what this boot has written before its clock was set only looks old
        return whole.boot != self._stamp.boot or self._stamp.monotonic - whole.monotonic > self._longest

    def _written(self, event: Old) -> float:
        """Seconds since the epoch.

        By its id, which no clock that was set back has made smaller. Where that lies ahead, because a clock once ran
        ahead and ids only grow, by its wall time; where that does too, it is as old as the first one that does not.
        """
        try:
            told = seconds_of(event.id)
        except ValueError:
            told = 0.0
        if told <= self._now:
            return told
        return event.wall if event.wall <= self._now else self._first

    @cached_property
    def _first(self) -> float:
        found = self._database.first_wall(self._now)
        return self._now if found is None else found
