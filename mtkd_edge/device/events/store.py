"""One folder of events, as its only watch writes it: pictures first, then their rows, in one transaction."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mtkd_edge.device.events import pictures
from mtkd_edge.device.events.clock import Clock, Ids
from mtkd_edge.device.events.database import Database
from mtkd_edge.device.events.pictures import Pictures
from mtkd_edge.device.events.progress import Progress
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.events.retention import Limits, prune
from mtkd_edge.errors import UsageError

LOCK = ".watching"
HOPELESS = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR}
"""Failures at the start that are a wrong setting; others (a full or read-only disk) may pass."""


class Store:
    """Opens the database when it first can: a disk that is full at the start is no reason not to watch."""

    def __init__(self, root: Path, clock: Clock, limits: Limits) -> None:
        """Raises UsageError where the folder can never be written or another watch writes it; else DataError."""
        self._root, self._clock, self._limits = root, clock, limits
        self._ids = Ids(clock)
        self._database: Database | None = None
        self._lock = -1
        self._used, self._swept = 0, False
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, OSError) and error.errno in HOPELESS:
                raise UsageError(
                    f"events cannot be kept in {root}: {error.strerror}", "choose another folder"
                ) from error
            self._drop()

    def numbered(self, event: Event) -> Event:
        """The event with an id of its own."""
        return msgspec.structs.replace(event, id=self._ids.next())

    def write(self, held: Sequence[tuple[Event, Pictures]], done: Progress | None = None) -> list[Event]:
        """Everything or nothing, on the disk when this returns -> the events as written.

        `done` goes with them: what a frame has led to and that the frame is done are never apart.
        Raises OSError or sqlite3.Error; the store is then opened anew by the next call.
        """
        if self._database is None:
            self._open()
        assert self._database is not None, "opened above, or raised"
        written: list[tuple[str, str]] = []
        try:
            with self._database.transaction():
                self._ids = Ids(self._clock, max(self._database.last_id(), self._ids.last))
                events = [self._named(event, each) for event, each in held]
                paths: list[Path] = []
                for event, (_, each) in zip(events, held, strict=True):
                    written.append((event.image, event.heat))
                    paths += pictures.write(self._root, event.id, each)
                if paths:
                    pictures.sync(paths, pictures.folders(self._root, paths))
                added = self._database.add(events)
                if done is not None:
                    self._database.advance(done.marks)
                    self._database.forget(done.gone)
        except (OSError, sqlite3.Error):
            self._drop()
            self._take_back(written)
            raise
        self._used += added
        return events

    def prune(self) -> int:
        """Delete up to AT_ONCE events that are beyond the limits -> how many. Raises OSError or sqlite3.Error."""
        if self._database is None:
            return 0
        deleted, freed = prune(self._database, self._limits, self._clock, self._used)
        self._used -= freed
        return deleted

    def close(self) -> None:
        """Close the database and let another watch have the folder."""
        self._drop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _named(self, event: Event, each: Pictures) -> Event:
        event = event if event.id else self.numbered(event)
        image, heat = pictures.names(event.id, each)
        return msgspec.structs.replace(event, image=image, heat=heat)

    def _open(self) -> None:
        _make(self._root)
        if self._lock < 0:
            self._lock = _locked(self._root)
        try:
            self._read()
        except BaseException:
            self._drop()
            raise

    def _read(self) -> None:
        self._database = Database(self._root)
        self._used = self._database.size().bytes
        self._ids = Ids(self._clock, max(self._database.last_id(), self._ids.last))
        if not self._swept:  # once: with 10^5 events it takes a second
            for path in pictures.orphans(self._root, self._database.ids()):
                path.unlink(missing_ok=True)
            self._swept = True

    def _drop(self) -> None:
        """Close the database, which is opened anew after a failure. The folder stays ours meanwhile."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _take_back(self, written: Sequence[tuple[str, str]]) -> None:
        """Pictures of a transaction that did not happen: on a full disk every byte counts."""
        try:
            for each in written:
                pictures.remove(self._root, each)
        except OSError:
            self._swept = False  # they have no row: the next opening removes them


def _locked(root: Path) -> int:
    """A descriptor that keeps other watches out while it is open. Raises OSError, UsageError where one is there."""
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            raise
        raise UsageError(f"another watch writes its events to {root}", "give each its own folder") from error
    return lock


def _make(root: Path) -> None:
    """The folder and those above it; a name is on the disk only once the folder it stands in is. Raises OSError."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    pictures.sync([], [folder.parent for folder in missing])
