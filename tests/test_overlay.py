"""Overlays mean the same in every picture: fixed colours for fixed values, verdicts in words and in colours for all."""

from __future__ import annotations

import cv2
import line
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge.device import overlay
from mtkd_edge.frames import FrameSpec
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import Region, State, Verdict

SPEC = FrameSpec(256, 256)
THRESHOLD = Threshold(2.0, 3.0, "manual", 0.01, 0)


def verdict(state: State = State.NORMAL, score: float | None = 1.0, *regions: Region, reason: str = "") -> Verdict:
    return Verdict("camera", 3, 1.8e9, state, score, 2.0, regions, {}, reason)


def test_the_scale_is_fixed_to_the_threshold() -> None:
    values = np.array([[-1, 0, 1.5, 3, 4.5, 6, 60]], np.float32)
    assert overlay.scaled_heat(values, 3.0).tolist() == [[0, 0, 0.25, 0.5, 0.75, 1, 1]]
    assert overlay.scaled_heat(np.array([[-2, -1, 0]], np.float32), -1.0).tolist() == [[0, 0.5, 1]]


@given(st.floats(0, 10), st.floats(0, 10))
def test_one_value_has_one_colour_whatever_else_is_in_the_picture(value: float, other: float) -> None:
    grey = np.full((1, 2, 3), 128, np.uint8)
    alone, together = (np.array([[value, rest]], np.float32) for rest in (value, other))
    colours = [overlay.blend(grey, overlay.scaled_heat(values, 3.0))[0, 0].tolist() for values in (alone, together)]
    assert colours[0] == colours[1]


def test_a_good_part_stays_as_it_is() -> None:
    """Below half the threshold nothing is drawn over the photo; per-picture stretching would make its noise glow."""
    photo = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    values = np.random.default_rng(1).uniform(0, 1.49, (64, 64)).astype(np.float32)
    picture = overlay.draw(photo, values, verdict(), THRESHOLD, SPEC)
    top = (picture.shape[0] - 512) * 44 // 84  # banner above, scale below
    shown = [row for row in range(picture.shape[0] - 511) if np.array_equal(picture[row : row + 512], photo)]
    assert len(shown) == 1 and abs(shown[0] - top) < 20


def test_heat_lies_where_the_map_is_high() -> None:
    photo = np.full((512, 512, 3), 60, np.uint8)
    values = np.zeros((64, 64), np.float32)
    values[40:48, 8:16] = 6
    picture = overlay.draw(photo, values, verdict(State.ANOMALOUS, 4.0), THRESHOLD, SPEC)
    banner = np.flatnonzero((picture[:, 300] == 60).all(1))[0]
    photo_part = picture[banner : banner + 512].astype(int)
    changed = np.abs(photo_part - 60).sum(2) > 30
    ys, xs = np.nonzero(changed)
    assert ys.min() > 300 and ys.max() < 400 and xs.min() > 50 and xs.max() < 140
    bright = photo_part[352, 96]
    assert bright[0] > bright[2] + 40 and bright[1] > bright[2]  # yellow, not red against green


def luminance(colour: tuple[int, int, int]) -> float:
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_white_words_can_be_read_on_every_verdict_and_colours_differ_for_colour_blind_eyes() -> None:
    for colour in overlay.COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) >= 3  # WCAG 2, large text
    # without the red-green difference (protan, deutan) blue and vermilion still lie on two sides of grey
    blue, orange = (np.array(overlay.COLOURS[state], float) for state in (State.NORMAL, State.ANOMALOUS))
    assert (blue[2] - blue[:2].mean() > 100) and (orange[2] - orange[:2].mean() < -100)


@pytest.mark.parametrize("state", list(State))
def test_the_banner_has_the_colour_of_the_verdict(state: State) -> None:
    score = None if state is State.INVALID else 1.0
    picture = overlay.draw(line.part(size=512), np.zeros((8, 8), np.float32), verdict(state, score), THRESHOLD, SPEC)
    assert tuple(picture[0, 0].tolist()) == overlay.COLOURS[state]
    plain = np.full_like(picture[:30, :300], overlay.COLOURS[state])
    assert (picture[:30, :300] != plain).any()  # and words on it


def test_a_region_is_boxed_where_it_is() -> None:
    photo = np.full((500, 500, 3), 100, np.uint8)
    region = Region((100, 200, 50, 80), 4000, 5.0, (125, 240))
    with_box = overlay.draw(photo, None, verdict(State.ANOMALOUS, 4.0, region), THRESHOLD, SPEC)
    without = overlay.draw(photo, None, verdict(State.ANOMALOUS, 4.0), THRESHOLD, SPEC)
    ys, xs = np.nonzero((with_box != without).any(2))
    top = np.flatnonzero((without[:, 250] == 100).all(1))[0]
    assert (xs.min(), xs.max()) == pytest.approx((100, 150), abs=4)
    assert (ys.min() - top, ys.max() - top) == pytest.approx((200, 280), abs=4)


@pytest.mark.parametrize(
    "photo",
    [
        None,
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((3, 900, 3), np.uint8),
        np.zeros((900, 3, 3), np.uint8),
        np.full((2000, 3000, 3), 65535, np.uint16),
    ],
    ids=lambda photo: "none" if photo is None else str(photo.shape),
)
def test_any_photo_makes_a_picture_of_a_sensible_size(photo: np.ndarray | None) -> None:
    reason = "ein sehr langer Grund – mit Umlauten äöü und keinem_einzigen_Leerzeichen" * 5
    picture = overlay.draw(photo, None, verdict(State.INVALID, None, reason=reason), THRESHOLD, SPEC)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert max(picture.shape) <= overlay.LARGEST + 200
    assert min(picture.shape[:2]) >= 60 and picture.shape[1] >= overlay.NARROWEST


def test_a_map_with_nan_is_not_drawn() -> None:
    photo = line.part(size=512)
    values = np.full((8, 8), np.nan, np.float32)
    with_map = overlay.draw(photo, values, verdict(State.INVALID, None, reason="x"), THRESHOLD, SPEC)
    without = overlay.draw(photo, None, verdict(State.INVALID, None, reason="x"), THRESHOLD, SPEC)
    assert np.array_equal(with_map, without)


def test_a_sheet_holds_every_picture_in_reading_order() -> None:
    pictures = [np.full((40 + 10 * n, 60, 3), 10 + n, np.uint8) for n in range(7)]
    sheet = overlay.sheet(pictures, columns=3, cell=100, gap=4)
    assert sheet.shape == (3 * 104 + 4, 3 * 104 + 4, 3)
    centres = [int(sheet[4 + n // 3 * 104 + 50, 4 + n % 3 * 104 + 50, 0]) for n in range(7)]
    assert centres == [10 + n for n in range(7)]
    assert sheet[-60, -60].tolist() == [255] * 3
    with pytest.raises(ValueError, match="at least one"):
        overlay.sheet([])


def test_real_photos_make_overlays_that_a_file_can_hold(shared) -> None:  # type: ignore[no-untyped-def]
    from mtkd_edge import frames

    path = next((shared / "data/mvtec/bottle/test/broken_large").iterdir())
    photo = frames.read(path)
    values = np.zeros((64, 64), np.float32)
    values[20:30, 20:30] = 5
    picture = overlay.draw(photo, values, verdict(State.ANOMALOUS, 4.0), THRESHOLD, SPEC)
    coded, data = cv2.imencode(".jpg", picture)
    assert coded and 20_000 < data.nbytes < 1_000_000
