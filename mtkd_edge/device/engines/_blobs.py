"""OpenVINO's compiled models on the disk: a second start is fast by them. They are code, so none is run unchecked.

    <cache>/<name>.blob           written by OpenVINO
    <cache>/<name>.blob.sha256    written here, after it

OpenVINO loads a blob with flipped bits without a word, and its scores are other ones. A blob that is not what its sum
says, or has none, is deleted and compiled again. Where nothing can be written there is no cache, and a start is slower.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mtkd_edge.bundle import make_folder, sha256, write_file
from mtkd_edge.errors import BundleError


def usable(folder: Path) -> Path | None:
    """The folder, made where it is missing, with whole blobs alone; None where it cannot serve."""
    try:
        make_folder(folder)
        for blob in folder.glob("*.blob"):
            if not _whole(blob):
                blob.unlink(missing_ok=True)
                _sum(blob).unlink(missing_ok=True)  # the next one has other bytes
        probe = folder / f".{folder.name}"
        write_file(probe, b"")
        probe.unlink(missing_ok=True)
    except (OSError, BundleError):
        return None
    return folder


def seal(folder: Path) -> None:
    """Write the sums of the blobs that have none yet."""
    with contextlib.suppress(OSError, BundleError):  # without its sum a blob is compiled again, no more
        for blob in folder.glob("*.blob"):
            if not _sum(blob).exists():
                write_file(_sum(blob), sha256(blob).encode())


def _whole(blob: Path) -> bool:
    return _sum(blob).is_file() and _sum(blob).read_bytes() == sha256(blob).encode()


def _sum(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.sha256")
