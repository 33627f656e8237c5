"""Letterboxed frames: where the photo is, what networks see of it, and a map that is of the photo alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import line
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_edge import bundle, frames
from mtkd_edge.cli.train import report
from mtkd_edge.dataset import Dataset, Photo
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import UsageError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab import framing, letterbox, merge, teachers
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.fake_quant import FakeQuantStudent
from mtkd_edge.lab.letterbox import View
from mtkd_edge.lab.map_method import pixels_of
from mtkd_edge.lab.mix import Mix
from mtkd_edge.lab.train import train
from mtkd_edge.progress import silent
from mtkd_edge.synthetic import paste_defect

BOX = FrameSpec(128, 128, "letterbox")
GRID = (16, 16)
CPU = torch.device("cpu")
sides = st.integers(20, 400)


def boxed(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, tuple[slice, slice]]:
    """A frame of a random photo, as pixels too, and where the photo is."""
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    left, top, w, h = frames.placement(height, width, BOX)
    frame = frames.to_frame(photo, BOX)
    return frame, pixels_of(frame[None], CPU), (slice(top, top + h), slice(left, left + w))


@given(sides, sides)
def test_margins_repeat_the_photos_edge(height: int, width: int) -> None:
    frame, pixels, (rows, columns) = boxed(height, width)
    around = (rows.start, 128 - rows.stop, columns.start, 128 - columns.stop)
    wanted = cv2.copyMakeBorder(frame[rows, columns], *around, cv2.BORDER_REPLICATE)
    assert np.array_equal(letterbox.filled(pixels)[0].permute(1, 2, 0).numpy(), wanted)


@given(sides, sides, st.sampled_from([8, 16]), st.sampled_from([(16, 16), (12, 12), (20, 24)]))
def test_a_map_is_cut_to_the_photo_and_resized(height: int, width: int, stride: int, grid: tuple[int, int]) -> None:
    _, pixels, place = boxed(height, width)
    maps = torch.randn(1, 5, 128 // 8, 128 // 8, generator=torch.manual_seed(0))
    rows, columns = (slice(s.start // 8, s.stop // 8) for s in place)
    wanted = torch.nn.functional.interpolate(maps[:, :, rows, columns], grid, mode="bilinear")
    torch.testing.assert_close(letterbox.onto_photo(maps, pixels, grid), wanted, atol=1e-5, rtol=0)
    inside = torch.zeros(128 // stride, 128 // stride, dtype=torch.bool)
    whole = [slice(s.start // stride, s.stop // stride) for s in place]
    inside[whole[0], whole[1]] = True
    cells = torch.zeros(1, 1, 128 // stride, 128 // stride)
    assert torch.equal(letterbox.photo_cells(pixels, cells)[0], inside)


def test_a_frame_that_is_all_photo_keeps_its_pixels_and_maps() -> None:
    _, pixels, _ = boxed(200, 200)
    maps = torch.randn(1, 5, 16, 16)
    assert torch.equal(letterbox.filled(pixels), pixels)
    torch.testing.assert_close(letterbox.onto_photo(maps, pixels, GRID), maps)


def test_black_inside_of_a_photo_is_no_margin_and_a_black_frame_makes_no_nan() -> None:
    _, pixels, (rows, columns) = boxed(200, 100)
    pixels[:, :, rows.start + 20 : rows.start + 40, columns.start : columns.stop - 8] = 0
    inside = letterbox.filled(pixels)[:, :, rows, columns]
    assert torch.equal(inside, pixels[:, :, rows, columns])
    assert torch.isfinite(letterbox.onto_photo(torch.randn(1, 3, 16, 16), torch.zeros(1, 3, 128, 128), GRID)).all()


def test_frames_of_one_batch_may_differ_in_shape() -> None:
    pixels = torch.cat([boxed(200, 100)[1], boxed(100, 200)[1]])
    maps = torch.randn(2, 5, 16, 16)
    alone = torch.cat([letterbox.onto_photo(maps[i : i + 1], pixels[i : i + 1], GRID) for i in range(2)])
    torch.testing.assert_close(letterbox.onto_photo(maps, pixels, GRID), alone)


@given(sides, sides, st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_pasted_defect_stays_in_the_photo(height: int, width: int, seed: int) -> None:
    frame, _, (rows, columns) = boxed(height, width)
    defective, mask = paste_defect(frame, np.random.default_rng(seed))
    assert mask.any() and mask[rows, columns].sum() == mask.sum()
    assert defective[rows, columns].min() >= 1
    defective[rows, columns] = 0
    assert not defective.any()


def listing(*shapes: tuple[int, int]) -> Dataset:
    photos = tuple(Photo(f"{n}.png", "0" * 64, "train", h, w) for n, (h, w) in enumerate(shapes))
    return Dataset("/", "folder", photos, (), (), 65535)


@pytest.mark.parametrize(
    ("config", "shapes", "wanted"),
    [
        ({"fit": "auto"}, [(100, 100)] * 20, FrameSpec(256, 256)),
        ({"fit": "auto"}, [(1080, 1920)] * 20, FrameSpec(192, 352)),  # one shape, which is kept
        ({"fit": "auto"}, [(480, 640)] * 20, FrameSpec(224, 288)),
        ({"fit": "auto"}, [(640, 480)] * 20, FrameSpec(288, 224)),
        ({"fit": "auto"}, [(500, 1000)] * 20, FrameSpec(192, 384)),  # both sides rounded one way would be 192 x 352
        ({"fit": "auto"}, [(400, 600)] * 20, FrameSpec(224, 320)),
        ({"fit": "auto", "size": 128}, [(480, 640)] * 20, FrameSpec(96, 128)),
        ({"fit": "auto", "size": 64}, [(3000, 10)] * 20, FrameSpec(1120, 32)),
        ({"fit": "squash"}, [(1080, 1920)] * 20, FrameSpec(256, 256)),
        ({"fit": "auto", "method": "paper"}, [(1080, 1920)] * 20, FrameSpec(256, 256)),
        ({"fit": "auto"}, [(100, 102), (104, 100)] * 10, FrameSpec(256, 256)),
        ({"fit": "auto"}, [(100, 100)] * 19 + [(100, 300)], FrameSpec(256, 256)),  # an odd one
        ({"fit": "auto"}, [(100, 200), (200, 100)] * 10, FrameSpec(384, 384, "letterbox")),  # 256 x root 2, and up
        ({"fit": "auto", "size": 96}, [(100, 200), (200, 100)] * 10, FrameSpec(160, 160, "letterbox")),
        ({"fit": "auto", "method": "paper"}, [(100, 200), (200, 100)] * 10, FrameSpec(256, 256)),
        ({"fit": "letterbox"}, [(100, 100)] * 20, FrameSpec(256, 256, "letterbox")),
        ({"fit": "squash"}, [(100, 200), (200, 100)] * 10, FrameSpec(256, 256)),
    ],
)
def test_frames_suit_the_photos_shapes(config: dict, shapes: list[tuple[int, int]], wanted: FrameSpec) -> None:
    assert framing.frame_spec(TrainConfig(data="", out="", **config), listing(*shapes)) == wanted


def test_the_published_method_is_not_letterboxed() -> None:
    with pytest.raises(UsageError, match="crops from squashed photos"):
        TrainConfig(data="", out="", method="paper", fit="letterbox").check()


def test_alignment_is_that_of_the_photo_and_of_no_margin() -> None:
    """Whatever lies in the margins of a map has no part in its statistics."""
    mix = Mix([teachers.load("offline-plain")], view=View(GRID)).eval()
    _, pixels, _ = boxed(200, 100)
    mix.fit([pixels])
    known = [conv.weight.clone() for conv in mix.align]
    taps = mix.taps

    def spoilt(given: torch.Tensor) -> list[torch.Tensor]:
        found = taps(given)
        for tap in found:
            tap += 1e3 * ~letterbox.photo_cells(given, tap)[:, None]
        return found

    mix.taps = spoilt  # type: ignore[method-assign]
    mix.fit([pixels])
    assert all(torch.equal(conv.weight, old) for conv, old in zip(mix.align, known, strict=True))


def test_one_teacher_for_all_learns_of_the_photo_as_well() -> None:
    """What the cheapest teacher knows is known from the start, which holds only where both look at the same places."""
    mix = Mix([teachers.load("offline-depthwise")], view=View(GRID)).eval()
    shown = np.stack([boxed(*shape, seed=n)[0] for n, shape in enumerate([(200, 100), (100, 200), (90, 90)] * 3)])
    pixels = pixels_of(shown, CPU)
    mix.fit([pixels])
    with torch.no_grad():
        blocks = mix(pixels).half()
    lessons = merge.lessons(mix, torch.ones(mix.channels), blocks, shown, shown[:0], 4, 0, silent)
    edge = merge.EdgeMix(merge.beginning([mix.teachers[0]], lessons[0].target.shape[1], ["it"], 0), View(GRID))
    merge.fit_linear(edge, lessons, 4, CPU)
    with torch.no_grad():
        said = edge(pixels)
    target = lessons[0].target.float()
    assert float((said - target).square().mean() / target.square().mean()) < 1e-5


def trained(folder: Path, shapes: list[tuple[int, int]]) -> Path:
    """A run on photos of these heights and widths."""
    for n in range(24):
        height, width = shapes[n % len(shapes)]
        line.write_photo(folder / "photos" / f"{n}.png", cv2.resize(line.part(n, size=128), (width, height)))
    names = ("offline-depthwise", "offline-plain")
    config = TrainConfig(data=str(folder / "photos"), out=str(folder / "run"), fit="auto", size=96, teachers=names,
                         epochs=2, weights="equal")  # fmt: skip
    return train(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photos of parts that are wide, high or square."""
    return trained(tmp_path_factory.mktemp("shapes"), [(128, 128), (128, 64), (64, 128)])


def find_defects(folder: Path, model: bundle.Manifest, shapes: list[tuple[int, int]]) -> None:
    """The same place of each part, far from the middle: the map has its peak there."""
    with OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD, name="it") as engine:
        for height, width in shapes:
            photo = cv2.resize(line.part(99, size=128), (width, height))
            clean = engine.infer(frames.to_frame(photo, model.frame)[None]).maps[0]
            y, x = round(0.75 * height), round(0.2 * width)
            photo[y - 5 : y + 6, x - 5 : x + 6] = (250, 40, 220)
            spoilt = engine.infer(frames.to_frame(photo, model.frame)[None]).maps[0]
            raised = frames.map_to_photo(spoilt - clean, height, width)
            down, across = np.unravel_index(raised.argmax(), raised.shape)
            assert abs(down - y) <= 12 and abs(across - x) <= 12, (height, width)


def test_a_defect_is_found_where_it_is_in_a_photo_of_any_shape(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = bundle.load_bundle(run / "bundle")
    report(run, as_json=True)
    assert "keep their shapes, in frames of 128 x 128; --fit squash" in capfd.readouterr().err
    assert model.frame == FrameSpec(128, 128, "letterbox")
    assert {(level.height, level.width) for level in model.score.levels} == {(12, 12)}  # as in a squashed frame of 96
    find_defects(run / "bundle", model, [(128, 128), (128, 64), (64, 128)])


def test_photos_of_one_shape_are_compared_in_that_shape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = trained(tmp_path, [(72, 128)])
    folder = found / "bundle"
    model = bundle.load_bundle(folder)
    report(found, as_json=True)
    assert "keep their shape, in frames of 64 x 128" in capfd.readouterr().err
    assert model.frame == FrameSpec(64, 128)
    assert {(level.height, level.width) for level in model.score.levels} == {(8, 16)}
    assert (model.score.height, model.score.width) == (16, 32)
    find_defects(folder, model, [(72, 128)])


def test_its_student_can_be_fine_tuned(run: Path) -> None:
    """Every operator of the student's part is known, and makes what the engine makes."""
    import onnx

    student = FakeQuantStudent(onnx.load(run / "bundle" / bundle.FEATURES))
    shown = np.stack([frames.to_frame(line.part(5, size=128)[:, :64], BOX)] * 2)
    with OpenvinoEngine(run / "bundle" / bundle.FEATURES, run / "bundle" / bundle.HEAD, name="it") as engine:
        theirs = np.concatenate([engine.features(frame[None])["student_deviation"] for frame in shown])
    made = student(torch.from_numpy(shown))["student_deviation"].detach().numpy()
    np.testing.assert_allclose(made, theirs, atol=1e-3 * np.abs(theirs).max())
