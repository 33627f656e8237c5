"""How a run turns photos into frames: what is asked for, or what suits the shapes of the good photos.

Squashed to a square, photos of one shape are all distorted alike, and no pixel is wasted. Photos of several shapes are
distorted each in its own way: what is round on one is long on the next, and a thin defect in a long photo gets thinner.
So `auto` keeps their shapes where they differ. Margins hold nothing, so a letterbox is larger than `size`: a photo
covers size x size pixels of it on average, as many as it has in a squashed frame.
"""

from __future__ import annotations

import math

import numpy as np

from mtkd_edge.dataset import Dataset
from mtkd_edge.frames import CELL, FrameSpec
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.letterbox import View

ALIKE = 1.1
"""Aspect ratios within this factor of the median are one shape; so are those of a folder where a tenth is not."""


def frame_spec(config: TrainConfig, listing: Dataset) -> FrameSpec:
    """The frames of this run."""
    aspects = np.array([photo.width / photo.height for photo in listing.photos])
    fit = config.fit
    if fit == "auto":
        fit = "letterbox" if config.method == "map" and differ(aspects) else "squash"
    side = config.size if fit == "squash" else boxed_side(config.size, aspects)
    return FrameSpec(side, side, fit, listing.white)


def view_of(config: TrainConfig, spec: FrameSpec) -> View:
    """How networks look at such frames. Photos have as many cells in a letterbox as in a squashed frame."""
    return View((config.size // CELL, config.size // CELL) if spec.fit == "letterbox" else None)


def differ(aspects: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    """Whether photos of these widths / heights are of more than one shape."""
    away = np.abs(np.log(aspects / np.median(aspects)))
    return bool(np.quantile(away, 0.9) > math.log(ALIKE))


def boxed_side(size: int, aspects: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
    """The least side, a multiple of 32, of which such photos cover size x size pixels on average."""
    covered = float(np.minimum(aspects, 1 / aspects).mean())
    return 32 * math.ceil(size / math.sqrt(covered) / 32 - 1e-9)
