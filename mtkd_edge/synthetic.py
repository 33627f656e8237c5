"""Pseudo-defects: paste a scratch, a spot, a stain, a patch or a worn area into a frame of a good part.

They stand in for defects nobody has photographed yet: in training (the student must not follow them) and in the gate of
an INT8 build. They are drawn in a window around the defect, and are the same for the same generator. Sizes are
log-uniform, so that small defects, the hard ones, are as frequent as large ones.

This file knows nothing of networks or scores, and no real defect was looked at to choose its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.frames import Frame, cv2
from mtkd_edge.synthetic_shapes import Plane, Shape, clouds, scratch, spot, worn

Mask = NDArray[np.bool_]
Paint = Callable[[Frame, Shape, np.random.Generator], Plane]

SMALLEST, LARGEST = 0.001, 0.03
"""The area a defect aims at, as parts of the frame's area."""
VISIBLE = 4
"""Pixels that change by fewer grey levels stay what they were: nobody could see them, so they are not in the mask."""


def paste_defect(frame: Frame, rng: np.random.Generator) -> tuple[Frame, Mask]:
    """frame [H, W, 3] uint8 -> a copy with one defect in it, and the mask [H, W] of the pixels that changed.

    A grey frame (three equal channels) stays grey. The mask is never empty: where a kind of defect leaves no trace
    (a bright spot on white), another is tried. Margins, rows and columns of 0 around the picture, stay as they are, and
    sizes are parts of the rest. The input is not changed. Raises ValueError for another shape or type.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or min(frame.shape[:2]) < 32:
        raise ValueError(f"a frame is [H, W, 3] of uint8, at least 32 x 32, got {list(frame.shape)} of {frame.dtype}")
    if (picture := picture_in(frame)) != (slice(0, frame.shape[0]), slice(0, frame.shape[1])):
        result, mask = frame.copy(), np.zeros(frame.shape[:2], np.bool_)
        result[picture], mask[picture] = paste_defect(frame[picture], rng)
        return result, mask
    height, width = frame.shape[:2]
    smallest, largest = SMALLEST * height * width, LARGEST * height * width
    for _ in range(8):
        draw, paint = KINDS[int(rng.integers(len(KINDS)))]
        area = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        shape = draw(height, width, area, rng)
        result, mask = _blend(frame, shape, paint(frame, shape, rng))
        if mask.sum() >= smallest / 2:
            return result, mask
    shape = spot(height, width, largest, rng)
    return _blend(frame, shape, np.where(frame[shape.window] < 128, 220, 35).astype(np.float32))


def picture_in(frame: Frame) -> tuple[slice, slice]:
    """The frame without margins, or all of it where less than 32 pixels a side would be left."""
    rows, columns = np.flatnonzero(frame.any(axis=(1, 2))), np.flatnonzero(frame.any(axis=(0, 2)))
    if min(np.ptp(each) if each.size else 0 for each in (rows, columns)) < 31:
        return slice(0, frame.shape[0]), slice(0, frame.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _blend(frame: Frame, shape: Shape, painted: Plane) -> tuple[Frame, Mask]:
    """Lay `painted` [h, w, 3] over the shape's window of the frame, as opaque as the shape says."""
    before = frame[shape.window]
    if (frame == frame[..., :1]).all():
        painted = painted.mean(axis=2, keepdims=True)
    mixed = before + shape.alpha[..., None] * (painted - before)
    # not 0, which is the margins' alone in a letterboxed frame
    after = np.clip(np.rint(mixed), 1, 255).astype(np.uint8)
    changed = np.abs(after.astype(np.int16) - before).max(axis=2) >= VISIBLE
    result, mask = frame.copy(), np.zeros(frame.shape[:2], np.bool_)
    result[shape.window] = np.where(changed[..., None], after, before)
    mask[shape.window] = changed
    return result, mask


def _tint(rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
    """A factor near 1 for each channel."""
    return np.exp(rng.normal(0, spread, 3)).astype(np.float32)


def _groove(frame: Frame, shape: Shape, rng: np.random.Generator) -> Plane:
    """A cut that catches the light: one flank bright, the other dark, over a floor that is either."""
    before, alpha = frame[shape.window].astype(np.float32), shape.alpha
    turn = rng.uniform(0, 2 * np.pi)
    slope_y, slope_x = np.gradient(alpha)
    relief = np.asarray(slope_x * math.cos(turn) + slope_y * math.sin(turn))
    floor = rng.choice([-1, 1]) * rng.uniform(25, 90)
    return np.asarray(before + floor + rng.uniform(40, 140) * relief[..., None], np.float32)


def _foreign(frame: Frame, shape: Shape, rng: np.random.Generator) -> Plane:
    """Foreign matter or a hole: another brightness, a little of the surface's texture, shading across."""
    before = frame[shape.window].astype(np.float32)
    mean = before.mean(axis=(0, 1))
    step = rng.uniform(35, 130) * (rng.choice([-1, 1]) if 60 < mean.mean() < 195 else np.sign(127.5 - mean.mean()))
    body = (mean + step) * _tint(rng, 0.12) + rng.uniform(0.3, 0.9) * (before - mean)
    grain = clouds(shape.alpha.shape, rng)[..., None] * rng.uniform(5, 20)
    across = np.linspace(-1, 1, shape.alpha.shape[1], dtype=np.float32)[None, :, None] * rng.normal(0, 12)
    return np.asarray(body + grain + across, np.float32)


def _stain(frame: Frame, shape: Shape, rng: np.random.Generator) -> Plane:
    """A translucent film, darker where it dried at the rim."""
    before, alpha = frame[shape.window].astype(np.float32), shape.alpha
    rim = 4 * alpha * (1 - alpha)
    film = rng.uniform(0.5, 0.88) * (1 + 0.06 * clouds(alpha.shape, rng)) * (1 - rng.uniform(0, 0.35) * rim)
    return np.asarray(before * film[..., None] * _tint(rng, 0.1), np.float32)


def _elsewhere(frame: Frame, shape: Shape, rng: np.random.Generator) -> Plane:
    """A piece of the same frame from another place, mirrored and a little brighter or darker."""
    height, width = shape.alpha.shape
    top = int(rng.integers(0, frame.shape[0] - height + 1))
    left = int(rng.integers(0, frame.shape[1] - width + 1))
    piece = frame[top : top + height, left : left + width].astype(np.float32)
    piece = piece[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    return np.asarray(piece * rng.uniform(0.8, 1.25) + rng.normal(0, 8), np.float32)


def _rubbed(frame: Frame, shape: Shape, rng: np.random.Generator) -> Plane:
    """A surface gone wrong: its texture smeared or roughened, its brightness uneven."""
    before = frame[shape.window].astype(np.float32)
    smooth = np.asarray(cv2.blur(before, (7, 7)), np.float32)
    keep = rng.choice([rng.uniform(0, 0.4), rng.uniform(1.6, 2.8)])
    uneven = clouds(shape.alpha.shape, rng)[..., None] * rng.uniform(10, 35) + rng.choice([-1, 1]) * rng.uniform(8, 40)
    return np.asarray((smooth + keep * (before - smooth) + uneven) * _tint(rng, 0.04), np.float32)


KINDS: tuple[tuple[Callable[[int, int, float, np.random.Generator], Shape], Paint], ...] = (
    (scratch, _groove),
    (spot, _foreign),
    (spot, _elsewhere),
    (spot, _stain),
    (worn, _stain),
    (worn, _rubbed),
)
