"""Finding photos under a folder and reading each of them once: names, sizes, hashes, and what is wrong.

This file knows nothing of layouts, sides or kinds; `dataset.py` does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from mtkd_edge import files as files_
from mtkd_edge import frames
from mtkd_edge.errors import DataError
from mtkd_edge.progress import Progress

THREADS = min(8, os.cpu_count() or 1)


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something a person should look at. `what` is "<group>: <detail>"; `path` is relative to the root."""

    path: str
    what: str


class Facts(msgspec.Struct, frozen=True):
    """What one look at a photo tells. `white` as in frames.white_of; `grey`: its three channels are equal."""

    path: str
    sha256: str
    height: int
    width: int
    white: int
    grey: bool


def photos_under(root: Path, folder: str) -> tuple[list[str], list[Problem]]:
    """Paths of photos under root/folder, relative to `root`, sorted; and what was passed over.

    Hidden files and folders are passed over in silence. Links are followed to files inside the root only, so that a
    listing never reads what its folder does not hold.
    """
    names: list[str] = []
    problems: list[Problem] = []

    def relative(path: str | Path) -> str:
        return Path(path).relative_to(root).as_posix()

    def denied(error: OSError) -> None:
        problems.append(Problem(relative(error.filename), f"unreadable, left out: {error.strerror}"))

    for parent, folders, files in os.walk(root / folder, onerror=denied if (root / folder).exists() else None):
        linked = [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
        problems += [Problem(relative(path), "link, left out: folders behind links are not read") for path in linked]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in frames.SUFFIXES:
                continue
            # realpath below: resolve() raises RuntimeError for a link that leads to itself
            if not files_.showable(relative(path)):
                what = "unreadable, left out: a name with control characters, or none that is text"
                problems.append(Problem(files_.shown(relative(path)), what))
            elif path.is_symlink() and not (real := Path(os.path.realpath(path))).is_relative_to(root):
                problems.append(Problem(relative(path), f"link, left out: it leaves the folder to {real}"))
            elif not path.is_file():
                what = "it leads nowhere" if path.is_symlink() else "not a regular file"
                problems.append(Problem(relative(path), f"unreadable, left out: {what}"))
            else:
                names.append(relative(path))
    return sorted(names), sorted(problems, key=lambda problem: problem.path)


def inspect(root: Path, names: Sequence[str], progress: Progress) -> tuple[list[Facts], list[Problem]]:
    """Read, hash and decode each photo, in threads (OpenCV releases the interpreter lock), in the order given."""
    facts: list[Facts] = []
    problems: list[Problem] = []
    pool = ThreadPoolExecutor(THREADS, "photos")
    try:
        for done, found in enumerate(pool.map(lambda name: _look(root, name), names), start=1):
            if isinstance(found, Facts):
                facts.append(found)
            else:
                problems.append(found)
            progress("read photos", done, len(names))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the rest of the folder
    return facts, problems


def _look(root: Path, name: str) -> Facts | Problem:
    try:
        data = files_.read(root / name, frames.MAX_BYTES, root.resolve())
        if not data:
            return Problem(name, "empty, left out: 0 bytes")
        photo = frames.decode(data, name)
    except DataError as error:
        why = error.message.removeprefix(str(root / name)).removeprefix(name).removeprefix(" cannot be read:").strip()
        return Problem(name, f"unreadable, left out: {why}")
    grey = np.array_equal(photo[..., 0], photo[..., 1]) and np.array_equal(photo[..., 1], photo[..., 2])
    return Facts(
        name, hashlib.sha256(data).hexdigest(), photo.shape[0], photo.shape[1], frames.white_of(photo), bool(grey)
    )
