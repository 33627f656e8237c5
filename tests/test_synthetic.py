"""Pseudo-defects: visible, small, where the mask says, and the same for the same generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import frames, synthetic
from mtkd_edge.synthetic import KINDS, LARGEST, SMALLEST, VISIBLE, paste_defect

SIDES = st.integers(32, 200)


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def textured(side: int = 128, seed: int = 0) -> np.ndarray:
    """A surface in colour: a gradient with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    surface = np.stack([90 + 60 * x, 100 + 40 * y, 110 + 0 * x], axis=2) + rng.normal(0, 4, (side, side, 1))
    return surface.astype(np.uint8)


@given(SIDES, SIDES, st.integers(0, 2**32 - 1), st.sampled_from(["noise", "black", "white", "mid", "red"]))
def test_the_mask_is_exactly_what_changed_on_any_frame(height: int, width: int, seed: int, look: str) -> None:
    colour = {"black": (0, 0, 0), "white": (255, 255, 255), "mid": (128, 128, 128), "red": (250, 5, 5)}
    frame = noise(height, width, seed) if look == "noise" else np.full((height, width, 3), colour[look], np.uint8)
    kept = frame.copy()
    defective, mask = paste_defect(frame, np.random.default_rng(seed))
    assert np.array_equal(frame, kept), "the input is not changed"
    assert defective.shape == frame.shape
    assert defective.dtype == np.uint8
    assert mask.dtype == np.bool_
    change = np.abs(defective.astype(int) - frame).max(axis=2)
    assert np.array_equal(mask, change > 0)
    assert mask.sum() >= SMALLEST * height * width / 2
    assert change[mask].min() >= VISIBLE


@given(st.integers(0, 2**32 - 1))
def test_the_same_generator_gives_the_same_defect(seed: int) -> None:
    frame = textured()
    first = paste_defect(frame, np.random.default_rng(seed))
    again = paste_defect(frame, np.random.default_rng(seed))
    other = paste_defect(frame, np.random.default_rng(seed + 1))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@given(st.integers(0, 2**32 - 1))
def test_grey_stays_grey(seed: int) -> None:
    grey = np.repeat(textured(96)[..., :1], 3, axis=2)
    defective, _ = paste_defect(grey, np.random.default_rng(seed))
    assert (defective == defective[..., :1]).all()


def test_sizes_spread_over_their_range_small_ones_as_often_as_large_ones() -> None:
    rng = np.random.default_rng(0)
    frame = textured(256)
    areas = np.array([paste_defect(frame, rng)[1].mean() for _ in range(400)])
    assert areas.max() <= 1.5 * LARGEST
    assert 0.5 * SMALLEST <= areas.min() <= 2 * SMALLEST
    middle = np.sqrt(SMALLEST * LARGEST)
    assert 0.35 < (areas < middle).mean() < 0.75


def test_defects_fall_everywhere_in_the_frame() -> None:
    rng = np.random.default_rng(1)
    frame = textured(64)
    heat = np.sum([paste_defect(frame, rng)[1] for _ in range(1500)], axis=0)
    assert (heat > 0).mean() > 0.97


@pytest.mark.parametrize(
    "kind", range(len(KINDS)), ids=[f"{shape.__name__}-{paint.__name__[1:]}" for shape, paint in KINDS]
)
def test_every_kind_of_defect_shows_on_a_textured_part(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind alone, without the fall-back, almost always leaves a trace at least as large as the smallest."""
    monkeypatch.setattr(synthetic, "KINDS", (KINDS[kind],))
    rng = np.random.default_rng(2)
    frame = textured(128)
    strong = []
    for _ in range(60):
        defective, mask = paste_defect(frame, rng)
        strong.append(np.abs(defective.astype(int) - frame).max(axis=2)[mask].mean())
    assert np.median(strong) > 8


@pytest.mark.parametrize(("shape", "dtype"), [((64, 64), "uint8"), ((64, 64, 3), "float32"), ((64, 8, 3), "uint8")])
def test_what_is_no_frame_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="a frame is"):
        paste_defect(np.zeros(shape, dtype), np.random.default_rng(0))


def test_on_real_photos_the_mask_is_never_empty(shared: Path) -> None:
    rng = np.random.default_rng(0)
    spec = frames.FrameSpec(256, 256)
    for folder in ("mvtec/bottle", "mtd/magnetic_tile"):
        for path in sorted((shared / "data" / folder / "train" / "good").iterdir())[:6]:
            frame = frames.to_frame(frames.read(path), spec)
            for _ in range(10):
                defective, mask = paste_defect(frame, rng)
                assert SMALLEST / 2 <= mask.mean() <= 1.5 * LARGEST
                assert np.array_equal(mask, (defective != frame).any(axis=2))
