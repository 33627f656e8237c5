"""What goes wrong on the demo line: five kinds of defects, each in several sizes and forms.

A defect changes the layers of a part the way it would on the line: metal is scored, broken off or not drilled, oil lies
on it, the laser missed. Its mask is the difference to the same part without it, so it is exact by construction. Nothing
here is shared with `mtkd_edge.synthetic`, whose pseudo-defects are used in training: these must be new to the model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.demo.line_part import (
    BORE,
    FINE,
    HOLES,
    RADIUS,
    SIZE,
    Layers,
    Plane,
    Pose,
    X,
    Y,
    disc,
    grain,
    make,
    marking,
)

GOOD_MARKS = ("MTK-48", "LOT 7A31", 48)
"""The marking every good part carries."""
VISIBLE = 6.0
"""A pixel belongs to the defect where it is brighter or darker by at least this many grey levels, before noise."""
LEAST = 20
"""A defect of fewer visible pixels is none."""


@functools.cache
def good_marking() -> Plane:
    """The marking of a good part."""
    return marking(*GOOD_MARKS)


def good(pose: Pose, rng: np.random.Generator) -> Layers:
    """A part as it should be."""
    return make(pose, good_marking(), rng)


def scratch(pose: Pose, part: np.random.Generator, rng: np.random.Generator) -> Layers:
    """A tool mark: a bent stroke with a bright flank and a dark one."""
    layers = good(pose, part)
    length, turn = rng.uniform(22, 110), rng.uniform(0, 2 * math.pi)
    x, y = _on_face(rng)
    t = np.linspace(-0.5, 0.5, 40)
    sag = rng.normal(0, 0.12) * length
    px = x + t * length * math.cos(turn) - sag * (4 * t**2) * math.sin(turn)
    py = y + t * length * math.sin(turn) + sag * (4 * t**2) * math.cos(turn)
    depth = _stroke(np.stack([px, py], axis=1), rng.uniform(1.2, 2.6))
    lit = np.asarray(cv2.GaussianBlur(depth, (0, 0), 0.7), np.float32)
    flank = np.roll(lit, (1, 1), axis=(0, 1)) - np.roll(lit, (-1, -1), axis=(0, 1))
    metal = layers.metal - rng.uniform(15, 50) * lit + rng.uniform(50, 95) * flank
    return layers._replace(metal=metal.astype(np.float32))


def chip(pose: Pose, part: np.random.Generator, rng: np.random.Generator) -> Layers:
    """A piece broken out of the rim or the bore, with a bright ragged face of fracture."""
    layers = good(pose, part)
    size, angle = math.exp(rng.uniform(math.log(5), math.log(17))), rng.uniform(0, 2 * math.pi)
    edge = RADIUS if rng.random() < 0.75 else BORE
    x, y = edge * math.cos(angle), edge * math.sin(angle)
    ragged = 0.16 * size * grain((SIZE, SIZE), 2.5, 2.5, rng)
    stretch = rng.uniform(0.8, 1.7)
    along = -(X - x) * math.sin(angle) + (Y - y) * math.cos(angle)
    out = (X - x) * math.cos(angle) + (Y - y) * math.sin(angle)
    away = np.hypot(along / stretch, out) + ragged
    gone = np.clip(size - away, 0, 1)
    face = np.clip(size + 1 + 0.3 * size - away, 0, 1) - gone
    torn = 18 + 28 * grain((SIZE, SIZE), 1.2, 1.2, rng)
    metal = layers.metal + face * torn
    return layers._replace(metal=metal.astype(np.float32), cover=(layers.cover * (1 - gone)).astype(np.float32))


def stain(pose: Pose, part: np.random.Generator, rng: np.random.Generator) -> Layers:
    """Oil or coolant: a brownish film, thicker at its rim, with a few droplets beside it."""
    layers = good(pose, part)
    size = math.exp(rng.uniform(math.log(7), math.log(30)))
    x, y = _on_face(rng)
    wavy = 0.3 * size * grain((SIZE, SIZE), 0.45 * size, 0.45 * size, rng)
    inside = np.clip((size - np.hypot(X - x, Y - y) + wavy) / 2.5, 0, 1)
    for _ in range(int(rng.integers(0, 4))):
        turn, far = rng.uniform(0, 2 * math.pi), size * rng.uniform(1.3, 1.9)
        inside = np.maximum(inside, disc(rng.uniform(1.2, 3), x + far * math.cos(turn), y + far * math.sin(turn)))
    soft = np.asarray(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.2), np.float32)
    rim = 4 * soft * (1 - soft)
    strength = rng.uniform(0.18, 0.5)
    absorbed = (soft * (0.8 + 0.1 * grain((SIZE, SIZE), 5, 5, rng)) + 0.5 * rim) * strength
    film = layers.film * (1 - absorbed[..., None] * np.array([0.75, 0.95, 1.35], np.float32))
    return layers._replace(film=np.clip(film, 0, 1).astype(np.float32))


def hole(pose: Pose, part: np.random.Generator, rng: np.random.Generator) -> Layers:
    """A bolt hole that was not drilled, or not drilled through."""
    depths = [1.0] * HOLES
    depths[int(rng.integers(HOLES))] = float(rng.choice([0.0, 0.45, 0.8]))
    return make(pose, good_marking(), part, depths)


def mark(pose: Pose, part: np.random.Generator, rng: np.random.Generator) -> Layers:
    """A marking gone wrong: a line missing, another text, a code that is another part's, or all of it blurred."""
    upper, lower, code = GOOD_MARKS
    burnt = (
        lambda: marking("", lower, code),
        lambda: marking(upper, "", code),
        lambda: marking("MTK-43", lower, code),
        lambda: marking(upper, "LOT 7431", code),
        lambda: marking(upper, lower, code + 1),
        lambda: _doubled(marking(upper, lower, code), rng),
    )[int(rng.integers(6))]()
    return make(pose, burnt, part)


KINDS: dict[str, Callable[[Pose, np.random.Generator, np.random.Generator], Layers]] = {
    "chip": chip,
    "hole": hole,
    "mark": mark,
    "scratch": scratch,
    "stain": stain,
}


def truth(clean: Plane, defective: Plane) -> NDArray[np.bool_]:
    """Mask [S, S]: where the two exposures of one part differ visibly, small gaps closed."""
    differs = (np.abs(clean - defective).max(axis=2) >= VISIBLE).astype(np.uint8)
    closed = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return np.asarray(closed, np.bool_)


def _on_face(rng: np.random.Generator) -> tuple[float, float]:
    """A place on the part, away from its edges."""
    radius, angle = rng.uniform(BORE + 10, RADIUS - 10), rng.uniform(0, 2 * math.pi)
    return radius * math.cos(angle), radius * math.sin(angle)


def _stroke(points: NDArray[np.float64], thickness: float) -> Plane:
    """A line through points around the middle, thin at its ends: 1 inside, 0 outside."""
    canvas = np.zeros((SIZE * FINE, SIZE * FINE), np.uint8)
    at = np.rint((points + SIZE / 2) * FINE).astype(np.int32)
    taper = thickness * FINE * np.clip(1.6 * np.sin(np.linspace(0.1, math.pi - 0.1, len(at))), 0.2, 1)
    for start, end, width in zip(at[:-1], at[1:], taper[1:], strict=True):
        cv2.line(canvas, start.tolist(), end.tolist(), (255,), max(1, round(float(width))))
    return np.asarray(cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 255, np.float32)


def _doubled(burnt: Plane, rng: np.random.Generator) -> Plane:
    """The laser fired while the part moved."""
    dx, dy = int(rng.choice([-4, -3, 3, 4])), int(rng.integers(-2, 3))
    return np.asarray(np.maximum(0.6 * burnt, 0.6 * np.roll(burnt, (dy, dx), axis=(0, 1))), np.float32)
