"""Where on the picture defects count: on the map, in the score, and in millimetres."""

from __future__ import annotations

from pathlib import Path

import cv2
import line
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtkd_edge import score
from mtkd_edge.device.decisions.focus import Focus, FocusSpec, in_mm, lowered
from mtkd_edge.device.prepare import prepare
from mtkd_edge.device.scoring import Scored
from mtkd_edge.device.sources.base import Captured
from mtkd_edge.errors import UsageError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.verdict import Region, State

SCORE = line.MANIFEST.score
RIGHT = FocusSpec(look=((0.5, 0.0, 0.5, 1.0),))
LEFT = FocusSpec(look=((0.0, 0.0, 0.5, 1.0),))


def focus(wanted: FocusSpec, frame: FrameSpec = line.SPEC) -> Focus:
    return Focus(wanted, frame, SCORE)


def test_a_defect_counts_where_to_look_and_nowhere_else() -> None:
    """The defect lies in the third row and sixth column of eight: in the right half."""
    photos = [line.part(defect=True), line.part()]
    for wanted, state in ((RIGHT, State.ANOMALOUS), (LEFT, State.NORMAL), (FocusSpec(), State.ANOMALOUS)):
        verdicts, _ = line.run([line.Memory("camera", photos)], focus={"camera": focus(wanted)})  # type: ignore[arg-type]
        assert [verdict.state for verdict in verdicts] == [state, State.NORMAL]
        assert len(verdicts[0].regions) == (state is State.ANOMALOUS)
        assert verdicts[1].score == pytest.approx(20 / 255)


def test_sinks_get_the_map_that_was_judged() -> None:
    maps: list[np.ndarray] = []
    source = line.Memory("camera", [line.part(defect=True)])
    line.run([source], sinks=[lambda v, p, m: maps.append(m)], focus={"camera": focus(LEFT)})  # type: ignore[arg-type]
    assert maps[0].max() == pytest.approx(20 / 255)


def test_areas_are_rectangles_polygons_and_pictures(tmp_path: Path) -> None:
    triangle = FocusSpec(look=(((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),))
    cells = focus(triangle).cells((64, 64), (8, 8))
    assert cells[np.triu_indices(8, 0)[0], 7 - np.triu_indices(8, 0)[1]].all()
    assert not cells[7, 7] and not cells[7, 1] and cells.sum() in range(28, 37)
    ignored = focus(FocusSpec(ignore=((0.5, 0.25, 0.5, 0.25),))).cells((64, 64), (8, 8))
    assert not ignored[2:4, 4:].any() and ignored.sum() == 64 - 8
    both = focus(FocusSpec(look=RIGHT.look, ignore=((0.5, 0.0, 0.5, 0.5),))).cells((64, 64), (8, 8))
    assert both.sum() == 16 and both[4:, 4:].all()
    picture = np.zeros((20, 20), np.uint8)
    picture[:10] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    masked = focus(FocusSpec(mask=str(tmp_path / "mask.png"), ignore=((0.0, 0.0, 0.25, 1.0),))).cells((64, 64), (8, 8))
    assert masked.sum() == 24 and masked[:4, 2:].all()


def test_fractions_are_those_of_the_photo_in_a_letterboxed_frame_too() -> None:
    """The map is of the photo, however that lies in its frame."""
    cells = focus(FocusSpec(look=((0.0, 0.0, 1.0, 0.5),)), FrameSpec(64, 64, fit="letterbox")).cells((100, 200), (8, 8))
    assert cells[:4].all() and not cells[4:].any()


MAPS = arrays(np.float32, (8, 8), elements=st.floats(-5, 5, width=32))
KEPT = arrays(np.bool_, (8, 8)).filter(lambda kept: kept.any())


@given(MAPS, KEPT, st.floats(0.01, 1.0))
def test_looking_at_less_never_raises_a_score_and_what_is_kept_is_untouched(
    values: np.ndarray, kept: np.ndarray, share: float
) -> None:
    spec = ScoreSpec((Level("fake", "squared", 1, 8, 8, 1.0),), 8, 8, 0.0, share)
    less = lowered(values, kept)
    assert (less <= values).all() and (less[kept] == values[kept]).all()
    assert less.max() == values[kept].max()
    assert score.pool(spec, less[None])[0] <= score.pool(spec, values[None])[0] + 1e-6


def test_a_map_that_is_broken_where_nobody_looks_is_still_broken() -> None:
    values = np.zeros((8, 8), np.float32)
    values[0, 0] = np.nan
    captured = Captured("a", 0, 0.0, 0.0, line.part())
    scored = focus(RIGHT)(Scored(prepare(captured, line.SPEC), values, 0.0))
    assert scored.score is not None and np.isnan(scored.score)


@pytest.mark.parametrize(
    "wrong",
    [
        {"look": [[0, 0, 0, 1]]},
        {"look": [[0, 0, 1.5, 1]]},
        {"ignore": [[[0, 0], [1, 1]]]},
        {"look": [[0, 0, 1]]},
        {"look": [[0, 0, 1, [1, 1]]]},
        {"mm_per_pixel": 0},
        {"looks": []},
    ],
    ids=str,
)
def test_areas_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, FocusSpec)


def test_a_focus_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="hold no cell"):
        focus(FocusSpec(ignore=((0.0, 0.0, 1.0, 1.0),)))


def test_regions_in_millimetres_where_there_is_a_scale() -> None:
    regions = [Region((10, 20, 30, 40), 600, 1.0, (15, 25))]
    assert in_mm(regions, 0.05) == ((0.5, 1.0, 1.5, 2.0, 1.5),)
    assert in_mm(regions, None) == ()
