"""Reading a file that somebody else has put there: a regular one, of bounded size, whole, and where it claims to be.

A folder may hold a pipe named part.png (opening it waits for ever), a link to a device or out of the folder, a link to
itself, a file that is still being written. Each of them is an error with a reason, and none is read.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from io import FileIO
from pathlib import Path

import msgspec

from mtkd_edge.errors import DataError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's controls, bytes that are no text, and separators of lines and paragraphs."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was wanted: for a string that is no UTF-8, and for brackets in a
thousand brackets, none of its own errors."""


def read(path: Path, most: int, within: Path | None = None) -> bytes:
    """All bytes of a regular file of at most `most` bytes; with `within`, a resolved folder, of one that lies in there.

    Raises DataError naming the file.
    """
    try:
        _regular(path, path.stat().st_mode)
        # what was looked at may have been replaced: no waiting for a pipe's other end, no terminal taken over
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 - the handle is what was checked
            before = os.fstat(handle)
            _regular(path, before.st_mode)
            if within is not None and not Path(os.readlink(f"/proc/self/fd/{handle}")).is_relative_to(within):  # noqa: PTH115
                raise DataError(f"{path} is a link that leaves {within}", "copy the file there")
            if before.st_size > most:
                raise DataError(f"{path} has {before.st_size:,} bytes, more than {most:,}", "scale it down first")
            data = _all(file, before.st_size)
            after = os.fstat(handle)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DataError(f"{path} changed while it was read", "write it under another name, then rename it")
    return data


def shown(name: str) -> str:
    """A name as one line of text, whatever bytes it was made of: what cannot be shown is written as \\n or \\x1b."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNSEEN else c for c in name)


def showable(name: str) -> bool:
    """Whether a name is plain text in one line. Others could forge lines of logs, or steer a terminal."""
    return not any(unicodedata.category(c) in UNSEEN for c in name)


def _regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise DataError(f"{path} is {what}, wanted a regular file", "remove it from the folder")


def _all(file: FileIO, size: int) -> bytes:
    parts, left = [], size + 1  # one more than there should be: it may have grown
    while left > 0 and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
