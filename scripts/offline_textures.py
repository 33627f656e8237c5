"""Procedural textures for training the offline teachers: every picture is a function of (seed, index) and nothing else.

A family makes a field in 0..1 from random parameters; a palette, sometimes relief lighting, turns it into RGB. This
file knows no networks and reads no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Rng = np.random.Generator


def _field(values: NDArray[Any]) -> Field:
    return np.asarray(values, np.float32)


def _unit(values: NDArray[Any]) -> Field:
    """Stretch to 0..1; a constant becomes 0.5."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return np.full(values.shape, 0.5, np.float32)
    return ((values - low) / (high - low)).astype(np.float32)


def fractal(rng: Rng, size: int, coarse: float = 2, octaves: int = 5, gain: float = 0.55, stretch: float = 1) -> Field:
    """Value noise summed over octaves, [size, size] in 0..1; `stretch` > 1 draws it out along x."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = coarse * 2**octave
        rows, columns = min(size, round(cells) + 3), min(size, round(cells / stretch) + 3)
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        total += gain**octave * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return _unit(total)


def _plane(rng: Rng, size: int, low: float, high: float, warp: float = 0.6) -> tuple[Field, Field]:
    """Rotated, scaled, shifted and slightly bent coordinates: between `low` and `high` periods across the picture."""
    angle, periods = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(low), np.log(high)))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * periods
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    v = v * rng.uniform(0.6, 1.6)
    bend = rng.uniform(0, warp) if rng.random() < 0.5 else 0.0
    u, v = u + rng.uniform(0, 9) + bend * fractal(rng, size), v + rng.uniform(0, 9) + bend * fractal(rng, size)
    return u.astype(np.float32), v.astype(np.float32)


def _wave(phase: Field, rng: Rng) -> Field:
    """A wave of period 1 in 0..1: sine, triangle or bars."""
    sine = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    kind = rng.integers(3)
    if kind == 0:
        return _field(sine)
    if kind == 1:
        return _field(np.abs(2 * (phase % 1) - 1))
    return _field(np.clip((sine - rng.uniform(0.2, 0.8)) * 8 + 0.5, 0, 1))


def flat(rng: Rng, size: int) -> Field:
    """A plain surface, at most a slow gradient."""
    return fractal(rng, size, 1, 1)


def grating(rng: Rng, size: int) -> Field:
    """Parallel stripes."""
    return _wave(_plane(rng, size, 3, 24)[0], rng)


def cloud(rng: Rng, size: int) -> Field:
    """Fractal noise, from soft to rough."""
    return fractal(rng, size, rng.uniform(1, 8), 5, rng.uniform(0.35, 0.8))


def _nearest(rng: Rng, size: int) -> tuple[Field, Field, NDArray[np.intp]]:
    """Distances to the nearest and second nearest of some random points, and which one is nearest."""
    points = rng.uniform(-0.1, 1.1, (int(rng.integers(12, 110)), 2)).astype(np.float32) * size
    bend = rng.uniform(0, 8)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    y, x = y + bend * fractal(rng, size), x + bend * fractal(rng, size)
    square = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    two = np.sqrt(np.partition(square, 1, axis=-1)[..., :2])
    return two[..., 0], two[..., 1], square.argmin(-1)


def cells(rng: Rng, size: int) -> Field:
    """Voronoi cells, each with its own tone: grains, gravel."""
    first, second, which = _nearest(rng, size)
    tones = rng.random(int(which.max()) + 1).astype(np.float32)[which]
    return _unit(tones + rng.uniform(-1, 1) * np.minimum(second - first, 4) / 4)


def cracks(rng: Rng, size: int) -> Field:
    """Voronoi borders: crackle, leather, nets of fissures."""
    first, second, _ = _nearest(rng, size)
    return _field(np.clip((second - first) / rng.uniform(1.5, 8), 0, 1))


def brushed(rng: Rng, size: int) -> Field:
    """Noise drawn out along one direction: brushed metal, fibres."""
    field = fractal(rng, size * 3 // 2, rng.uniform(8, 30), 3, 0.8, rng.uniform(8, 40))
    turn = cv2.getRotationMatrix2D((size * 0.75, size * 0.75), rng.uniform(0, 360), 1)
    turned = cv2.warpAffine(field, turn, field.shape, borderMode=cv2.BORDER_REFLECT)
    return _unit(turned[size // 4 : size // 4 + size, size // 4 : size // 4 + size])


def weave(rng: Rng, size: int) -> Field:
    """Over and under: cloth, wire mesh."""
    u, v = _plane(rng, size, 4, 16)
    over = (np.floor(u) + np.floor(v)) % 2
    across, along = np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1))
    return _unit(np.where(over > 0.5, across * (0.6 + 0.4 * along), along * (0.6 + 0.4 * across) * rng.uniform(0.5, 1)))


def spots(rng: Rng, size: int) -> Field:
    """Dots on a jittered lattice."""
    u, v = _plane(rng, size, 3, 14)
    jitter = rng.uniform(0, 0.35) * rng.standard_normal((2, 64, 64))
    row, column = np.floor(u).astype(int) % 64, np.floor(v).astype(int) % 64
    away = np.hypot(u % 1 - 0.5 - jitter[0][row, column] * 0.5, v % 1 - 0.5 - jitter[1][row, column] * 0.5)
    return _field(np.clip((rng.uniform(0.15, 0.4) - away) * rng.uniform(4, 20) + 0.5, 0, 1))


def checker(rng: Rng, size: int) -> Field:
    """A chess board."""
    u, v = _plane(rng, size, 3, 16)
    return ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)


def wood(rng: Rng, size: int) -> Field:
    """Distorted rings around a far or near centre."""
    u, v = _plane(rng, size, 0.6, 3, 0.8)
    away = np.hypot(u - u.mean() + rng.uniform(-1, 1), (v - v.mean()) * rng.uniform(0.2, 1) + rng.uniform(-1, 1))
    return _wave((away * rng.uniform(2, 8) + 0.5 * fractal(rng, size)).astype(np.float32), rng)


def bricks(rng: Rng, size: int) -> Field:
    """Shifted rows with joints, each brick of its own tone."""
    u, v = _plane(rng, size, 2, 9, 0.2)
    row = np.floor(v * 2)
    shifted = u + rng.uniform(0.2, 0.5) * (row % 2)
    tones = rng.uniform(0.5, 1, (64, 64))[row.astype(int) % 64, np.floor(shifted).astype(int) % 64]
    joint = rng.uniform(0.04, 0.15)
    return np.where(((v * 2) % 1 < joint * 2) | (shifted % 1 < joint), 0, tones).astype(np.float32)


def shapes(rng: Rng, size: int) -> Field:
    """Random filled polygons and ellipses: hard edges, corners and curves."""
    canvas = np.full((size, size), rng.random(), np.float32)
    for _ in range(int(rng.integers(4, 16))):
        tone, centre = float(rng.random()), rng.uniform(0, size, 2)
        if rng.random() < 0.5:
            axes = tuple(int(a) for a in rng.uniform(3, size / 3, 2))
            cv2.ellipse(
                canvas, (int(centre[0]), int(centre[1])), axes, rng.uniform(0, 180), 0, 360, tone, -1, cv2.LINE_8
            )
        else:
            corners = centre + rng.normal(0, size / 6, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(canvas, [cv2.convexHull(corners.astype(np.int32))], tone)
    return canvas


def strokes(rng: Rng, size: int) -> Field:
    """Many thin straight or bent lines: scratches, hair, wires."""
    canvas = np.full((size, size), rng.uniform(0, 0.4), np.float32)
    spread, heading = rng.uniform(0.05, 3), rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(8, 50))):
        steps = np.cumsum(rng.normal(0, rng.uniform(0, 0.5), 12)) + rng.normal(heading, spread)
        path = rng.uniform(0, size, 2) + np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1), 0) * rng.uniform(2, 8)
        cv2.polylines(canvas, [path.astype(np.int32)], False, rng.uniform(0.5, 1), int(rng.integers(1, 3)))
    return canvas


def grain(rng: Rng, size: int) -> Field:
    """White or slightly smoothed noise: sand, cast metal."""
    return _unit(np.tanh(cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), rng.uniform(0.3, 1.4))))


def marble(rng: Rng, size: int) -> Field:
    """Stripes carried away by turbulence."""
    return _wave(_plane(rng, size, 1.5, 6)[0] + rng.uniform(1, 4) * fractal(rng, size, 3), rng)


def mesh(rng: Rng, size: int) -> Field:
    """Two families of thin lines: grids, tiles, gratings of metal."""
    u, v = _plane(rng, size, 3, 14)
    half = rng.uniform(0.06, 0.25)
    return _field(np.minimum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)) > half)


FAMILIES: tuple[Callable[[Rng, int], Field], ...] = (
    flat, grating, cloud, cells, cracks, brushed, weave, spots, checker, wood, bricks, shapes, strokes, grain, marble,
    mesh,
)  # fmt: skip


def colour(rng: Rng, field: Field) -> NDArray[np.float32]:
    """Field [S, S] -> RGB [S, S, 3] in 0..1: a palette of 2 to 4 colours, sometimes relief and some fine noise."""
    count = int(rng.integers(2, 5))
    palette = np.clip(rng.random(3) + rng.normal(0, rng.uniform(0.08, 0.5), (count, 3)), 0, 1)
    if rng.random() < 0.3:
        palette[:] = palette.mean(1, keepdims=True)
    stops = np.linspace(0, 1, count)
    rgb = np.stack([np.interp(field, stops, palette[:, c]) for c in range(3)], -1)
    if rng.random() < 0.35:
        dy, dx = np.gradient(cv2.GaussianBlur(field, (0, 0), rng.uniform(0.6, 2)))
        angle = rng.uniform(0, 2 * np.pi)
        rgb = rgb * (1 + rng.uniform(1, 5) * (dx * np.cos(angle) + dy * np.sin(angle)))[..., None]
    if rng.random() < 0.5:
        rgb = rgb + rng.uniform(0, 0.12) * (fractal(rng, field.shape[0], 12, 3, 0.9)[..., None] - 0.5)
    return _field(np.clip(rgb, 0, 1))


def texture(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """Texture `index`, [size, size, 3] RGB; its family is `index % len(FAMILIES)`."""
    rng = np.random.default_rng([seed, index])
    rgb = colour(rng, FAMILIES[index % len(FAMILIES)](rng, size))
    if rng.random() < 0.3:
        rgb = _field(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.5)))
    return np.round(rgb * 255).astype(np.uint8)


def region(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """A large mask, 0 or 255 [size, size]: half planes, blobs and shapes that divide a picture in two."""
    rng = np.random.default_rng([seed, 1, index])
    kind = index % 3
    if kind == 0:
        u, _ = _plane(rng, size, 1, 1.01)
        inside = u > u.mean() + rng.uniform(-0.25, 0.25)
    elif kind == 1:
        inside = fractal(rng, size, rng.uniform(1, 4), 3) > rng.uniform(0.4, 0.6)
    else:
        inside = shapes(rng, size) > 0.5
    return np.where(inside, 255, 0).astype(np.uint8)


def flaw(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """A small mask, 0..255 [size, size]: a scratch, a speck, a patch or a ragged blob that a defect may fill."""
    rng = np.random.default_rng([seed, 2, index])
    mask = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.1, 0.9, 2) * size
    kind = index % 4
    if kind == 0:
        heading = np.cumsum(rng.normal(0, 0.25, 10)) + rng.uniform(0, 2 * np.pi)
        path = centre + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * rng.uniform(1.5, 6)
        cv2.polylines(mask, [path.astype(np.int32)], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind == 1:
        axes = (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    elif kind == 2:
        box = cv2.boxPoints(((centre[0], centre[1]), tuple(rng.uniform(5, 26, 2)), rng.uniform(0, 90)))
        cv2.fillPoly(mask, [box.astype(np.int32)], 255)
    else:
        y, x = np.mgrid[0:size, 0:size]
        away = np.hypot(y - centre[1], x - centre[0]) / rng.uniform(5, 16)
        mask[away + 0.9 * (fractal(rng, size, 8) - 0.5) < 1] = 255
    return mask
