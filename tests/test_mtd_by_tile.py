"""`scripts/mtd_by_tile.py`: no tile on both sides, and no photo or mask lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from photo_tree import write

from mtkd_edge.dataset import scan
from mtkd_edge.errors import DataError

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "mtd_by_tile.py"
spec = importlib.util.spec_from_file_location("mtd_by_tile", SCRIPT)
assert spec is not None and spec.loader is not None
mtd_by_tile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mtd_by_tile)


def test_a_tile_is_a_run_of_rising_exposures_and_stays_whole(tmp_path: Path) -> None:
    seed = 0
    for tile in range(20):
        for exposure in (1, 2, 3):
            side = "train" if (tile + exposure) % 3 else "test"  # as published: by photo
            number = 1000 * tile + 10 * exposure
            write(tmp_path / f"mtd/{side}/good/exp{exposure}_num_{number}.png", seed := seed + 1)
    write(tmp_path / "mtd/test/crack/exp4_num_1045.png", seed + 1)
    write(tmp_path / "mtd/ground_truth/crack/exp4_num_1045_mask.png", seed + 2)
    counts = mtd_by_tile.split(tmp_path / "mtd", tmp_path / "out")
    assert counts == {"train/good": 48, "test/good": 12, "test/crack": 1}
    found = scan(tmp_path / "out", part="(tile[0-9]+)_")
    trained = {Path(photo.path).name[:7] for photo in found.photos}
    tested = {Path(photo.path).name[:7] for photo in found.test if photo.kind == "good"}
    assert len(trained) == 16 and len(tested) == 4 and not trained & tested
    assert [photo.mask is not None for photo in found.test if photo.kind == "crack"] == [True]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train/good"):
        mtd_by_tile.split(tmp_path, tmp_path / "out")
    write(tmp_path / "mtd/train/good/000.png", 1)
    with pytest.raises(DataError, match="is not named exp"):
        mtd_by_tile.split(tmp_path / "mtd", tmp_path / "out")
    with pytest.raises(DataError, match="exists already"):
        mtd_by_tile.split(tmp_path / "mtd", tmp_path)
