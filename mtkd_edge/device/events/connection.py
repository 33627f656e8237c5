"""Connections to the database of events: to write, and to read what others write or a full disk has left."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mtkd_edge.errors import DataError

PATIENCE = 5.0
"""Seconds to wait for another process that is writing."""


def connect(path: Path, how: str) -> sqlite3.Connection:
    """To the database at `path`; `how` is what follows in its address. Raises sqlite3.Error."""
    # opened by whoever starts the writer, then used by the writer alone: hence no check of the thread
    address = f"{path.resolve().as_uri()}{how}"
    return sqlite3.connect(address, PATIENCE, isolation_level=None, uri=True, check_same_thread=False)


def readable(path: Path) -> sqlite3.Connection:
    """A reader has to make a small file beside a WAL database; where the disk is full or read-only it reads without.

    Without it whatever is still in the write-ahead log is not seen: then that is an error. Raises DataError.
    """
    log = path.with_name(f"{path.name}-wal")
    for how in ("?mode=ro", "?immutable=1"):
        connection = connect(path, how)
        try:
            connection.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if how == "?immutable=1" or (log.is_file() and log.stat().st_size):
                raise DataError(
                    f"{path} cannot be read: {error}", "free some space, or copy the whole folder"
                ) from error
        else:
            return connection
    raise AssertionError("the loop returns or raises")
