"""What an image file says of itself before it is decoded: its format, its size, and whether it holds several pictures.

Read from the first bytes by the formats' own definitions (JPEG: ITU-T T.81 annex B; PNG: W3C, with the animation
chunk; BMP: Windows' BITMAPINFOHEADER and its OS/2 predecessor; TIFF 6.0 and BigTIFF; WebP: RFC 9649). A decoder knows
many more formats, each with its own flaws, and takes them under any ending: what is none of these five is refused.

This file knows nothing of pixels, and trusts nothing: whoever decodes compares the result with what was said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import msgspec

from mtkd_edge.errors import DataError

PAGES = 16
"""Directories of a TIFF file that are looked at: one that leads in a circle ends, too."""
DAMAGED = "is not an image that can be read, or it is damaged:"


class Header(msgspec.Struct, frozen=True):
    """`width` and `height` before any EXIF rotation; `several`: animated, or of several pages."""

    format: Literal["JPEG", "PNG", "BMP", "TIFF", "WebP"]
    width: int
    height: int
    several: bool = False


def look(data: bytes, name: str) -> Header:
    """The first bytes of an image file, or all of it -> what it says. Raises DataError naming `name`."""
    for magic, reader in READERS:
        if data.startswith(magic):
            try:
                header = reader(data)
            except (struct.error, IndexError, OverflowError) as error:
                raise DataError(f"{name} {DAMAGED} its header is cut short", "copy it again or remove it") from error
            if min(header.width, header.height) < 1:
                what = f"its header says {header.width} x {header.height} pixels"
                raise DataError(f"{name} {DAMAGED} {what}", "copy it again or remove it")
            return header
    raise DataError(
        f"{name} {DAMAGED} no JPEG, PNG, BMP, TIFF or WebP file begins so",
        "convert it to PNG, or copy it again",
    )


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        at = _marker(data, at)
        while data[at] == 0xFF:  # any number of fill bytes
            at += 1
        marker, at = data[at], at + 1
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return Header("JPEG", width, height)
        if marker in (0x01, 0xD8) or 0xD0 <= marker <= 0xD7:  # these stand alone
            continue
        if marker in (0xD9, 0xDA):
            return Header("JPEG", 0, 0)  # the picture begins, or ends, without a size
        (length,) = struct.unpack_from(">H", data, at)
        at += max(2, length)


def _marker(data: bytes, at: int) -> int:
    """Where the next marker begins: decoders skip bytes that belong to none."""
    found = data.find(b"\xff", at)
    if found < 0:
        raise IndexError("no further marker")
    return found


def _png(data: bytes) -> Header:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        return Header("PNG", 0, 0)
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"acTL", b"IDAT"):
            return Header("PNG", width, height, several=kind == b"acTL")
        at += 12 + length
    return Header("PNG", width, height)


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Header("BMP", width, height)
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height))  # negative: from the top down


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    big = version == 43
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    first, at = _directory(data, at, order, big)
    several = False
    for _ in range(PAGES):
        if not at or several:
            break
        page, at = _directory(data, at, order, big)
        several = not page.get(254, 0) & 1  # a reduced copy of the first page is no further picture
    return Header("TIFF", first.get(256, 0), first.get(257, 0), several or bool(at))


def _directory(data: bytes, at: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """The tags that are one whole number, and where the next directory is (0: there is none)."""
    count, offset, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    (number,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(order + count)
    found = {}
    for place in range(at, min(at + number * entry, len(data)), entry):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if code := {3: "H", 4: "I", 16: "Q"}.get(kind):
            (found[tag],) = struct.unpack_from(order + code, data, place + (12 if big else 8))
    (following,) = struct.unpack_from(order + offset, data, at + number * entry)
    return found, following


def _webp(data: bytes) -> Header:
    kind = data[8:16]
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", width & 0x3FFF, height & 0x3FFF)
    if kind == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"WEBPVP8X":
        flags, low, high = struct.unpack_from("<B3xHB", data, 20)
        (below, above) = struct.unpack_from("<HB", data, 27)
        return Header("WebP", (high << 16 | low) + 1, (above << 16 | below) + 1, several=bool(flags & 2))
    return Header("WebP", 0, 0)


READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
    (b"RIFF", _webp),
)
