"""The demo's production line: complete, deterministic, and with truth that fits the pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from mtkd_edge import dataset, frames
from mtkd_edge.dataset import Dataset, scan
from mtkd_edge.demo import line, line_defects, line_part
from mtkd_edge.demo.line import Truth, render
from mtkd_edge.errors import DataError

GOOD = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "line"
    render(root, seed=3, good=GOOD)
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> Dataset:
    return scan(root)


@pytest.fixture(scope="module")
def truth(root: Path) -> Truth:
    return msgspec.json.decode((root / "line.json").read_bytes(), type=Truth)


@pytest.fixture(scope="module")
def video(root: Path) -> np.ndarray:
    """All frames of the video, RGB [n, S, S, 3]."""
    capture = cv2.VideoCapture(str(root / "line.mkv"))
    pictures = []
    while True:
        more, picture = capture.read()
        if not more:
            break
        pictures.append(picture[..., ::-1])
    capture.release()
    return np.stack(pictures)


def test_it_is_a_dataset_without_problems(found: Dataset) -> None:
    assert found.layout == "mvtec"
    assert found.problems == ()
    assert len(found.photos) == GOOD
    counts = {kind: sum(photo.kind == kind for photo in found.test) for kind in ("good", *line_defects.KINDS)}
    assert counts == {"good": line.TEST_GOOD, **dict.fromkeys(line_defects.KINDS, line.TEST_EACH)}
    assert 4 <= len(line_defects.KINDS) <= 5
    assert {(photo.height, photo.width) for photo in found.photos} == {(line_part.SIZE, line_part.SIZE)}


def test_every_defect_has_a_mask_and_sizes_span_a_wide_range(found: Dataset) -> None:
    areas = []
    for photo in found.test:
        assert (photo.mask is None) == (photo.kind == "good")
        if photo.mask:
            areas.append(dataset.read_mask(Path(found.root, photo.mask)).mean())
    assert min(areas) * line_part.SIZE**2 >= line_defects.LEAST
    assert max(areas) < 0.1
    assert max(areas) / min(areas) > 8


def test_outside_its_mask_a_defective_part_is_the_good_one() -> None:
    """Exact by construction: both are exposed from the same part, before noise."""
    conveyor = line_part.belt(np.random.default_rng(0))
    for kind in line_defects.KINDS:
        for number in range(4):
            bad, mask = line.part(kind, (1, number), conveyor)
            twin, empty = line.part("good", (1, number), conveyor)
            assert not empty.any()
            change = np.abs(bad - twin).max(axis=2)
            noise = (line_part.sensor(twin, np.random.default_rng(0)) - twin).std()
            assert change[~mask].max() < 6 * noise, "what could be seen through the noise is in the mask"
            assert change[mask].max() > 6 * noise
            assert mask.sum() >= line_defects.LEAST


def test_good_parts_differ_as_real_ones_do(found: Dataset) -> None:
    """No two are alike in pose or texture, but all show the same part."""
    photos = np.stack([frames.read(path) for side in ("train", "tune", "held-out") for path in found.side(side)])  # type: ignore[arg-type]
    mean = photos.astype(np.float32).mean(0)
    for index, photo in enumerate(photos):
        assert 4 < np.abs(photo - mean).mean() < 25
        assert all(np.abs(photo.astype(int) - other).mean() > 3 for other in photos[:index])
    assert not (photos[..., 0] == photos[..., 2]).all(), "in colour"


def test_the_video_has_the_frames_and_the_truth_says_which_are_defective(video: np.ndarray, truth: Truth) -> None:
    assert len(video) == truth.frames == line.PARTS * line.STOP
    assert [part.first for part in truth.parts] == list(range(0, truth.frames, line.STOP))
    assert all(part.last == part.first + line.STOP - 1 for part in truth.parts)
    bad = [i for part in truth.parts if part.kind != "good" for i in range(part.first, part.last + 1)]
    assert truth.defective == tuple(bad)
    assert {part.kind for part in truth.parts} == {"good", *line_defects.KINDS}


def test_frames_of_one_part_are_alike_and_those_of_the_next_are_not(video: np.ndarray) -> None:
    steps = np.abs(np.diff(video.astype(np.int16), axis=0)).mean((1, 2, 3))
    between = steps[line.STOP - 1 :: line.STOP]
    within = np.delete(steps, np.s_[line.STOP - 1 :: line.STOP])
    assert within.max() < between.min()
    assert within.min() > 0, "no two frames are the same: the noise is new"


def test_the_video_shows_what_the_photos_show(video: np.ndarray, found: Dataset) -> None:
    """Compression costs little, so a model trained on the photos can watch the video."""
    photos = np.stack([frames.read(path) for path in found.side("train")])
    assert np.abs(video.mean((0, 1, 2)) - photos.mean((0, 1, 2))).max() < 6
    assert 0.85 < video.std() / photos.std() < 1.15


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> int:
    """A line of the fewest parts: how many steps of progress it has with four good photos."""
    monkeypatch.setattr(line, "TEST_GOOD", 1)
    monkeypatch.setattr(line, "TEST_EACH", 1)
    monkeypatch.setattr(line, "PARTS", 2 * len(line_defects.KINDS))
    return 4 + 1 + 3 * len(line_defects.KINDS)


def test_the_same_seed_gives_the_same_line_and_another_does_not(short: int, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        render(tmp_path / name, seed=seed, good=4)
    paths = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(paths) == 4 + 1 + 2 * len(line_defects.KINDS) + 2
    for path in paths:
        if path.suffix != ".mkv":  # a video's header may hold the time
            assert (tmp_path / "again" / path).read_bytes() == (tmp_path / "one" / path).read_bytes(), path
            assert (tmp_path / "other" / path).read_bytes() != (tmp_path / "one" / path).read_bytes(), path


def test_progress_goes_from_the_first_photo_to_the_last_part(short: int, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    render(tmp_path / "line", good=4, progress=lambda step, done, total, note="": heard.append((done, total)))
    assert heard == [(done, short) for done in range(1, short + 1)]


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an empty folder"):
        render(tmp_path, good=4)
    with pytest.raises(DataError, match="is not an empty folder"):
        render(tmp_path / "mine.txt", good=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written: Not a directory"):
        render(tmp_path / "file" / "line", good=4)
