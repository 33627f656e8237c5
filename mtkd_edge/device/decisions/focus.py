"""Which part of the picture counts, and how large a pixel is.

`look` areas are where defects matter (all, without any), `ignore` areas where they do not; `mask` is a picture that is
white where to look. Rectangles are (left, top, width, height) and polygons lists of (x, y), both as fractions of the
picture, so that they survive another resolution.

On the map: a cell counts if at least half of it does. On the score: cells that do not count are lowered to the lowest
value of those that do (never raised), and the score is pooled from that map by its one definition (`score.pool`), over
the same number of cells as before. So no score grows by looking at less, and the promise made with the threshold, at
most so many false alarms, still holds. NaN stays NaN, wherever it is: a broken map is invalid, not half right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import frames, score
from mtkd_edge.device.scoring import Scored
from mtkd_edge.errors import UsageError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import ScoreSpec
from mtkd_edge.verdict import Region

FINEST = 1024
"""The longer side, in pixels, on which areas are drawn: far finer than any map."""
EMPTY = "the areas to look at hold no cell of the map"

Area = tuple[float | tuple[float, float], ...]
"""Four numbers, a rectangle; or three or more (x, y), a polygon."""
Mask = NDArray[np.uint8]


class FocusSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to look, as fractions of the picture from 0 to 1; `mm_per_pixel` of the source's own pixels."""

    look: tuple[Area, ...] = ()
    ignore: tuple[Area, ...] = ()
    mask: str = ""
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < 1e6:
            raise ValueError(f"mm_per_pixel is a number above 0, got {self.mm_per_pixel}")
        for area in (*self.look, *self.ignore):
            _corners(area)

    def below(self, base: Path) -> FocusSpec:
        """The same with the path of the mask starting at `base`."""
        return msgspec.structs.replace(self, mask=str(base / self.mask)) if self.mask else self

    @property
    def everything(self) -> bool:
        """Whether the whole picture counts."""
        return not (self.look or self.ignore or self.mask)


class Focus:
    """A focus, ready for the maps of one engine. Raises UsageError where it leaves nothing, DataError for the mask."""

    def __init__(self, wanted: FocusSpec, frame: FrameSpec, scoring: ScoreSpec) -> None:
        self._wanted, self._scoring = wanted, scoring
        self._frame = FrameSpec(frame.height, frame.width)  # a map is of the photo, however that lies in its frame
        self._picture = frames.to_8bit(frames.read(Path(wanted.mask)), frame.white)[:, :, 0] if wanted.mask else None
        self._cells: dict[tuple[int, int, int, int], NDArray[np.bool_]] = {}
        if not self.cells((frame.height, frame.width), (scoring.height, scoring.width)).any():
            raise UsageError(EMPTY, "make `look` larger or `ignore` smaller; fractions run from 0 to 1")

    def __call__(self, scored: Scored) -> Scored:
        """The same frame with the map and the score that the focus leaves."""
        photo = scored.prepared.captured.photo
        if scored.values is None or photo is None:
            return scored
        kept = self.cells((photo.shape[0], photo.shape[1]), (scored.values.shape[0], scored.values.shape[1]))
        if not kept.any():
            return replace(scored, values=None, score=None, problem=EMPTY)
        values = lowered(scored.values, kept)
        return replace(scored, values=values, score=float(score.pool(self._scoring, values[None])[0]))

    def cells(self, photo: tuple[int, int], grid: tuple[int, int]) -> NDArray[np.bool_]:
        """Which cells of a map [h, w] of a photo of (height, width) count."""
        key = (*photo, *grid)
        if key not in self._cells:
            if len(self._cells) > 16:  # a camera with ever new sizes must not fill the memory
                self._cells.clear()
            drawn = draw(self._wanted, photo, self._picture)
            frame = frames.to_frame(np.repeat(drawn[:, :, None], 3, 2), self._frame)[:, :, 0]
            shrunk = cv2.resize(frame, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
            self._cells[key] = np.asarray(shrunk >= 128)
        return self._cells[key]


def lowered(values: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Map [h, w] with the cells that do not count lowered to the least value that does, where they are above it."""
    least = np.min(values[kept])
    return np.where(kept, values, np.minimum(values, least)).astype(np.float32)


def draw(wanted: FocusSpec, photo: tuple[int, int], picture: Mask | None = None) -> Mask:
    """The areas as a picture with the aspect of `photo` (height, width): 255 where to look, 0 elsewhere."""
    scale = min(1.0, FINEST / max(photo))
    height, width = max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))
    drawn = np.full((height, width), 0 if wanted.look else 255, np.uint8)
    for areas, value in ((wanted.look, 255), (wanted.ignore, 0)):
        for area in areas:
            corners = np.asarray(_corners(area)) * (width, height) * 16 - 8  # pixel centres are at whole numbers
            cv2.fillPoly(drawn, [np.round(corners).astype(np.int32)], value, shift=4)
    if picture is not None:
        drawn = np.minimum(drawn, cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)).astype(np.uint8)
    return drawn


def in_mm(regions: Sequence[Region], mm_per_pixel: float | None) -> tuple[tuple[float, ...], ...]:
    """(left, top, width, height, area) of each region in mm and mm²; nothing without a scale."""
    if mm_per_pixel is None:
        return ()
    rows = (((*region.box, region.area * mm_per_pixel), mm_per_pixel) for region in regions)
    return tuple(tuple(round(value * scale, 4) for value in row) for row, scale in rows)


def _corners(area: Area) -> list[tuple[float, float]]:
    """The corners of a rectangle or polygon. Raises ValueError for one outside the picture or without an inside."""
    numbers = [value for value in area if isinstance(value, (int, float))]
    corners = [value for value in area if isinstance(value, tuple)]
    if len(numbers) == len(area) == 4:
        left, top, width, height = numbers
        if min(width, height) <= 0:
            raise ValueError(f"a rectangle is left, top, width, height with a width and a height, got {list(area)}")
        corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    elif len(corners) != len(area) or len(corners) < 3:
        raise ValueError(f"an area is four numbers or at least three corners (x, y), got {list(area)}")
    if any(not -1e-9 <= value <= 1 + 1e-9 for corner in corners for value in corner):
        raise ValueError(f"an area lies inside the picture, as fractions from 0 to 1, got {list(area)}")
    return corners
