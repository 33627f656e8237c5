"""Acknowledging an alarm: an event of its own, written by whoever saw it, also while a watch writes beside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mtkd_edge import files
from mtkd_edge.device.events.clock import Clock, Ids
from mtkd_edge.device.events.database import Database, Filter, reading
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.errors import DataError, UsageError


def acknowledge(root: Path, alarm: str, by: str, clock: Clock) -> Event:
    """Write that somebody has seen an alarm -> that event; the watch lets go of the latch when it reads it.

    Raises DataError for an id that is not there or a store that cannot be written, UsageError for an event that waits
    for no acknowledgement, or a name with control characters.
    """
    if not files.showable(by):
        raise UsageError("whoever acknowledges has a name in one line, of text", "--by Ada")
    reader = Database(root, readonly=True)  # refuses a folder without events, where a writer would make one
    reader.close()
    try:
        database = Database(root)
        try:
            with database.transaction():
                found = database.get(alarm)
                if not found.latched or database.acknowledged(alarm):
                    raise UsageError(f"event {alarm} waits for no acknowledgement", "mtkd-edge events list --open")
                stamp = clock.stamp()
                event = Event(
                    id=Ids(clock, database.last_id()).next(),
                    kind=Kind.ACKNOWLEDGED,
                    source=found.source,
                    seq=found.seq,
                    wall=stamp.wall,
                    monotonic=stamp.monotonic,
                    boot=stamp.boot,
                    state=found.state,
                    reason=f"by {by}",
                    about=alarm,
                )
                database.add([event])
        finally:
            database.close()
    except sqlite3.Error as error:
        raise DataError(f"{root} cannot be written: {error}", "check the free space and permissions") from error
    return event


def acknowledge_line(root: Path, source: str, by: str, clock: Clock) -> None:
    """Acknowledge the newest alarm of a source that waits, and with it those before; nothing where none does.

    Raises DataError where the store cannot be read or written.
    """
    with reading(root) as database:
        waiting = database.find(Filter(source=source, open=True, limit=1))
    if waiting:
        acknowledge(root, waiting[0].id, by, clock)
