"""Outlines of pseudo-defects: how opaque a defect is at each pixel of a window, and where the window lies.

This file knows nothing of brightness or colour; `synthetic.py` paints.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.frames import cv2

Plane = NDArray[np.float32]
Points = NDArray[np.float64]
FINE = 4
"""Outlines are drawn this much larger and then shrunk, so that thin ones do not look like stairs."""


class Shape(NamedTuple):
    """`alpha` [h, w] in 0..1, and the window of the frame it covers."""

    alpha: Plane
    window: tuple[slice, slice]


def spot(height: int, width: int, area: float, rng: np.random.Generator) -> Shape:
    """A lump with a wavy outline: an ellipse whose radius carries a few random harmonics."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in range(1, 6):
        radius += rng.normal(0, 0.16 / math.sqrt(harmonic)) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.25)
    radius *= math.sqrt(area / np.pi / (radius**2).mean())
    stretch = math.exp(rng.normal(0, 0.35))
    outline = _turned(radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch, rng.uniform(0, np.pi))
    soft = rng.uniform(0.4, 1.1) * (area / 100) ** 0.25
    return _drawn([outline], np.zeros(0), soft, height, width, rng)


def scratch(height: int, width: int, area: float, rng: np.random.Generator) -> Shape:
    """One to three nearly parallel strokes, slightly bent, thicker in the middle than at their ends."""
    scale = math.sqrt(height * width) / 256
    strokes = int(rng.choice([1, 1, 1, 2, 3]))
    thickness = rng.uniform(1, 2.4) * scale
    length = min(area / thickness / strokes, 0.7 * min(height, width))
    along, turn, bend = np.linspace(-0.5, 0.5, 24), rng.uniform(0, np.pi), rng.normal(0, 0.4)
    lines = []
    for stroke in range(strokes):
        x = along * length * rng.uniform(0.6, 1)
        wander = np.cumsum(rng.normal(0, 0.1, along.size)) * thickness
        lines.append(_turned(x, bend * length * along**2 + wander + stroke * rng.uniform(2, 5) * thickness, turn))
    taper = thickness * np.clip(1.3 * np.sin(np.linspace(0.2, np.pi - 0.2, along.size)), 0.3, 1)
    return _drawn(lines, taper, 0.3 * scale, height, width, rng)


def worn(height: int, width: int, area: float, rng: np.random.Generator) -> Shape:
    """A cloud: smooth noise cut at the height that leaves `area`, fading towards the edge of its window."""
    side = min(int(2.2 * math.sqrt(area)) + 8, height, width)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    fall = 1 - axis[:, None] ** 2 - axis[None] ** 2
    cloud = clouds((side, side), rng) + 2 * fall
    level = float(np.quantile(cloud, 1 - min(1, area / side**2)))
    alpha = np.clip((cloud - level) / 0.5, 0, 1) * np.clip(4 * fall, 0, 1)
    return _placed(alpha.astype(np.float32), height, width, rng)


def clouds(shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """Smooth noise of `shape` [h, w] at several scales, mean about 0, standard deviation about 1."""
    height, width = shape
    total = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24):
        coarse = rng.normal(0, 3 / cells, (cells, cells)).astype(np.float32)
        total += np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    return total


def _turned(x: Points, y: Points, angle: float) -> Points:
    """[n] and [n] -> points [n, 2], turned by `angle`."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _drawn(
    lines: list[Points], thickness: Points, soft: float, height: int, width: int, rng: np.random.Generator
) -> Shape:
    """Polygons (no thickness) or strokes (one thickness a point) -> a shape; parts that leave the frame are cut off."""
    margin = 2 + 3 * soft + (thickness.max() if thickness.size else 0)
    every = np.concatenate(lines)
    low = every.min(axis=0) - margin
    size = np.ceil(every.max(axis=0) + margin - low).astype(int)
    w, h = min(int(size[0]), width), min(int(size[1]), height)
    canvas = np.zeros((h * FINE, w * FINE), np.uint8)
    for line in lines:
        points = np.rint((line - low) * FINE).astype(np.int32)
        if not thickness.size:
            cv2.fillPoly(canvas, [points], (255,))
            continue
        for start, end, thick in zip(points[:-1], points[1:], thickness[1:], strict=True):
            cv2.line(canvas, start.tolist(), end.tolist(), (255,), max(1, round(thick * FINE)))
    alpha = cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return _placed(np.asarray(cv2.GaussianBlur(alpha, (0, 0), soft), np.float32), height, width, rng)


def _placed(alpha: Plane, height: int, width: int, rng: np.random.Generator) -> Shape:
    """At random; up to a quarter of the window lies outside the frame and is cut off: edges get their share."""
    h, w = alpha.shape
    top = int(rng.integers(-(h // 4), height - h + h // 4 + 1))
    left = int(rng.integers(-(w // 4), width - w + w // 4 + 1))
    inside = alpha[max(0, -top) : height - top, max(0, -left) : width - left]
    top, left = max(0, top), max(0, left)
    return Shape(inside, np.s_[top : top + inside.shape[0], left : left + inside.shape[1]])
