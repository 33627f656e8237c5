"""Where on the part: the connected pieces of the score map that lie above the map threshold, in pixels of the photo."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.frames import map_to_photo
from mtkd_edge.verdict import Region

FINEST = 250_000
"""A larger photo is searched on a grid of this many points: the map is far coarser than that anyway."""


def find(values: NDArray[np.float32], level: float, photo: tuple[int, int], most: int = 20) -> tuple[Region, ...]:
    """Map [h, w] of a photo -> the `most` regions with the highest peaks above `level`, highest first.

    `photo` is its (height, width); boxes lie inside it. Pixels that touch at a corner
    belong together. A map with NaN has no regions.
    """
    if not values.max() > level:  # also where the maximum is NaN
        return ()
    height, width = photo
    grid = _grid(values.shape[:2], height, width)
    over = map_to_photo(values, grid[0], grid[1])
    mask = (over > level).astype(np.uint8)
    count, found, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    labels = found.astype(np.int32, copy=False)
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, labels[mask > 0], over[mask > 0])
    order = np.argsort(-peaks[1:], kind="stable")[:most] + 1  # label 0 is what lies below
    return tuple(_region(int(label), over, labels, stats[label].tolist(), (height, width)) for label in order)


def _grid(cells: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """The photo's size, shrunk to about FINEST points, or enlarged so that no cell of the map is skipped."""
    most = math.sqrt(FINEST / (height * width))
    scale = min(max(min(1.0, most), cells[0] / height, cells[1] / width), 2 * most)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _region(
    label: int, over: NDArray[np.float32], labels: NDArray[np.int32], stat: list[int], photo: tuple[int, int]
) -> Region:
    left, top, width, height, area = stat
    box = slice(top, top + height), slice(left, left + width)
    window = np.where(labels[box] == label, over[box], -np.inf)
    y, x = np.unravel_index(int(window.argmax()), window.shape)
    sy, sx = photo[0] / over.shape[0], photo[1] / over.shape[1]
    x0, y0 = math.floor(left * sx), math.floor(top * sy)
    x1, y1 = min(photo[1], math.ceil((left + width) * sx)), min(photo[0], math.ceil((top + height) * sy))
    return Region(
        box=(x0, y0, x1 - x0, y1 - y0),
        area=max(1, round(area * sx * sy)),
        peak=float(window.max()),
        peak_at=(min(photo[1] - 1, int((left + x + 0.5) * sx)), min(photo[0] - 1, int((top + y + 0.5) * sy))),
    )
