"""How a run turns photos into frames: what is asked for, or what suits the shapes of the good photos.

Squashed to a square, what is round on a part is long in the frame, and a defect along the longer side gets thinner. So
`auto` keeps the photos' shape, with as many pixels as a square of `size` has: in a frame of that shape where they have
one in common, as those of one camera do, and in a letterbox where they differ. Margins hold nothing, so a letterbox is
larger: a photo covers size x size pixels of it on average.
"""

from __future__ import annotations

import math

import numpy as np

from mtkd_edge.aspect import ALIKE
from mtkd_edge.dataset import Dataset
from mtkd_edge.frames import CELL, FrameSpec
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.letterbox import View


def frame_spec(config: TrainConfig, listing: Dataset) -> FrameSpec:
    """The frames of this run."""
    aspects = np.array([photo.width / photo.height for photo in listing.photos])
    auto = config.fit == "auto" and config.method == "map"
    if config.fit == "letterbox" or (auto and differ(aspects)):
        side = boxed_side(config.size, aspects)
        return FrameSpec(side, side, "letterbox", listing.white)
    height, width = shaped(config.size, float(np.median(aspects))) if auto else (config.size, config.size)
    return FrameSpec(height, width, "squash", listing.white)


def view_of(config: TrainConfig, spec: FrameSpec) -> View:
    """How networks look at such frames. Photos have as many cells in a letterbox as in a squashed frame."""
    return View((config.size // CELL, config.size // CELL) if spec.fit == "letterbox" else None)


def differ(aspects: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    """Whether more than a tenth of the photos, by width / height, have another shape than the median."""
    away = np.abs(np.log(aspects / np.median(aspects)))
    return bool(np.quantile(away, 0.9) > math.log(ALIKE))


def shaped(size: int, aspect: float) -> tuple[int, int]:
    """Height and width, multiples of 32, of about size x size pixels that are about `aspect` times as wide as high.

    Of the multiples next to either side those that keep the shape best; how many pixels they have counts nearly as
    much.
    """

    def apart(sides: tuple[int, int]) -> float:
        height, width = sides
        return abs(math.log(width / height / aspect)) + 0.9 * abs(math.log(width * height / size**2))

    exact = size * aspect**-0.5 / 32, size * aspect**0.5 / 32
    near = [{32 * max(1, cells) for cells in (math.floor(side), math.ceil(side))} for side in exact]
    return min(((height, width) for height in sorted(near[0]) for width in sorted(near[1])), key=apart)


def boxed_side(size: int, aspects: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
    """The least side, a multiple of 32, of which such photos cover size x size pixels on average."""
    covered = float(np.minimum(aspects, 1 / aspects).mean())
    return 32 * math.ceil(size / math.sqrt(covered) / 32 - 1e-9)
