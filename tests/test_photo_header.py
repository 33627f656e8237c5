"""What a file says of itself is read before it is decoded, and what is no single photo of a sane size never is."""

from __future__ import annotations

import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest

from mtkd_edge import frames, photo_header
from mtkd_edge.errors import DataError

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)


def encoded(suffix: str, *parameters: int) -> bytes:
    return cv2.imencode(suffix, PICTURE, list(parameters))[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animated_png() -> bytes:
    png = encoded(".png")
    return png[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + png[33:]


def pages(second: int | None) -> bytes:
    """A TIFF of two pages; `second` is the NewSubfileType of the other one."""
    kind = [] if second is None else [(254, 4, 1, second)]
    tags = [(256, 3, 1, 50), (257, 3, 1, 30)]
    first = struct.pack("<H", 2) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    other = struct.pack("<H", len(kind)) + b"".join(struct.pack("<HHII", *tag) for tag in kind) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + first + struct.pack("<I", 8 + len(first) + 4) + other


def sized(suffix: str, width: int, height: int) -> bytes:
    """A file that says it has so many pixels."""
    data = bytearray(encoded(suffix))
    if suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif suffix == ".png":
        body = struct.pack(">II", width, height) + bytes(data[24:29])
        data[8:33] = chunk(b"IHDR", body)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif suffix == ".webp":
        flat = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        data[12:12] = b"VP8X" + struct.pack("<I4x", 10) + flat
    else:
        data = bytearray(
            pages(None).replace(struct.pack("<HHII", 256, 3, 1, 50), struct.pack("<HHII", 256, 4, 1, width))
        )
        data = data.replace(struct.pack("<HHII", 257, 3, 1, 30), struct.pack("<HHII", 257, 4, 1, height))
        data[data.index(struct.pack("<I", 38)) :] = bytes(8)
    return bytes(data)


SOUND = {
    "jpeg": (encoded(".jpg"), "JPEG"),
    "progressive": (encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "JPEG"),
    "fill bytes": (encoded(".jpg")[:2] + b"\xff\xff\xff" + encoded(".jpg")[2:], "JPEG"),
    "png": (encoded(".png"), "PNG"),
    "bmp": (encoded(".bmp"), "BMP"),
    "tiff": (encoded(".tiff"), "TIFF"),
    "webp": (encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 80), "WebP"),
    "webp lossless": (encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101), "WebP"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_header_tells_format_and_size_without_decoding(name: str) -> None:
    data, kind = SOUND[name]
    assert photo_header.look(data, "x") == photo_header.Header(kind, 50, 30)  # type: ignore[arg-type]
    for cut in range(0, min(len(data), 700), 7):
        with contextlib.suppress(DataError):
            assert photo_header.look(data[:cut], "x").width == 50


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (animated_png(), "several pictures"),
        (pages(0), "several pictures"),
        (pages(None), "several pictures"),
        (sized(".webp", 50, 30)[:20] + b"\x02" + sized(".webp", 50, 30)[21:], "several pictures"),
        (b"GIF89a" + bytes(50), "no JPEG, PNG, BMP, TIFF or WebP"),
        (b"P6 9999 9999 255\n", "no JPEG, PNG, BMP, TIFF or WebP"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "no JPEG, PNG, BMP, TIFF or WebP"),
        (b"", r"empty \(0 bytes\)"),
        (b"\xff\xd8\xff", "cut short"),
        (b"\xff\xd8\xff\xda\0\0", "says 0 x 0"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "says 0 x 0"),
        (b"II*\0" + struct.pack("<IHI", 8, 0, 8), "says 0 x 0"),
        (b"II+\0\x08\0\0\0" + struct.pack("<Q", (1 << 64) - 8), "cut short"),
        (sized(".png", 0, 30), "says 0 x 30"),
        (sized(".bmp", 50, -2000000000), "more than 100,000,000"),
        *((sized(suffix, 60000, 60000), "more than 100,000,000") for suffix in (".jpg", ".png", ".bmp", ".tiff")),
        (sized(".webp", 1 << 24, 1 << 24), "16,777,216 x 16,777,216 pixels, more than"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else value,
)
def test_what_is_no_single_photo_of_a_sane_size_is_never_decoded(
    data: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames.cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=says):
        frames.decode(data, "x.png")


def test_a_thumbnail_behind_the_first_page_is_no_second_picture() -> None:
    assert not photo_header.look(pages(1), "x").several


def test_a_decoder_that_gives_another_size_than_the_header_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames.cv2, "imdecode", lambda *_: np.zeros((31, 50, 3), np.uint8))
    with pytest.raises(DataError, match=r"\[31, 50, 3\] was decoded, its header says \[30, 50\]"):
        frames.decode(encoded(".png"), "x")
