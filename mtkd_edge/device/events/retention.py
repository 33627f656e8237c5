"""What goes when there is too much of it, or it is too old: the oldest first, latched alarms last."""

from __future__ import annotations

import msgspec

from mtkd_edge.device.events import pictures
from mtkd_edge.device.events.clock import Clock, seconds_of
from mtkd_edge.device.events.database import Database
from mtkd_edge.device.events.naming import picture_names

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
    doomed: list[str] = []
    freed = 0
    now = clock.believed() if limits.days is not None and clock.settled() else None
    for latched in (False, True):
        for event, size in database.oldest(latched, AT_ONCE - len(doomed)):
            stale = now is not None and not latched and now - _written(event) > (limits.days or 0) * DAY
            if used - freed <= limits.bytes and not stale:
                break
            doomed.append(event)
            freed += size
        if len(doomed) >= AT_ONCE:
            break
    if not doomed:
        return 0, 0
    with database.transaction():
        database.delete(doomed)
    for event in doomed:
        pictures.remove(database.root, picture_names(event))
    return len(doomed), freed


def _written(event: str) -> float:
    """Seconds since the epoch; long ago where an id was damaged: kept for ever it would keep all that follow it."""
    try:
        return seconds_of(event)
    except ValueError:
        return 0.0
