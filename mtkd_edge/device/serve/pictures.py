"""A frame or an event as a JPEG for the page: the photo, its heat and its boxes; drawn when somebody looks, and once.

However many look, a source is drawn at most every PACE seconds: the rest get the picture that is there.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import frames
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.overlay import blend, scaled_heat
from mtkd_edge.device.serve.viewfinder import Seen, Viewfinder
from mtkd_edge.errors import DataError
from mtkd_edge.frames import FrameSpec, Photo, map_to_photo, to_8bit
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import Region

PACE = 0.2
LONGEST = 960
QUALITY = 80
PEN = (86, 180, 233)
"""The boxes' colour, as in `overlay.py`: apart from blue and orange for every kind of colour vision."""


def draw(
    photo: Photo, values: NDArray[np.float32] | None, regions: tuple[Region, ...], spec: FrameSpec, level: Threshold
) -> bytes:
    """Photo [H, W, 3] and map [h, w] -> JPEG of at most LONGEST pixels a side. Raises DataError."""
    scale = min(1.0, LONGEST / max(photo.shape[:2]))
    width, height = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    small = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else photo
    picture = to_8bit(small, spec.white)  # type: ignore[arg-type]  # cv2's types lose that of the photo
    if values is not None and np.isfinite(values).all():
        picture = blend(picture, scaled_heat(map_to_photo(values, height, width), level.map))
    picture = np.ascontiguousarray(picture[:, :, ::-1])
    for region in regions:
        left, top, across, down = (round(side * scale) for side in region.box)
        pen = max(1, max(width, height) // 320)
        cv2.rectangle(picture, (left, top), (left + across, top + down), (0, 0, 0), 3 * pen)
        cv2.rectangle(picture, (left, top), (left + across, top + down), PEN[::-1], 2 * pen)
    coded, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not coded:
        raise DataError(f"a picture of {list(picture.shape)} cannot be coded as JPEG")
    return data.tobytes()


def of_event(root: Path, event: Event, spec: FrameSpec, level: Threshold) -> bytes:
    """An event's photo with the heat that was written beside it. Raises DataError where the photo is gone."""
    photo = frames.read(root / event.image)
    values = None
    if event.heat and (root / event.heat).is_file():
        grey = cv2.imread(str(root / event.heat), cv2.IMREAD_UNCHANGED)
        # as `events/pictures.py` writes it: half of full scale is the map threshold
        values = None if grey is None else _map_values(grey, level.map)
    return draw(photo, values, fitting(event, photo), spec, level)


def fitting(event: Event, photo: Photo) -> tuple[Region, ...]:
    """The regions in pixels of the photo, which may have been shrunk when it was kept; none where that is not known."""
    if not all(event.frame):
        return ()
    scales = (photo.shape[1] / event.frame[0], photo.shape[0] / event.frame[1]) * 2
    return tuple(
        msgspec.structs.replace(region, box=tuple(round(side * s) for side, s in zip(region.box, scales, strict=True)))
        for region in event.regions
    )


class Shutter:
    """Draws the newest frame of each source for whoever asks."""

    def __init__(self, viewfinder: Viewfinder, spec: FrameSpec, level: Threshold) -> None:
        self._viewfinder, self._spec, self._level = viewfinder, spec, level
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._drawn: dict[str, tuple[int, float, bytes]] = {}

    def picture(self, source: str) -> tuple[int, bytes] | None:
        """(number, JPEG) of the newest frame that has a photo, at most PACE seconds old; None before the first."""
        with self._guard:
            lock = self._locks.setdefault(source, threading.Lock())
        with lock:
            seen, drawn = self._viewfinder.seen(source), self._drawn.get(source)
            if drawn and (seen is None or seen.number == drawn[0] or time.monotonic() - drawn[1] < PACE):
                return drawn[0], drawn[2]
            if seen is None or seen.photo is None or seen.photo.ndim != 3:
                return (drawn[0], drawn[2]) if drawn else None
            self._drawn[source] = seen.number, time.monotonic(), self._draw(seen, seen.photo)
            return seen.number, self._drawn[source][2]

    def _draw(self, seen: Seen, photo: Photo) -> bytes:
        return draw(photo, seen.values, seen.verdict.regions, self._spec, self._level)


def _map_values(grey: cv2.typing.MatLike, level: float) -> NDArray[np.float32]:
    low, high = (0.0, 2 * level) if level > 0 else (level - 1, level + 1)
    return np.asarray(grey / 65535 * (high - low) + low, np.float32)
