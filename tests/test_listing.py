"""What is wrong with a photo is named: unreadable, empty, doubled, odd, out of reach."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from photo_tree import what, write

from mtkd_edge.dataset import scan


def test_unreadable_empty_and_duplicate_photos_are_left_out_and_named(folder: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    whole = (folder / "12.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "twin.png").write_bytes(whole)
    found = scan(folder)
    assert len(found.photos) == 24
    problems = what(found)
    assert set(problems) == {"empty.png", "text.jpg", "half.png", "twin.png"}
    assert problems["empty.png"] == "empty, left out: 0 bytes"
    assert problems["text.jpg"].startswith("unreadable, left out: is not an image")
    assert problems["half.png"].startswith("unreadable, left out: is not an image")
    assert problems["twin.png"] == "duplicate, left out: the same bytes as 12.png"


def test_a_test_photo_that_is_trained_on_is_left_out_of_the_test(mvtec: Path) -> None:
    shutil.copy(mvtec / "train/good/003.png", mvtec / "test/good/copy.png")
    found = scan(mvtec)
    assert len(found.photos) == 24
    assert "test/good/copy.png" not in [photo.path for photo in found.test]
    assert what(found)["test/good/copy.png"].endswith("the same bytes as train/good/003.png, which is trained on")


def test_odd_sizes_and_mixed_colour_are_kept_and_named(folder: Path) -> None:
    write(folder / "thin.png", 50, (20, 100))
    write(folder / "huge.png", 51, (200, 250))
    write(folder / "near.png", 52, (44, 52))
    write(folder / "grey.png", 53, grey=True)
    found = scan(folder)
    assert len(found.photos) == 28
    assert what(found) == {
        "thin.png": "odd size, kept: 20 x 100 (height x width)",
        "huge.png": "odd size, kept: 200 x 250 (height x width)",
        "grey.png": "mixed colour, kept: grey, while most good photos are in colour",
    }


def test_a_folder_of_many_sizes_has_no_odd_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        write(tmp_path / f"{index}.png", index, tuple(np.exp(rng.normal(4, 0.4, 2)).astype(int)))
    assert scan(tmp_path).problems == ()


def test_links_are_read_only_where_they_stay_inside(folder: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "secret.png", 500)
    (folder / "leaves.png").symlink_to(outside)
    (folder / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "within.png").symlink_to(folder / "12.png")
    found = scan(folder)
    assert len(found.photos) == 24
    problems = what(found)
    assert problems["leaves.png"] == f"link, left out: it leaves the folder to {outside}"
    assert problems["nowhere.png"].startswith("link, left out")
    assert problems["linked"] == "link, left out: folders behind links are not read"
    assert problems["within.png"] == "duplicate, left out: the same bytes as 12.png"
    (tmp_path / "door").symlink_to(folder)
    assert scan(tmp_path / "door").photos == found.photos, "the root itself may be a link"


def test_a_pipe_that_looks_like_a_photo_does_not_block(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert what(scan(folder)) == {"pipe.png": "unreadable, left out: not a regular file"}


def test_files_that_may_not_be_read_are_named() -> None:
    """Root may read everything, so the scan runs as nobody where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for index in range(12):
            write(folder / f"{index:02}.png", index)
        write(folder / "secret.png", 50).chmod(0)
        write(folder / "closed" / "a.png", 51).parent.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            found = scan(folder)
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o755)
    assert len(found.photos) == 12
    denied = "unreadable, left out: Permission denied"
    assert what(found) == {"secret.png": denied, "closed": denied}
