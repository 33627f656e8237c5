"""How wide photos are for their height: a model knows the shapes that it was trained on, and tells others.

A camera that is set to another picture than the one the training photos came from fits into the model's frame all the
same, but squashed, or with margins that no good part ever had. Its scores then say little, and nothing else shows it.

This file knows nothing of frames, networks or sources.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

ALIKE = 1.1
"""Widths / heights within this factor of each other are one shape."""
RARE = 0.05
"""The share of the photos, at either end, whose shape counts as a stray."""


class Aspects(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least and the greatest width / height of the photos that a model was trained on, strays left out."""

    least: float
    greatest: float

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.greatest < float("inf"):
            raise ValueError(f"aspects want 0 < least <= greatest, got {self.least} and {self.greatest}")

    def other(self, height: int, width: int) -> str:
        """What to say of a photo of this size, in pixels: "" where its shape is one of these, or nearly one."""
        aspect = width / height
        if self.least / ALIKE <= aspect <= self.greatest * ALIKE:
            return ""
        known = f"{self.least:.2f}"
        if self.greatest > self.least * 1.01:
            known += f" to {self.greatest:.2f}"
        return f"{width} x {height} pixels are {aspect:.2f} times as wide as high, the training's photos {known} times"


def aspects_of(sizes: Iterable[tuple[int, int]]) -> Aspects:
    """Of photos of these heights and widths. Raises ValueError where there is none."""
    found = np.array([width / height for height, width in sizes])
    if not found.size:
        raise ValueError("aspects of no photos")
    least, greatest = np.quantile(found, (RARE, 1 - RARE), method="nearest")
    return Aspects(float(least), float(greatest))
