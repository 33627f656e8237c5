"""The part of the demo line: a turned steel flange with a bore, six bolt holes and a laser marking, under a ring light.

A part is drawn in three layers over a conveyor belt, photographed with a pose of its own, and given sensor noise:

    metal  brightness of the steel [S, S]: concentric turning marks, the highlight of turned faces, edges, a groove
    cover  how much of the belt is hidden [S, S]: 1 on the part, 0 beside it and in its holes
    film   colour of what lies on the steel [S, S, 3]: marking, oil

This file knows nothing of defects, files or videos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

SIZE = 320
RADIUS, GROOVE, BORE, BOLTS, HOLE = 128.0, 91.0, 36.0, 108.0, 9.5
"""Radii in pixels: flange, ring groove, bore, circle of bolt holes, one hole."""
HOLES = 6
STEEL = np.array([0.97, 1.0, 1.02], np.float32)
"""Colour of the steel, as RGB factors."""
BELT = np.array([46, 58, 60], np.float32)
"""Colour of the conveyor, RGB."""
FINE = 4
"""Text and lines are drawn this much larger, then shrunk."""


class Layers(NamedTuple):
    """One part before the camera; see the module. Never changed in place."""

    metal: Plane
    cover: Plane
    film: Plane


class Pose(NamedTuple):
    """How a part lies (pixels, radians, a factor), how it is lit, and which column of the belt it lies on.

    `exposure` is a factor; the light falls by `gradient_x` to the right and by `gradient_y` downwards, from the middle
    to the edge.
    """

    x: float
    y: float
    angle: float
    scale: float
    exposure: float
    gradient_x: float
    gradient_y: float
    belt: int


AXIS = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
Y, X = np.meshgrid(AXIS, AXIS, indexing="ij")
R, ANGLE = np.hypot(X, Y), np.arctan2(Y, X)


def disc(radius: float, x: float = 0, y: float = 0) -> Plane:
    """1 inside a circle, 0 outside, with an edge one pixel soft."""
    return np.asarray(np.clip(radius + 0.5 - np.hypot(X - x, Y - y), 0, 1), np.float32)


def hole_at(index: int) -> tuple[float, float]:
    """Centre (x, y) of a bolt hole, from the middle of the part."""
    angle = 2 * math.pi * index / HOLES + math.pi / 6
    return BOLTS * math.cos(angle), BOLTS * math.sin(angle)


# distance from each bolt hole, and the direction seen from it: the same for every part
FROM_HOLE = [(np.hypot(X - x, Y - y), np.arctan2(Y - y, X - x)) for x, y in map(hole_at, range(HOLES))]


def marking(upper: str, lower: str, code: int) -> Plane:
    """The laser marking: two lines of text, a data code and an arrow; 1 where the laser burnt."""
    canvas = np.zeros((SIZE * FINE, SIZE * FINE), np.uint8)
    for text, y in ((upper, -54), (lower, 66)):
        size, _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 2.0, 7)
        origin = (SIZE * FINE // 2 - size[0] // 2, int((SIZE / 2 + y) * FINE))
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 2.0, (255,), 7, cv2.LINE_AA)
    cells = np.random.default_rng(code).integers(0, 2, (10, 10)).astype(np.uint8)
    cells[:, 0], cells[-1] = 1, 1  # the solid borders by which such codes are found
    cells[0], cells[:, -1] = np.arange(10) % 2 == 0, np.arange(10) % 2
    x, y = (SIZE // 2 + 48) * FINE, (SIZE // 2 - 13) * FINE
    canvas[y : y + 104, x : x + 104] = 255 * cv2.resize(cells, (104, 104), interpolation=cv2.INTER_NEAREST)
    tip = ((SIZE // 2 - 72) * FINE, SIZE // 2 * FINE)
    cv2.arrowedLine(canvas, (tip[0] + 88, tip[1]), tip, (255,), 9, cv2.LINE_AA, 0, 0.4)
    return np.asarray(cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 255, np.float32)


def grain(shape: tuple[int, int], along: float, across: float, rng: np.random.Generator) -> Plane:
    """Noise smoothed by `along` columns and `across` rows, standard deviation 1."""
    noise = rng.standard_normal(shape, np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=along, sigmaY=across), np.float32)
    return noise / max(float(noise.std()), 1e-6)


def uneven(shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Slow noise, about 30 pixels wide, standard deviation about 1."""
    coarse = grain((shape[0] // 10, shape[1] // 10), 3, 3, rng)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def turned(rng: np.random.Generator) -> Plane:
    """Marks of the lathe: fine rings, each changing slowly along its way round. Standard deviation about 1."""
    rings = grain((SIZE, 360), 24, 0.5, rng)
    rings += 1.2 * grain((SIZE, 1), 0.5, 0.8, rng)
    lookup = ((ANGLE + np.pi) * (359 / (2 * np.pi))).astype(np.float32)
    seamless = np.hstack([rings[:, :340], cv2.addWeighted(rings[:, 340:], 0.5, rings[:, 19::-1], 0.5, 0)])
    return np.asarray(cv2.remap(seamless, lookup, (R * 1.4).astype(np.float32), cv2.INTER_LINEAR), np.float32) / 1.6


def bevel(radius: float, width: float, light: float) -> Plane:
    """Brightness of a ring-shaped edge: bright where it faces the light, dark where it turns away."""
    ridge = np.exp(-0.5 * ((R - radius) / width) ** 2)
    return np.asarray(ridge * (0.35 + 0.65 * np.cos(ANGLE - light)), np.float32)


def make(pose: Pose, burnt: Plane, rng: np.random.Generator, depths: Sequence[float] = (1.0,) * HOLES) -> Layers:
    """One part. `burnt`: its marking; `depths`: of each bolt hole, 1 drilled through, 0 not drilled at all."""
    light = -2.2 - pose.angle
    glare = np.abs(np.cos(ANGLE - light)) ** 6
    metal = 138 + 34 * glare + 7 * turned(rng) + 5 * uneven((SIZE, SIZE), rng)
    metal += 55 * bevel(RADIUS - 3, 2.2, light) - 40 * bevel(BORE + 3, 2.0, light)
    metal -= 46 * np.exp(-0.5 * ((R - GROOVE) / 2.4) ** 2) * (1 + 0.25 * np.cos(ANGLE - light))
    metal += 26 * bevel(GROOVE + 4, 1.2, light) - 26 * bevel(GROOVE - 4, 1.2, light)
    cover = disc(RADIUS) * (1 - disc(BORE))
    for index, depth in enumerate(depths):
        if depth == 0:
            continue
        away, bearing = FROM_HOLE[index]
        sink = np.exp(-0.5 * ((away - HOLE - 1.5) / 1.5) ** 2)
        metal -= 48 * sink * np.cos(bearing - light)
        inside = np.clip(HOLE + 0.5 - away, 0, 1)
        if depth == 1:
            cover *= 1 - inside
        else:
            metal *= 1 - 0.75 * depth * inside
    burnt = burnt * (0.62 + 0.05 * float(rng.standard_normal()))
    film = 1 - burnt[..., None] * np.array([0.92, 0.95, 1.0], np.float32)
    return Layers(metal.astype(np.float32), cover.astype(np.float32), film.astype(np.float32))


def belt(rng: np.random.Generator) -> Plane:
    """A long piece of the conveyor [S, 4 S]: woven rubber with dust, brightness about 1."""
    y, x = np.mgrid[0:SIZE, 0 : 4 * SIZE].astype(np.float32)
    weave = np.sin(x * 0.9 + 0.6 * np.sin(y * 0.45)) * np.sin(y * 0.9)
    shape = (SIZE, 4 * SIZE)
    dust = np.clip(grain(shape, 0.8, 0.8, rng) - 2.6, 0, None)
    texture = 1 + 0.07 * weave + 0.05 * grain(shape, 1, 1, rng) + 0.06 * uneven(shape, rng) + 0.5 * dust
    return np.asarray(texture, np.float32)


def pose_of(rng: np.random.Generator) -> Pose:
    """A part as the fixture and the lamp leave it: a few pixels, degrees and per cent off."""
    return Pose(
        x=float(np.clip(rng.normal(0, 2), -5, 5)),
        y=float(np.clip(rng.normal(0, 2), -5, 5)),
        angle=float(np.clip(rng.normal(0, 0.03), -0.07, 0.07)),
        scale=float(np.clip(rng.normal(1, 0.006), 0.985, 1.015)),
        exposure=float(rng.normal(1, 0.02)),
        gradient_x=float(rng.normal(0.10, 0.02)),
        gradient_y=float(rng.normal(0.05, 0.02)),
        belt=int(rng.integers(0, 3 * SIZE)),
    )


def expose(layers: Layers, pose: Pose, conveyor: Plane) -> Plane:
    """What reaches the sensor: RGB [S, S, 3] in 0..255 as float32, without noise."""
    cos, sin = math.cos(pose.angle) * pose.scale, math.sin(pose.angle) * pose.scale
    middle = (SIZE - 1) / 2
    matrix = np.array([[cos, -sin, middle * (1 - cos) + middle * sin + pose.x], [sin, cos, 0.0]])
    matrix[1, 2] = middle * (1 - cos) - middle * sin + pose.y
    stack = np.dstack([layers.metal[..., None] * layers.film * STEEL, layers.cover])
    edge = cv2.BORDER_REPLICATE
    moved = np.asarray(cv2.warpAffine(stack, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=edge), np.float32)
    cover = moved[..., 3:]
    # the lamp is above and to the left: the shadow falls down and to the right
    fallen = np.roll(moved[..., 3], (5, 6), axis=(0, 1))
    shadow = 1 - 0.6 * np.asarray(cv2.GaussianBlur(fallen, (0, 0), 5), np.float32)
    ground = (conveyor[:, pose.belt : pose.belt + SIZE] * shadow)[..., None] * BELT
    picture = ground * (1 - cover) + moved[..., :3] * cover
    lamp = pose.exposure * (1 - (pose.gradient_x * X + pose.gradient_y * Y) / middle)
    blurred = cv2.GaussianBlur(picture * lamp[..., None], (0, 0), 0.6)
    return np.asarray(blurred, np.float32)


def sensor(picture: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise that grows with the light, then 8 bits."""
    noise = rng.standard_normal((*picture.shape[:2], 1), np.float32)
    colour = cv2.resize(rng.standard_normal((SIZE // 2, SIZE // 2, 3), np.float32), (SIZE, SIZE))
    noisy = picture + np.sqrt(0.5 + 0.01 * np.maximum(picture, 0)) * (noise + 0.5 * colour)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)
