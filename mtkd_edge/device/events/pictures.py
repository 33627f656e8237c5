"""Photo and heat map of an event as files beside the database.

    pictures/<first 6 letters of the id>/<id>.jpg          the photo as it was scored, JPEG
    pictures/<first 6 letters of the id>/<id>-heat.png     the map, 16 bit grey: 0 is a typical normal part, half of
                                                           full scale the map threshold, full scale twice that

Six letters of an id last 17 minutes, so no folder grows beyond what a file system likes. A picture is on the disk
before the row that names it is committed; one without a row is left from a crash, and goes at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.events.clock import LENGTH
from mtkd_edge.device.events.naming import FOLDER, picture_names
from mtkd_edge.device.overlay import scaled_heat
from mtkd_edge.errors import DataError
from mtkd_edge.frames import FrameSpec, Photo, to_8bit
from mtkd_edge.threshold import Threshold

QUALITY = 90
SYNCING = 8
LONGEST = 1920
"""A photo's longer side, in pixels: a larger one is shrunk, as evidence for people and not for scoring again."""


class Pictures(msgspec.Struct, frozen=True):
    """Coded pictures of one event, empty where there are none."""

    image: bytes = b""
    heat: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return len(self.image) + len(self.heat)


def code(photo: Photo | None, values: NDArray[np.float32] | None, spec: FrameSpec, level: Threshold) -> Pictures:
    """Photo [H, W, 3] RGB and map [h, w] -> JPEG and PNG. Raises DataError where OpenCV cannot code them."""
    image = heat = b""
    if photo is not None and photo.ndim == 3 and photo.shape[2] == 3:
        scale = min(1.0, LONGEST / max(photo.shape[:2]))
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        small = photo if scale == 1 else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        shown = to_8bit(small, spec.white)  # type: ignore[arg-type]  # cv2's types lose that of the photo
        # a reversed view would be copied pixel by pixel
        image = _coded(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if values is not None and np.isfinite(values).all():
        heat = _coded(".png", (scaled_heat(values, level.map) * 65535 + 0.5).astype(np.uint16), [])
    return Pictures(image, heat)


def names(event: str, pictures: Pictures) -> tuple[str, str]:
    """Paths of image and heat map below the store's folder, empty where there is no picture."""
    image, heat = picture_names(event)
    return image if pictures.image else "", heat if pictures.heat else ""


def write(root: Path, event: str, pictures: Pictures) -> list[Path]:
    """Write the pictures -> their paths, yet to be synced. Raises OSError; half-written ones are the caller's."""
    paths = []
    for name, data in zip(names(event, pictures), (pictures.image, pictures.heat), strict=True):
        if name:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            paths.append(path)
    return paths


def sync(paths: Sequence[Path], folders: Sequence[Path]) -> None:
    """Bring files to the disk, then the names in folders. Raises OSError.

    Eight at a time: a file system then commits them together, in a seventh of the time that one after the other takes.
    """
    with ThreadPoolExecutor(SYNCING, "sync") as pool:
        # a list, so that an error of any of them is raised here
        list(pool.map(_sync, paths))
        list(pool.map(_sync, folders))


def folders(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Those whose names lead from the store's folder to pictures: its own, that of all pictures, those of the paths."""
    return [root, root / FOLDER, *{path.parent for path in paths}] if paths else []


def remove(root: Path, names_: tuple[str, ...]) -> None:
    """Delete pictures, and their folder once it is empty. Raises OSError; one that is gone already is no error."""
    for name in filter(None, names_):
        path = root / name
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and next(path.parent.iterdir(), None) is None:
            path.parent.rmdir()


def orphans(root: Path, events: set[str]) -> list[Path]:
    """Pictures of no event that there is, left by a crash between picture and row, or between row and picture."""

    def belongs(path: Path) -> bool:
        event = path.name[:LENGTH]
        return event in events and path.relative_to(root).as_posix() in picture_names(event)

    found = (root / FOLDER).glob("*/*") if (root / FOLDER).is_dir() else iter(())
    return [path for path in found if not belongs(path)]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _coded(kind: str, picture: cv2.typing.MatLike, options: list[int]) -> bytes:
    try:
        coded, data = cv2.imencode(kind, np.ascontiguousarray(picture), options)
    except cv2.error as error:
        raise DataError(f"a picture of {list(picture.shape)} cannot be coded: {error.err}") from error
    if not coded:
        raise DataError(f"a picture of {list(picture.shape)} cannot be coded as {kind[1:].upper()}")
    return data.tobytes()
