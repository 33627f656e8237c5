"""A row of the table of events, as an event and back. What is found by is a column, and all there is to tell `body`.

SQLite notices a page that makes no sense and no letter that has changed. A body that a worn card has spoilt must stop
neither a list, nor a sink, nor the deleting of what is too old: its row is an event all the same, of what its columns
say, and says that it is damaged.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from mtkd_edge.device.events.naming import picture_names
from mtkd_edge.device.events.record import Event, Kind

COLUMNS = "id, kind, source, state, wall, latched, about, body"
Row: TypeAlias = tuple[str, str, str, str, float, int, str, bytes]

_events = msgspec.json.Decoder(Event)


def row_of(event: Event) -> Row:
    """The columns of an event."""
    body = msgspec.json.encode(event)
    return (
        event.id, event.kind.value, event.source, event.state, event.wall, int(event.latched), event.about, body
    )  # fmt: skip


def event_of(row: Row) -> Event:
    """The event of a row; of its columns alone, without pictures, where its body cannot be believed."""
    id_, kind, source, state, wall, latched, about, body = row
    try:
        event = _events.decode(body)
        if event.id != id_:
            raise ValueError(f"it calls itself {event.id!r}")
        for name in (event.image, event.heat):
            if name and name not in picture_names(id_):
                raise ValueError(f"it names {name!r}, which is no picture of a store")
    except ValueError as error:
        known = Kind(kind) if kind in {each.value for each in Kind} else Kind.VERDICT
        return Event(
            id=id_, kind=known, source=source, seq=0, wall=wall, monotonic=0.0, boot="", state=state,
            reason=f"this event was damaged on the disk: {error}", latched=bool(latched), about=about,
        )  # fmt: skip
    return event
