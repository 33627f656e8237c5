"""What a disk may hold after the power was cut at any moment, from a log of all that was written (disk_recorder.cpp).

Only what a sync has promised is certain: of a file, what was written before an fsync of it began that has returned; of
a name (a file made, renamed or removed, a folder made), an fsync of the folder that it stands in. Of all else a disk
may have kept everything, nothing, or any part of it, sector by sector and in any order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

SECTOR = 512


@dataclass(frozen=True)
class Entry:
    """One line of the log. `data` is what was written, or the new name."""

    op: str
    inode: int
    offset: int
    path: str
    data: bytes


def read(log: Path) -> list[Entry]:
    """All entries, in the order in which they happened."""
    raw, at, found = log.read_bytes(), 0, []
    while at < len(raw):
        end = raw.index(b"\n", at)
        op, inode, offset, length, path = raw[at:end].decode().split(" ", 4)
        at = end + 1 + int(length)
        found.append(Entry(op, int(inode), int(offset), path, raw[end + 1 : at]))
    return found


@dataclass
class File:
    """`pending`: (offset, data), or (length, None) for a truncation, since the last sync; `sure` is what that promised.

    `syncing`: how many of the pending ones were there when the sync that still runs began.
    """

    sure: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    syncing: int = 0

    def content(self, chosen: Iterator[bool]) -> bytes:
        """What was promised and, of the rest, the sectors that were chosen."""
        made = bytearray(self.sure)
        for offset, data in self.pending:
            if data is None:
                if next(chosen):
                    made[offset:] = bytes(max(0, offset - len(made)))
                continue
            # sectors of the file, not of the write
            cuts = [*range(offset - offset % SECTOR, offset + len(data), SECTOR), offset + len(data)]
            for begin, end in pairwise(cuts):
                first = max(begin, offset)
                if next(chosen):
                    made += bytes(max(0, end - len(made)))
                    made[first:end] = data[first - offset : end - offset]
        return bytes(made)


class Disk:
    """Files and names as they are promised, and as the program sees them. Folders are names without a file."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._inodes: dict[int, File] = {}
        self._seen: dict[str, File | None] = {}
        self._sure: dict[str, File | None] = {}

    def step(self, entry: Entry) -> None:
        """One more entry has happened."""
        path, file = entry.path, self._inodes.get(entry.inode)
        if entry.op == "create":
            self._seen[path] = self._inodes[entry.inode] = File()
        elif entry.op == "mkdir":
            self._seen[path] = None
        elif entry.op in ("unlink", "rmdir"):
            del self._seen[path]
        elif entry.op == "rename":
            self._seen[entry.data.decode()] = self._seen.pop(path)
        elif entry.op in ("write", "truncate"):
            assert file is not None, f"{path} was written and never made"
            file.pending.append((entry.offset, entry.data if entry.op == "write" else None))
        elif entry.op == "begin-sync" and file is not None:
            file.syncing = len(file.pending)
        elif entry.op == "sync" and file is not None:
            done, file.pending = file.pending[: file.syncing], file.pending[file.syncing :]
            file.sure = File(file.sure, done).content(iter(lambda: True, False))
            file.syncing = 0
        elif entry.op == "sync":
            self._sync_names(path)

    def _sync_names(self, folder: str) -> None:
        for name in {*self._seen, *self._sure}:
            if name.rpartition("/")[0] == folder:
                if name in self._seen:
                    self._sure[name] = self._seen[name]
                else:
                    del self._sure[name]

    def after_cut(self, kept: str, chance: random.Random) -> dict[str, bytes | None]:
        """{path: content, None for a folder} after the power was cut now. `kept`: "nothing", "all" or "some"."""
        chosen = {"nothing": lambda: False, "all": lambda: True, "some": lambda: chance.random() < 0.5}[kept]
        names: dict[str, File | None] = {}
        for name in sorted({*self._seen, *self._sure}):
            of = self._seen if chosen() else self._sure
            parent = name.rpartition("/")[0]
            if name in of and (parent == self.root or parent in names):
                names[name] = of[name]
        picked = iter(chosen, object())
        return {name: None if file is None else file.content(picked) for name, file in names.items()}


def write(root: Path, to: Path, found: dict[str, bytes | None]) -> None:
    """A disk's content, moved from `root` to another folder."""
    for name, content in found.items():
        path = to / Path(name).relative_to(root)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
