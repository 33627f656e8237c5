"""The tables, and the only SQL there is: one connection, used from one thread at a time.

WAL with synchronous=FULL: a commit that has returned survives `kill -9` and a power cut (with NORMAL, seconds of
committed events were lost when the power of a test machine was cut). Rows are committed in the order of their ids, so
"everything after this id" is a complete question: it is how each sink remembers what it has sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from mtkd_edge.device.events.clock import ALPHABET, LENGTH
from mtkd_edge.device.events.connection import connect, readable
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.events.row import COLUMNS, event_of, row_of
from mtkd_edge.device.sources.base import Mark
from mtkd_edge.errors import DataError

FILE = "events.db"
VERSION = 1
CACHE = 512
"""KiB of pages that a connection keeps. SQLite would keep 2 MB, filled over hours, and there are several."""
SCHEMA = """
create table if not exists event(
  id text primary key, kind text not null, source text not null, state text not null, wall real not null,
  size integer not null, latched integer not null, acknowledged integer not null default 0, about text not null,
  body blob not null
) without rowid;
create index if not exists event_latched on event(latched, id);
create index if not exists event_about on event(about) where about <> '';
create table if not exists sink(name text primary key, sent text not null, skipped integer not null default 0)
  without rowid;
"""
ADDED = """
create index if not exists event_open on event(id, source) where latched=1 and acknowledged=0;
create table if not exists progress(
  source text not null, item text not null, size integer not null, changed integer not null, frames integer not null,
  seq integer not null, primary key(source, item)
) without rowid;
"""
"""Added to stores of before without another version: who does not know it does not miss it."""
OPEN = "latched=1 and acknowledged=0"
"""Word for word that of the index: with a parameter in it SQLite would not use it."""
SOUND = f"length(id)={LENGTH} and id not glob '*[^{ALPHABET}]*'"
"""What an id looks like. One that was damaged may sort behind all that will ever come."""
FEW = 1000
"""Rows whose ids are looked at one by one each second, which takes 10 us a row."""
WHOLE = ""
"""The item whose `seq` is that of the source's newest frame that is done, also once all its files are forgotten."""
ROW = f"insert or ignore into event({COLUMNS}, size) values(?,?,?,?,?,?,?,?,?)"


class Filter(msgspec.Struct, frozen=True):
    """Which events: empty means any. `since` and `until` are seconds since the epoch; `after` is an id.

    `newest` gives the latest first; `open` only alarms that wait for an acknowledgement.
    """

    source: str = ""
    state: str = ""
    kind: str = ""
    since: float | None = None
    until: float | None = None
    after: str = ""
    open: bool = False
    newest: bool = True
    limit: int = 100


class Size(msgspec.Struct, frozen=True):
    """How many events there are and the bytes of their rows and pictures."""

    events: int
    bytes: int


class Old(NamedTuple):
    """An event that may have to go: its id as it stands on the disk, bytes of row and pictures, wall time."""

    raw: bytes
    size: int
    wall: float

    @property
    def id(self) -> str:
        """For whoever reads it; damaged letters are not what they were."""
        return self.raw.decode(errors="replace")


def exists(root: Path) -> bool:
    """Whether a folder holds events."""
    return (root / FILE).is_file()


class Database:
    """The events in a folder. Raises DataError where there are none to read, or of another version; else sqlite3.Error.

    `readonly` never writes, also not the schema: for commands and the page.
    """

    def __init__(self, root: Path, *, readonly: bool = False) -> None:
        self.root, path = root, root / FILE
        if readonly and not path.is_file():
            raise DataError(f"{root} holds no events: {path} is not there", "mtkd-edge watch SOURCE --out DIR")
        self._connection = readable(path) if readonly else connect(path, "")
        if not readonly:
            self._connection.execute("pragma journal_mode=wal")
            self._connection.execute("pragma synchronous=full")
        self._connection.execute(f"pragma cache_size=-{CACHE}")
        # one spoilt letter of a worn card must not hide every other row
        self._connection.text_factory = lambda text: text.decode(errors="replace")
        found = self._connection.execute("pragma user_version").fetchone()[0]
        if found not in (0, VERSION):
            self.close()
            raise DataError(f"{path} has format {found}, this version reads {VERSION}", "choose another folder")
        if found == 0 and not readonly:
            self._connection.executescript(SCHEMA)
            self._connection.execute(f"pragma user_version={VERSION}")
        if not readonly:
            self._connection.executescript(ADDED)

    def close(self) -> None:
        """Close the connection. Calling it twice is harmless."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. The write lock is taken at once, so nobody else adds an id in between."""
        self._connection.execute("begin immediate")
        try:
            yield
            self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have rolled back by itself
                self._connection.execute("rollback")
            raise

    def add(self, events: Sequence[Event]) -> int:
        """Insert events, whose ids are greater than any here -> the bytes of their rows and pictures.

        One that is here already stays as it is.
        An acknowledgement is for its alarm and for those of the same source before it.
        """
        rows = [row_of(event) for event in events]
        sizes = [event.bytes + len(row[-1]) for event, row in zip(events, rows, strict=True)]
        self._connection.executemany(ROW, [(*row, size) for row, size in zip(rows, sizes, strict=True)])
        for event in events:
            if event.kind is Kind.ACKNOWLEDGED:
                text = "update event set acknowledged=1 where source=? and latched=1 and id<=?"
                self._connection.execute(text, (event.source, event.about))
        return sum(sizes)

    def advance(self, marks: Iterable[tuple[str, Mark]]) -> None:
        """Remember what is done, by source."""
        rows = []
        for source, mark in marks:
            rows.append((source, mark.item, mark.size, mark.changed, mark.frames, mark.seq))
            rows.append((source, WHOLE, 0, 0, 0, mark.seq))
        self._connection.executemany("insert or replace into progress values(?,?,?,?,?,?)", rows)

    def forget(self, items: Iterable[tuple[str, str]]) -> None:
        """Forget files that are gone, by source."""
        self._connection.executemany("delete from progress where source=? and item=?", items)

    def progress(self, source: str) -> tuple[list[Mark], int]:
        """What is done of a source, and the `seq` of its next frame."""
        text = "select item, size, changed, frames, seq from progress where source=? order by item"
        try:
            rows = [Mark(*row) for row in self._connection.execute(text, (source,))]
        except sqlite3.OperationalError:
            return [], 0  # a store of before, which knows no progress
        following = max((mark.seq for mark in rows), default=-1) + 1
        return [mark for mark in rows if mark.item != WHOLE], following

    def last_id(self) -> str:
        """The greatest id that is one, "" without any."""
        row = self._connection.execute(f"select id from event where {SOUND} order by id desc limit 1").fetchone()
        return "" if row is None else str(row[0])

    def get(self, event: str) -> Event:
        """One event. Raises DataError where there is none of that id."""
        row = self._connection.execute(f"select {COLUMNS} from event where id=?", (event,)).fetchone()
        if row is None:
            raise DataError(f"no event {event} in {self.root}", f"mtkd-edge events list {self.root}")
        return event_of(row)

    def acknowledged(self, event: str) -> bool:
        """Whether an alarm has been acknowledged."""
        row = self._connection.execute("select acknowledged from event where id=?", (event,)).fetchone()
        return bool(row and row[0])

    def open_sources(self) -> frozenset[str]:
        """Sources with an alarm that waits for its acknowledgement."""
        rows = self._connection.execute(f"select distinct source from event where {OPEN}")
        return frozenset(str(row[0]) for row in rows)

    def find(self, wanted: Filter) -> list[Event]:
        """The events that fit, at most `limit` of them."""
        terms: list[tuple[str, object]] = [
            (f"{column}=?", value)
            for column, value in (("source", wanted.source), ("state", wanted.state), ("kind", wanted.kind))
            if value
        ]
        terms += [("wall>=?", wanted.since)] if wanted.since is not None else []
        terms += [("wall<?", wanted.until)] if wanted.until is not None else []
        terms += [("id>?", wanted.after)] if wanted.after else []
        texts = [term for term, _ in terms] + ([OPEN] if wanted.open else []) + ([SOUND] if wanted.after else [])
        where = f"where {' and '.join(texts)}" if texts else ""
        order = "desc" if wanted.newest else "asc"
        text = f"select {COLUMNS} from event {where} order by id {order} limit ?"
        return [event_of(row) for row in self._connection.execute(text, (*(v for _, v in terms), wanted.limit))]

    def ids(self) -> set[str]:
        """Of all events."""
        return {str(row[0]) for row in self._connection.execute("select id from event")}

    def size(self) -> Size:
        """Events and bytes."""
        return Size(*self._connection.execute("select count(*), coalesce(sum(size), 0) from event").fetchone())

    def oldest(self, latched: bool, limit: int) -> list[Old]:
        """The oldest events: latched alarms, or all others."""
        text = "select cast(id as blob), size, wall from event where latched=? order by id limit ?"
        return [Old(*row) for row in self._connection.execute(text, (int(latched), limit))]

    def first_wall(self, latest: float) -> float | None:
        """The wall time of the oldest event that claims none later than `latest`; None without any."""
        row = self._connection.execute("select wall from event where wall<=? order by id limit 1", (latest,)).fetchone()
        return None if row is None else float(row[0])

    def delete(self, events: Sequence[bytes]) -> None:
        """Delete rows by their ids; a sink that had not sent one counts it as skipped. Pictures are the caller's."""
        for event in events:
            self._connection.execute("delete from event where id=cast(? as text)", (event,))
            self._connection.execute("update sink set skipped=skipped+1 where sent<cast(? as text)", (event,))

    def sent(self, sink: str) -> str | None:
        """The id up to which a sink has sent everything; None for one that is new here."""
        row = self._connection.execute("select sent from sink where name=?", (sink,)).fetchone()
        return None if row is None else str(row[0])

    def mark_sent(self, sink: str, event: str) -> int:
        """Remember that a sink has sent everything up to this id -> how many were deleted before it could, once."""
        row = self._connection.execute("select skipped from sink where name=?", (sink,)).fetchone()
        text = "insert into sink(name, sent) values(?,?) on conflict(name) do update set sent=excluded.sent, skipped=0"
        self._connection.execute(text, (sink, event))
        return int(row[0]) if row else 0

    def count_after(self, event: str) -> int:
        """How many events have a greater id; of few, as are left in the end, without those whose id is damaged."""
        text = "select count(*) from event where id>?"
        count = int(self._connection.execute(text, (event,)).fetchone()[0])
        if count > FEW:
            return count
        return int(self._connection.execute(f"{text} and {SOUND}", (event,)).fetchone()[0])

    def nth_after(self, event: str, number: int) -> str:
        """The id of the `number`-th event after this one, the first being 1."""
        text = "select id from event where id>? order by id limit 1 offset ?"
        return str(self._connection.execute(text, (event, number - 1)).fetchone()[0])


@contextmanager
def reading(root: Path) -> Iterator[Database]:
    """A store to read from, closed afterwards. Raises DataError where there is none, or it cannot be read."""
    try:
        with closing(Database(root, readonly=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise DataError(f"the events in {root} cannot be read: {error}", "copy the whole folder") from error
