"""Figures against labels: known answers on made parts, exact rates, and nothing left out in silence."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import line
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import dataset, frames, metrics
from mtkd_edge.bundle import Manifest
from mtkd_edge.device.engine import Frames, Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.evaluate import Evaluation, evaluate, shrink, text
from mtkd_edge.errors import DataError


def speck(row: int, column: int, brightness: int, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A part with one bright cell of eight by eight, and its mask."""
    photo, cell = line.part(20, size=size), size // 8
    inside = slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
    photo[inside] = brightness
    mask = np.zeros_like(photo)
    mask[inside] = 255
    return photo, mask


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """10 good test photos of which 2 are as bright as a defect; specks 5 bright, 5 faint, 2 without a usable mask."""
    for n in range(12):
        line.write_photo(tmp_path / "train/good" / f"{n}.png", line.part(15 + n))
    for n in range(10):
        photo = speck(n % 8, 1, 200 + n)[0] if n < 2 else line.part(18 + n, size=128)
        line.write_photo(tmp_path / "test/good" / f"{n}.png", photo)
    for kind, brightness in (("bright", 220), ("faint", 90)):
        for n in range(5):
            photo, mask = speck(n, 6, brightness + n)
            line.write_photo(tmp_path / "test" / kind / f"{n}.png", photo)
            line.write_photo(tmp_path / "ground_truth" / kind / f"{n}_mask.png", mask)
    line.write_photo(tmp_path / "test/lost/0.png", speck(3, 3, 240)[0])
    line.write_photo(tmp_path / "test/lost/1.png", speck(3, 4, 241)[0])
    line.write_photo(tmp_path / "ground_truth/lost/1_mask.png", np.zeros((128, 128, 3), np.uint8))
    return tmp_path


def run(root: Path, engine: FakeEngine | None = None, manifest: Manifest = line.MANIFEST) -> Evaluation:
    return evaluate(engine or FakeEngine(batch=4), manifest, line.THRESHOLD, dataset.scan(root))


def test_figures_of_made_parts_are_the_known_ones(parts: Path) -> None:
    found = run(parts)
    assert (found.good, found.defective, found.with_mask) == (10, 12, 10)
    assert found.without_mask == ("test/lost/0.png", "test/lost/1.png")
    assert found.invalid == ()
    # 10 good: 8 dark, 2 at 0.79; 7 defective above all good ones, 5 faint ones above 8 of 10
    assert found.image_auroc == pytest.approx((7 * 10 + 5 * 8) / 120)
    assert found.per_defect == {"bright": 1.0, "faint": 0.8, "lost": 1.0}
    assert (found.false_alarm_rate, found.detection_rate) == (0.2, pytest.approx(7 / 12))
    assert found.detection_by_defect["faint"].count == 0
    assert found.detection_by_defect["bright"].count == 5
    assert found.false_alarm_interval == pytest.approx(metrics.wilson(2, 10))
    assert found.f1_max == pytest.approx(12 / 13)  # all 12 with the 2 bright good ones
    assert found.threshold == 0.5
    assert len(found.scores) == 22
    assert found.pixel_auroc is not None and found.pixel_auroc > 0.99
    assert found.aupro is not None and found.aupro > 0.95


def test_the_keys_users_rely_on_are_there_and_are_numbers(parts: Path) -> None:
    found = msgspec.json.decode(msgspec.json.encode(run(parts)))
    for key in ("image_auroc", "pixel_auroc", "aupro", "f1_max", "false_alarm_rate", "detection_rate", "threshold"):
        assert isinstance(found[key], float), key
    assert isinstance(found["per_defect"], dict)


def test_pixel_figures_are_those_of_the_full_resolution_to_a_percent(parts: Path) -> None:
    """The same masks at 128 x 128 and maps warped there, ranked without the frame's grid."""
    data = dataset.scan(parts)
    masks, maps = [], []
    for photo in data.test:
        if photo.kind == "good" or (photo.mask and "lost" not in photo.path):
            picture = frames.read(parts / photo.path)
            values = FakeEngine().infer(frames.to_frame(picture, line.SPEC)[None]).maps[0]
            maps.append(frames.map_to_photo(values, 128, 128))
            masks.append(dataset.read_mask(parts / photo.mask) if photo.mask else np.zeros((128, 128), bool))
    exact_auroc, exact_aupro = metrics.pixel_figures(masks, maps)
    found = run(parts)
    assert found.pixel_auroc == pytest.approx(exact_auroc, abs=0.01)
    assert found.aupro == pytest.approx(exact_aupro, abs=0.02)


def test_photos_that_cannot_be_scored_are_named_and_left_out(parts: Path) -> None:
    class Blind(FakeEngine):
        """Gives NaN for the bright specks of 221."""

        def infer(self, frames: Frames) -> Inference:
            right = super().infer(frames)
            blind = frames.max((1, 2, 3)) == 221
            maps = np.where(blind[:, None, None], np.float32(np.nan), right.maps)
            return Inference(maps, np.where(blind, np.float32(np.nan), right.scores), right.stages)

    data = dataset.scan(parts)
    (parts / "test/faint/2.png").write_bytes(b"torn")  # after it was listed
    found = evaluate(Blind(batch=3), line.MANIFEST, line.THRESHOLD, data)
    reasons = {problem.path: problem.what for problem in found.invalid}
    assert set(reasons) == {"test/bright/1.png", "test/faint/2.png"}
    assert reasons["test/bright/1.png"] == "the score is not finite"
    assert (found.good, found.defective) == (10, 10)
    assert "invalid, left out: test/faint/2.png" in text(found)


def test_the_batch_size_and_the_order_of_photos_change_nothing(parts: Path) -> None:
    assert run(parts, FakeEngine(batch=1)) == run(parts, FakeEngine(batch=22)) == run(parts, FakeEngine(batch=5))


def test_without_defects_only_false_alarms_can_be_said(tmp_path: Path) -> None:
    for n in range(12):
        line.write_photo(tmp_path / "train/good" / f"{n}.png", line.part(15 + n))
        line.write_photo(tmp_path / "test/good" / f"{n}.png", line.part(40 + n))
    found = run(tmp_path)
    assert (found.image_auroc, found.pixel_auroc, found.detection_rate, found.f1_max) == (None,) * 4
    assert found.false_alarm_rate == 0.0
    assert "none" in text(found)


def test_without_test_photos_the_wanted_layout_is_named(tmp_path: Path) -> None:
    for n in range(12):
        line.write_photo(tmp_path / f"{n}.png", line.part(15 + n))
    with pytest.raises(DataError, match="has no test photos, wanted test/good/"):
        run(tmp_path)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_no_defect_vanishes_when_its_mask_is_shrunk(height: int, width: int, seed: int) -> None:
    mask = np.zeros((height, width), np.bool_)
    rng = np.random.default_rng(seed)
    mask[rng.integers(height), rng.integers(width)] = True
    small = shrink(mask, (64, 64))
    assert small.shape == (64, 64)
    assert small.any()


def test_a_scratch_beside_a_blot_does_not_vanish_either() -> None:
    """Each region keeps the cells that it covers most, whatever another one covers; the blot keeps its size."""
    mask = np.zeros((4096, 4096), np.bool_)
    mask[200:1000, 200:1000] = True
    blot = shrink(mask, (256, 256))
    mask[3000:3007, 500:3500] = True
    both = shrink(mask, (256, 256))
    assert np.array_equal(both[:128], blot[:128])
    assert both[187].sum() >= 180 and both[128:187].sum() == both[188:].sum() == 0


def test_a_shrunk_mask_keeps_its_area_and_place() -> None:
    y, x = np.mgrid[:900, :900]
    mask = np.hypot(x - 300, y - 600) < 120
    small = shrink(mask, (256, 256))
    assert small.mean() == pytest.approx(mask.mean(), rel=0.02)
    ys, xs = np.nonzero(small)
    assert (xs.mean(), ys.mean()) == pytest.approx((300 * 256 / 900, 600 * 256 / 900), abs=0.7)


def test_memory_is_one_small_map_a_photo(tmp_path: Path) -> None:
    for n in range(12):
        line.write_photo(tmp_path / "train/good" / f"{n}.png", line.part(15 + n))
    for n in range(40):
        photo, mask = speck(n % 8, n // 8, 220, size=800)
        photo[0, 0] = n, n, n  # no two files are the same
        line.write_photo(tmp_path / "test" / ("good" if n % 2 else "hole") / f"{n}.png", photo)
        if n % 2 == 0:
            line.write_photo(tmp_path / "ground_truth/hole" / f"{n}_mask.png", mask)
    data = dataset.scan(tmp_path)
    tracemalloc.start()
    found = evaluate(FakeEngine(), line.MANIFEST, line.THRESHOLD, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.defective == 20
    # numpy's share: batches and the photos decoded ahead, far from 40 photos, masks and maps of 800 x 800
    assert peak < 45e6 < 40 * 800 * 800 * (3 + 1 + 4)
