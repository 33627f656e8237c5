"""The photos of a data set as frames on disk, which every rival is fed with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rivals_costs import SIDE

from mtkd_edge import dataset
from mtkd_edge.bundle import sha256
from mtkd_edge.dataset import Dataset
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.progress import silent


@dataclass(frozen=True)
class Photos:
    """One data set: its listing, how its photos become frames, and the folder with train.npy and test.npy.

    `digest` is of all that decides the figures: photos, kinds, masks and frames.
    """

    name: str
    listing: Dataset
    frame: FrameSpec
    folder: Path
    digest: str


def prepare(root: Path, out: Path) -> Photos:
    """Frames for the rivals, as `train --fit squash` makes them; kept for a second run. Exits for other photos."""
    listing = dataset.scan(root)
    frame = FrameSpec(SIDE, SIDE, "squash", listing.white)
    folder, digest = out / root.resolve().name, digest_of(listing, frame)
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "photos.sha256"
    if any(folder.iterdir()) and not (told.is_file() and told.read_text() == digest):
        why = (
            f"was made of other photos than those of {root}" if told.is_file() else "does not say which photos it is of"
        )
        raise SystemExit(f"{folder} {why}: name another --out, or delete it")
    told.write_text(digest)
    for side, photos in (("train", listing.photos), ("test", listing.test)):
        if not (path := folder / f"{side}.npy").exists():
            paths = [Path(listing.root, photo.path) for photo in photos]
            scratch = folder / f".{side}.tmp.npy"
            np.save(scratch, load_frames(paths, frame, silent, side))
            scratch.replace(path)
    return Photos(folder.name, listing, frame, folder, digest)


def digest_of(listing: Dataset, frame: FrameSpec) -> str:
    """sha256 of the photos in their order, wherever they are."""
    told = hashlib.sha256(msgspec.json.encode((listing.photos, listing.test, frame)))
    for name in [name for photo in listing.test for name in (photo.path, photo.mask) if name]:
        told.update(sha256(Path(listing.root, name)).encode())
    return told.hexdigest()
