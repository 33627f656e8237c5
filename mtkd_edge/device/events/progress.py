"""How far each file source is, on its way to the disk: written with the events, so that neither is ahead of the other.

What is not yet written when the process dies is judged again by the next one: no frame is lost, and a frame whose
event is in the store is not judged twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtkd_edge.device.events.database import exists, reading
from mtkd_edge.device.sources.base import Mark
from mtkd_edge.errors import DataError

MOST = 100_000
"""Marks that wait for a disk which cannot be written; what is beyond is judged again after a restart."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`marks` by source of what is done, `gone` files by source to be forgotten."""

    marks: tuple[tuple[str, Mark], ...]
    gone: tuple[tuple[str, str], ...]


class Pending:
    """Gathers marks, the newest of each file. Used under the lock of whoever owns it."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], Mark] = {}
        self._gone: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._marks or self._gone)

    def done(self, source: str, mark: Mark) -> None:
        """A frame has its verdict."""
        if len(self._marks) < MOST or (source, mark.item) in self._marks:
            self._marks[source, mark.item] = mark
            self._gone.discard((source, mark.item))

    def gone(self, source: str, items: Iterable[str]) -> None:
        """Files are there no more."""
        for item in items:
            if len(self._gone) < MOST:
                self._gone.add((source, item))

    def take(self) -> Progress:
        """All of it, to be written; nothing is left here."""
        marks, self._marks = self._marks, {}
        gone, self._gone = self._gone, set()
        return Progress(tuple((source, mark) for (source, _), mark in marks.items()), tuple(gone))

    def put_back(self, progress: Progress) -> None:
        """It could not be written. What came meanwhile is newer."""
        for source, mark in progress.marks:
            self._marks.setdefault((source, mark.item), mark)
        self._gone.update(progress.gone)


def read(root: Path | None, source: str) -> tuple[list[Mark], int]:
    """What is done of a source, and the `seq` of its next frame. Raises DataError for a store that cannot be read."""
    if root is None or not exists(root):
        return [], 0
    try:
        with reading(root) as database:
            return database.progress(source)
    except DataError as error:
        what = f"{error.message}: nobody knows how far {source} is"
        raise DataError(what, "move the folder away, or put a copy in its place") from error
