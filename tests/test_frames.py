"""Pixels in: what is read, what is refused, and where the resize puts things."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import frames
from mtkd_edge.errors import DataError
from mtkd_edge.frames import FrameSpec

FITS = ("squash", "letterbox")


def photo_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(picture: np.ndarray, suffix: str) -> bytes:
    """RGB or grey -> the bytes of a file."""
    bgr = picture[..., [2, 1, 0, *range(3, picture.shape[2])]] if picture.ndim == 3 else picture
    return cv2.imencode(suffix, bgr)[1].tobytes()


@pytest.mark.parametrize("suffix", sorted(frames.SUFFIXES))
def test_every_known_ending_is_read_as_rgb(suffix: str) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:] = (200, 100, 30)
    back = frames.decode(encoded(picture, suffix), "x")
    assert back.shape == picture.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - picture).max() <= 4  # JPEG and WebP lose a little


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_photos_become_three_equal_channels_of_the_same_depth(dtype: type) -> None:
    grey = np.arange(40 * 50, dtype=dtype).reshape(40, 50)
    back = frames.decode(encoded(grey, ".png"), "x")
    assert back.dtype == dtype
    assert (back == grey[..., None]).all()


def test_sixteen_bits_survive_in_colour() -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    for suffix in (".png", ".tiff"):
        assert (frames.decode(encoded(picture, suffix), "x") == picture).all()


def test_alpha_is_dropped_not_blended() -> None:
    picture = np.dstack([photo_of(20, 30), np.zeros((20, 30), np.uint8)])
    assert (frames.decode(encoded(picture, ".png"), "x") == picture[..., :3]).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [(1, lambda p: p), (3, lambda p: p[::-1, ::-1]), (6, lambda p: np.rot90(p, -1)), (8, lambda p: np.rot90(p))],
)
def test_exif_rotation_is_applied(orientation: int, undo: object) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255
    jpeg = encoded(picture, ".jpg")
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    expected = undo(frames.decode(jpeg, "x"))  # type: ignore[operator]
    assert np.array_equal(frames.decode(turned, "x"), expected)


@pytest.mark.parametrize("suffix", sorted(frames.SUFFIXES))
@pytest.mark.parametrize("part", [0.4, 0.95])
def test_a_photo_cut_short_is_refused_by_name(suffix: str, part: float) -> None:
    data = encoded(photo_of(80, 90), suffix)
    with pytest.raises(DataError, match=r"half\.img is not an image that can be read, or it is damaged"):
        frames.decode(data[: int(len(data) * part)], "half.img")


def test_empty_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "none.png").touch()
    with pytest.raises(DataError, match=r"none.png is empty \(0 bytes\)"):
        frames.read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png is not an image"):
        frames.read(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        frames.read(tmp_path / "gone.png")


def png_bomb(side: int) -> bytes:
    """A well-formed start of a PNG of side x side pixels, all zero: a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((side * 3 + 1) * 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_unpacks_whatever_module_is_imported_first(tmp_path: Path) -> None:
    """20,000 x 20,000 pixels take 1.2 GB and pass OpenCV's own limit. In a process where metrics imports cv2 first."""
    (tmp_path / "bomb.png").write_bytes(png_bomb(20_000))
    program = """
import resource, sys, time
from pathlib import Path
import mtkd_edge.metrics
from mtkd_edge import frames
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    frames.read(Path(sys.argv[1]))
except frames.DataError as error:
    print(error.message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - start)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.png")], capture_output=True, text=True, check=True
    )
    message, figures = run.stdout.splitlines()
    kilobytes, seconds = (float(figure) for figure in figures.split())
    assert message.endswith("bomb.png is refused: 20,000 x 20,000 pixels, more than 100,000,000")
    assert kilobytes < 50_000
    assert seconds < 2


def test_sixteen_bits_are_scaled_by_the_full_scale_never_by_the_photo() -> None:
    dim = np.full((4, 4, 3), 1000, np.uint16)
    assert (frames.to_8bit(dim, 4095) == round(1000 / 4095 * 255)).all()
    assert (frames.to_8bit(np.full((1, 1, 3), 4095, np.uint16), 4095) == 255).all()
    assert (frames.to_8bit(np.full((1, 1, 3), 60000, np.uint16), 4095) == 255).all(), "brighter than white is clipped"
    same = photo_of(3, 3)
    assert (frames.to_8bit(same, 4095) == same).all()


@given(st.integers(0, 65535))
def test_white_is_the_smallest_full_scale_that_holds_the_brightest_pixel(brightest: int) -> None:
    photo = np.zeros((2, 2, 3), np.uint16)
    photo[1, 1, 2] = brightest
    white = frames.white_of(photo)
    assert white in frames.WHITES
    assert brightest <= white
    assert all(other < brightest for other in frames.WHITES if other < white)
    assert frames.white_of(photo.astype(np.uint8)) == 0


@pytest.mark.parametrize("size", [(31, 64), (0, 64), (64, 100), (-32, 32)])
def test_a_frame_has_sides_that_are_multiples_of_32(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="positive multiples of 32"):
        FrameSpec(*size)
    with pytest.raises(ValueError, match="white must be one of"):
        FrameSpec(64, 64, white=4096)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), "uint8"), ((4, 4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8")]
)
def test_what_is_not_a_photo_is_no_frame(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(DataError, match="a photo is"):
        frames.to_frame(np.zeros(shape, dtype), FrameSpec(64, 64))


sides = st.integers(1, 300)
specs = st.builds(
    FrameSpec, height=st.sampled_from([32, 64, 96]), width=st.sampled_from([32, 64, 128]), fit=st.sampled_from(FITS)
)


@given(sides, sides, specs, st.integers(0, 255), st.booleans())
def test_any_photo_becomes_a_frame_and_a_plain_one_stays_plain(
    height: int, width: int, spec: FrameSpec, value: int, deep: bool
) -> None:
    photo = np.full((height, width, 3), value * (257 if deep else 1), np.uint16 if deep else np.uint8)
    frame = frames.to_frame(photo, spec)
    assert frame.shape == (spec.height, spec.width, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    left, top, w, h = frames.placement(height, width, spec)
    darkest = 1 if spec.fit == "letterbox" else 0
    assert (frame[top : top + h, left : left + w] == max(value, darkest)).all()


@given(sides, sides, specs)
def test_a_letterbox_keeps_the_shape_to_a_cell_and_its_margins_are_black(
    height: int, width: int, spec: FrameSpec
) -> None:
    left, top, w, h = frames.placement(height, width, spec)
    assert left >= 0 and top >= 0 and left + w <= spec.width and top + h <= spec.height
    if spec.fit == "squash":
        assert (left, top, w, h) == (0, 0, spec.width, spec.height)
        return
    assert w == spec.width or h == spec.height
    assert not any(side % 16 for side in (left, top)) and not any(side % 8 for side in (w, h))
    assert abs(left - (spec.width - w - left)) < 32 and abs(top - (spec.height - h - top)) < 32, "centred"
    scale = min(spec.width / width, spec.height / height)
    assert abs(w - max(32, width * scale)) <= 4
    assert abs(h - max(32, height * scale)) <= 4
    frame = frames.to_frame(photo_of(height, width), spec)
    assert frame[top : top + h, left : left + w].min() >= 1
    frame[top : top + h, left : left + w] = 0
    assert not frame.any()


def test_a_black_photo_is_no_margin() -> None:
    frame = frames.to_frame(np.zeros((50, 100, 3), np.uint8), FrameSpec(64, 64, "letterbox"))
    assert (frame[16:48] == 1).all() and not frame[:16].any() and not frame[48:].any()


@pytest.mark.parametrize("upright", [False, True])
def test_a_scratch_across_a_strip_is_not_skipped_although_the_other_axis_grows(upright: bool) -> None:
    for at in range(800, 813):
        photo = np.zeros((100, 1600, 3), np.uint8)
        photo[:, at] = 255
        frame = frames.to_frame(photo.transpose(1, 0, 2) if upright else photo, FrameSpec(256, 256))
        light = frame[..., 0].sum(axis=0 if upright else 1)
        assert light.min() >= 0.8 * 255 * 256 / 1600


@pytest.mark.parametrize("height", [1000, 20], ids=["both axes shrink", "one shrinks, one grows"])
def test_shrinking_never_skips_a_thin_scratch(height: int) -> None:
    """A line one pixel wide in a photo of 1,000 keeps its light, wherever it lies."""
    for column in (333, 500, 998):
        photo = np.zeros((height, 1000, 3), np.uint8)
        photo[:, column] = 255
        frame = frames.to_frame(photo, FrameSpec(64, 64))
        assert frame[..., 0].sum(axis=1).min() >= 0.8 * 255 * 64 / 1000


@given(st.integers(20, 400), st.integers(20, 400), st.integers(4, 64), st.integers(4, 64))
def test_map_to_photo_knows_where_a_cell_is(height: int, width: int, down: int, across: int) -> None:
    """A map that holds at each cell the x of the photo that is its centre comes back as that x, and so does y."""
    x = np.tile((np.arange(across) + 0.5) * width / across, (down, 1)).astype(np.float32)
    y = np.tile(((np.arange(down) + 0.5) * height / down)[:, None], (1, across)).astype(np.float32)
    # cells near the border are clamped, so only photo pixels that lie between centres of cells are compared
    edge_x, edge_y = int(np.ceil(width / across)), int(np.ceil(height / down))
    inside = np.s_[edge_y : height - edge_y, edge_x : width - edge_x]
    for values, wanted, cell in (
        (x, np.arange(width)[None] + 0.5, width / across),
        (y, np.arange(height)[:, None] + 0.5, height / down),
    ):
        back = frames.map_to_photo(values, height, width)
        assert back.shape == (height, width)
        assert back.dtype == np.float32
        wanted = np.broadcast_to(wanted, back.shape)
        np.testing.assert_allclose(back[inside], wanted[inside], atol=0.05 * cell + 1e-3)


def test_a_spot_in_the_photo_is_found_where_it_is() -> None:
    spec = FrameSpec(128, 128)
    photo = np.zeros((300, 180, 3), np.uint8)
    photo[200:212, 40:52] = 255
    heat = frames.to_frame(photo, spec)[..., 0].astype(np.float32)
    back = frames.map_to_photo(heat, 300, 180)
    y, x = np.unravel_index(back.argmax(), back.shape)
    assert 198 <= y <= 213
    assert 38 <= x <= 53
