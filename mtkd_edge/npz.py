"""Arrays from an .npz file of somebody else: never a pickle, never a path, never more memory than allowed."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.errors import DataError

WRONG = OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error
"""What numpy and zipfile raise for files that are not as they should be; RuntimeError: one that wants a password."""
MOST = 4 << 30
"""Bytes of all arrays together, unpacked."""


def read(path: Path, most: int = MOST) -> dict[str, NDArray[np.generic]]:
    """{name: array}. Raises DataError naming the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        names = [member.filename for member in members]
        if strange := [name for name in names if not name.endswith(".npy") or Path(name).name != name or "\\" in name]:
            raise ValueError(f"it holds {strange[0]!r}, which is no array, or a path")
        if len(set(names)) < len(names):
            raise ValueError("it holds two arrays of one name")
        if (size := sum(member.file_size for member in members)) > most:
            raise ValueError(f"its arrays take {size:,} bytes, more than {most:,}")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays.items())
    except WRONG as error:
        raise DataError(f"{path} cannot be read: {error}", "copy the file again") from error
