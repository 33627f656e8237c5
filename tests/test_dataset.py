"""A folder of photos: what is found, on which side it falls, and what is said about what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from photo_tree import what, write

from mtkd_edge import dataset
from mtkd_edge.dataset import Dataset, Photo, TestPhoto, scan
from mtkd_edge.errors import DataError
from mtkd_edge.listing import Facts, Problem


def test_a_plain_folder_is_read_with_its_subfolders_in_the_order_of_paths(folder: Path) -> None:
    write(folder / "UPPER.JPG", 99)
    (folder / "notes.txt").write_text("not a photo")
    write(folder / ".thumbnails" / "00.png", 77)
    write(folder / ".hidden.png", 78)
    found = scan(folder)
    paths = [photo.path for photo in found.photos]
    assert found.layout == "folder"
    assert paths == sorted(
        [f"early/{i:02}.png" for i in range(10)] + [f"{i}.png" for i in range(10, 24)] + ["UPPER.JPG"]
    )
    assert {(photo.height, photo.width) for photo in found.photos} == {(40, 50)}
    assert found.test == ()
    assert found.problems == ()
    assert found.white == 65535


def test_the_mvtec_layout_gives_kinds_and_masks(mvtec: Path) -> None:
    found = scan(mvtec)
    assert found.layout == "mvtec"
    assert len(found.photos) == 24
    assert all(photo.path.startswith("train/good/") for photo in found.photos)
    assert found.test == (
        TestPhoto("test/crack/000.png", "crack", "ground_truth/crack/000_mask.png"),
        TestPhoto("test/crack/001.png", "crack", "ground_truth/crack/001_mask.png"),
        TestPhoto("test/crack/002.png", "crack", None),
        *(TestPhoto(f"test/good/{index:03}.png", "good", None) for index in range(3)),
    )
    mask = dataset.read_mask(mvtec / "ground_truth/crack/000_mask.png")
    assert mask.dtype == np.bool_
    assert mask.sum() == 4 * 13


def test_a_layout_without_test_photos_is_fine(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "test")
    assert scan(mvtec).test == ()


def test_every_photo_falls_on_one_side_in_about_the_stated_parts(tmp_path: Path) -> None:
    for index in range(400):
        write(tmp_path / f"{index}.png", index, (8, 8))
    found = scan(tmp_path)
    counts = {side: len(found.side(side)) for side in ("train", "tune", "held-out")}  # type: ignore[arg-type]
    assert sum(counts.values()) == 400
    assert 270 <= counts["train"] <= 330
    assert 22 <= counts["tune"] <= 60
    assert 38 <= counts["held-out"] <= 85
    assert all(path.is_file() for path in found.side("tune"))


def sides(found: Dataset) -> dict[str, str]:
    return {photo.sha256: photo.side for photo in found.photos}


def test_a_photo_stays_on_its_side_when_it_is_renamed_or_the_folder_grows(tmp_path: Path) -> None:
    for index in range(120):
        write(tmp_path / "a" / f"{index}.png", index, (8, 8))
    before = sides(scan(tmp_path / "a"))
    for index in range(120):
        (tmp_path / "a" / f"{index}.png").rename(tmp_path / "a" / f"renamed-{119 - index:03}.png")
    assert sides(scan(tmp_path / "a")) == before
    for index in range(120, 240):
        write(tmp_path / "a" / f"{index}.png", index, (8, 8))
    grown = sides(scan(tmp_path / "a"))
    assert {sha: grown[sha] for sha in before} == before


@pytest.mark.parametrize("count", [12, 13, 20, 31])
def test_small_folders_still_get_four_photos_to_tune_and_four_held_out(tmp_path: Path, count: int) -> None:
    for index in range(count):
        write(tmp_path / f"{index}.png", index, (8, 8))
    found = scan(tmp_path)
    assert len(found.side("tune")) >= 4
    assert len(found.side("held-out")) >= 4
    assert len(found.side("train")) >= 4
    by_hash = [photo.side for photo in sorted(found.photos, key=lambda photo: photo.sha256)]
    assert by_hash == sorted(by_hash, key=["held-out", "tune", "train"].index), "the lowest hashes fill up"


def test_photos_of_one_part_stay_on_one_side(tmp_path: Path) -> None:
    for tile in range(30):
        for shot in range(3):
            write(tmp_path / f"tile{tile:02d}_shot{shot}.png", seed=3 * tile + shot)

    def by_tile(found: Dataset) -> list[set[str]]:
        tiles = {photo.path[:6] for photo in found.photos}
        return [{photo.side for photo in found.photos if photo.path.startswith(tile)} for tile in sorted(tiles)]

    together = by_tile(scan(tmp_path, part="(tile[0-9]+)_"))
    assert {len(sides) for sides in together} == {1}
    assert set().union(*together) == {"train", "tune", "held-out"}
    assert max(len(sides) for sides in by_tile(scan(tmp_path))) > 1, "without it they fall apart"
    with pytest.raises(DataError, match="names no part"):
        scan(tmp_path, part="brick")
    with pytest.raises(DataError, match="into 1 parts"):
        scan(tmp_path, part="tile")


def test_eleven_photos_are_one_too_few_and_the_error_says_so(tmp_path: Path) -> None:
    for index in range(11):
        write(tmp_path / f"{index}.png", index)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"holds 11 usable photos of good parts, at least 12 are needed") as caught:
        scan(tmp_path)
    assert "broken.png: unreadable" in caught.value.message
    assert caught.value.hint == "add 1 more photo"


def test_white_is_found_over_all_sixteen_bit_photos(tmp_path: Path) -> None:
    """Some 12-bit photos are dim; 8-bit ones in between say nothing."""
    for index in range(14):
        write(tmp_path / f"{index}.png", index, white=255 if index < 4 else 900 if index < 13 else 4095)
    assert scan(tmp_path).white == 4095


def test_masks_that_do_not_fit_their_photo_are_left_out_and_named(mvtec: Path) -> None:
    cv2.imwrite(str(mvtec / "ground_truth/crack/000_mask.png"), np.zeros((40, 49), np.uint8))
    (mvtec / "ground_truth/crack/001_mask.png").write_bytes(b"no picture")
    found = scan(mvtec)
    assert [photo.mask for photo in found.test] == [None] * 6
    problems = what(found)
    assert problems["ground_truth/crack/000_mask.png"] == "bad mask, left out: 40 x 49, its photo is 40 x 50"
    assert problems["ground_truth/crack/001_mask.png"].startswith("bad mask, left out")


def test_an_empty_mask_remains_for_the_evaluation_to_judge(mvtec: Path) -> None:
    cv2.imwrite(str(mvtec / "ground_truth/crack/000_mask.png"), np.zeros((40, 50), np.uint8))
    assert scan(mvtec).test[0].mask == "ground_truth/crack/000_mask.png"


def test_a_test_photo_without_a_kind_is_left_out_and_named(mvtec: Path) -> None:
    write(mvtec / "test" / "stray.png", 900)
    found = scan(mvtec)
    assert len(found.test) == 6
    assert what(found) == {"test/stray.png": "no kind, left out: wanted test/<kind>/<name>"}


def test_folders_that_cannot_be_meant_are_refused(tmp_path: Path, mvtec: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        scan(tmp_path / "nothing")
    with pytest.raises(DataError, match="is not a folder"):
        scan(write(tmp_path / "a.png", 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no photos: looked for \.bmp \.jpeg .*; it is empty"):
        scan(tmp_path / "empty")
    (tmp_path / "empty" / "a.heic").touch()
    with pytest.raises(DataError, match=r"holds no photos: .*; it holds \.heic files"):
        scan(tmp_path / "empty")
    shutil.rmtree(mvtec / "train" / "good")
    with pytest.raises(DataError, match=r"but no train/good/"):
        scan(mvtec)
    (mvtec / "train" / "good").mkdir()
    with pytest.raises(DataError, match=r"train/good holds no photos"):
        scan(mvtec)


def test_evaluation_needs_no_photos_to_train_on(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "train")
    found = scan(mvtec, needed=0)
    assert found.photos == ()
    assert len(found.test) == 6
    assert found.layout == "mvtec"
    assert "0 photos of good parts" in dataset.report(found)


def test_progress_is_told_once_a_photo(mvtec: Path) -> None:
    heard: list[tuple[int, int]] = []
    scan(mvtec, lambda step, done, total, note="": heard.append((done, total)))
    assert heard == [(done, 30) for done in range(1, 31)]


def test_a_listener_that_raises_stops_the_scan(folder: Path) -> None:
    class StopError(Exception):
        pass

    def stop(step: str, done: int, total: int, note: str = "") -> None:
        raise StopError

    with pytest.raises(StopError):
        scan(folder, stop)


def test_the_listing_comes_back_from_json_and_a_wrong_one_does_not(mvtec: Path) -> None:
    found = scan(mvtec)
    text = dataset.encode(found)
    assert dataset.decode(text, "data.json") == found
    for wrong in (b"", b"[]", text.replace(b'"layout"', b'"lay"'), text.replace(b'"train"', b'"training"'), b"\xff"):
        with pytest.raises(DataError, match=r"data\.json is not a listing of photos"):
            dataset.decode(wrong, "data.json")


def test_the_report_counts_everything_and_names_a_few_of_each_group() -> None:
    photos = tuple(Photo(f"{i}.png", f"{i:064}", "train" if i else "tune", 100 + i, 200) for i in range(20))
    test = (TestPhoto("test/good/0.png", "good", None), TestPhoto("test/a/0.png", "a", "m.png"))
    problems = (
        *tuple(Problem(f"{i}.png", f"odd size, kept: {i}") for i in range(9)),
        Problem("x", "empty, left out: 0"),
    )
    text = dataset.report(Dataset("/photos", "mvtec", photos, test, problems, 4095), lines=3)
    assert text.splitlines() == [
        "20 photos of good parts in /photos: 19 train, 1 tune, 0 held-out",
        "size (height x width): 100 x 200 to 119 x 200, median 110 x 200",
        "16-bit photos: full white is 4095",
        "2 test photos: 1 good, 1 a; 1 masks",
        "1 x empty, left out",
        "  x: 0",
        "9 x odd size, kept",
        "  0.png: 0",
        "  1.png: 1",
        "  2.png: 2",
        "  and 6 more",
    ]


def test_the_real_photos_are_all_found(shared: Path) -> None:
    """Magnetic tiles: 762 good, 582 test photos, 392 defects each with a mask; sizes vary and nothing is odd."""
    found = scan(shared / "data" / "mtd" / "magnetic_tile")
    assert len(found.photos) == 762
    assert len(found.test) == 582
    assert (
        sum(photo.mask is not None for photo in found.test) == sum(photo.kind != "good" for photo in found.test) == 392
    )
    assert found.problems == ()


def test_each_side_has_its_least_whatever_the_hashes_are() -> None:
    low = [Facts(f"{n}.png", f"{n:064x}", 8, 8, 255, True) for n in range(12)]
    found = [photo.side for photo in dataset._split(low, "")]
    assert {side: found.count(side) for side in set(found)} == {"held-out": 4, "tune": 4, "train": 4}
    high = [Facts(f"{n}.png", f"{16**64 - 1 - n:064x}", 8, 8, 255, True) for n in range(12)]
    found = [photo.side for photo in dataset._split(high, "")]
    assert {side: found.count(side) for side in set(found)} == {"held-out": 4, "tune": 4, "train": 4}
