"""Regions lie where the map is above the threshold, in pixels of the photo, whatever the photo's size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge.device import regions
from mtkd_edge.frames import map_to_photo


def blob(shape: tuple[int, int], *at: tuple[float, float, float, float]) -> np.ndarray:
    """A map with Gaussian hills (x, y, radius, height), in fractions of the map."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    hills = [a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * r * r)) for cx, cy, r, a in at]
    return np.sum(hills, axis=0).astype(np.float32)


def test_nothing_above_the_threshold_is_no_region() -> None:
    values = blob((64, 64), (0.5, 0.5, 0.1, 1.0))
    assert regions.find(values, float(values.max()), (480, 640)) == ()
    assert regions.find(values * np.nan, 0.5, (480, 640)) == ()


@pytest.mark.parametrize("photo", [(480, 640), (64, 64), (33, 47), (3000, 4000)])
def test_box_area_and_peak_are_in_photo_pixels(photo: tuple[int, int]) -> None:
    height, width = photo
    values = blob((64, 64), (0.25, 0.5, 0.05, 4.0), (0.75, 0.25, 0.05, 2.0))
    high, low = regions.find(values, 1.0, photo)
    radius = 0.05 * np.sqrt(2 * np.log(4))  # where the higher hill crosses the threshold
    near = 0.02 * np.array([width, height, width, height]) + 1.5
    wanted = np.array([(0.25 - radius) * width, (0.5 - radius) * height, 2 * radius * width, 2 * radius * height])
    assert (np.abs(np.array(high.box) - wanted) <= near).all()
    assert abs(high.peak_at[0] - 0.25 * width) <= 0.02 * width + 1
    assert abs(high.peak_at[1] - 0.5 * height) <= 0.02 * height + 1
    assert high.area == pytest.approx(np.pi * radius**2 * width * height, rel=0.15)
    assert 3.5 < high.peak <= 4.0 and 1.7 < low.peak <= 2.0


def test_regions_come_highest_first_and_only_so_many() -> None:
    hills = [(0.1 + 0.2 * (n % 5), 0.1 + 0.2 * (n // 5), 0.02, 1 + n / 10) for n in range(25)]
    values = blob((128, 128), *hills)
    found = regions.find(values, 0.5, (256, 256), most=7)
    peaks = [region.peak for region in found]
    assert len(found) == 7
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 3.2  # the highest hill is 3.4: the highest are kept, not the first


def test_pixels_that_touch_at_a_corner_belong_together() -> None:
    values = np.zeros((64, 64), np.float32)
    values[10:14, 10:14] = values[14:18, 14:18] = 1
    assert len(regions.find(values, 0.5, (64, 64))) == 1


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 0.95),
)
def test_every_region_lies_inside_the_photo(height: int, width: int, seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((16, 24), np.float32)
    found = regions.find(values, level, (height, width), most=5)
    for region in found:
        left, top, w, h = region.box
        x, y = region.peak_at
        assert 0 <= left <= x < left + w <= width
        assert 0 <= top <= y < top + h <= height
        assert level < region.peak <= 1
        assert 1 <= region.area <= w * h


def test_the_area_is_that_of_the_map_over_the_photo() -> None:
    rng = np.random.default_rng(3)
    values = rng.random((16, 16), np.float32)
    found = regions.find(values, 0.6, (400, 500), most=1000)
    assert sum(region.area for region in found) == int((map_to_photo(values, 400, 500) > 0.6).sum())


def test_a_strip_a_million_pixels_long_is_searched_in_bounded_space() -> None:
    (region,) = regions.find(blob((64, 64), (0.5, 0.5, 0.1, 2.0)), 1.0, (1, 1_000_000))
    assert region.box[3] == 1
    assert abs(region.peak_at[0] - 500_000) < 20_000
