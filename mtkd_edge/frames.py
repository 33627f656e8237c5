"""Pixels in: reading a photo, and the one resize that training and the line share.

A *photo* is what came from a file or a camera: RGB, [H, W, 3], uint8 or uint16. A *frame* is what a graph takes: RGB,
[height, width, 3], uint8. Grey photos become three equal channels, EXIF rotation is applied, alpha is dropped.

This file knows nothing of networks: mean and standard deviation are the first nodes of the exported graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import cv2 as cv2  # for the shared modules that draw or filter: they take it from here
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import MAX_PIXELS, files, photo_header
from mtkd_edge.errors import DataError

# its warnings about damaged files would repeat, on stderr, what our errors say
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files with these endings are photos, whatever their case."""
WHITES = (255, 1023, 4095, 16383, 65535)
"""Full scale of 8, 10, 12, 14 and 16 bit cameras."""

CELL = 8
"""Pixels of a frame to a position of the finest map that is compared."""

MAX_BYTES = 6 * MAX_PIXELS + (1 << 20)
"""Of a file: the largest photo, 16 bits a channel, not compressed at all."""

Photo = NDArray[np.uint8] | NDArray[np.uint16]
Frame = NDArray[np.uint8]


class FrameSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a photo becomes a frame.

    `fit`: "squash" changes the aspect ratio, "letterbox" keeps it, with margins of 0 around the picture. What a graph
    makes of either is a map of the photo, without margins.
    `white`: the value of full white in 16-bit photos, one of WHITES; 8-bit photos always end at 255.
    """

    height: int
    width: int
    fit: Literal["squash", "letterbox"] = "squash"
    white: int = 65535

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32 or self.height % 32 or self.width % 32:
            raise ValueError(f"height and width must be positive multiples of 32, got {self.height} x {self.width}")
        if self.white not in WHITES:
            raise ValueError(f"white must be one of {WHITES}, got {self.white}")


def decode(data: bytes, name: str) -> Photo:
    """The bytes of an image file -> photo. Raises DataError naming `name` for what cannot be read."""
    return cast(Photo, cv2.cvtColor(decode_bgr(data, name), cv2.COLOR_BGR2RGB))


def decode_bgr(data: bytes, name: str) -> Photo:
    """As `decode`, in the order of channels that OpenCV has: for whoever copies the pixels anyway.

    Its size is that which the header says, and was looked at before anything was decoded.
    """
    if not data:
        raise DataError(f"{name} is empty (0 bytes)", "delete it or copy it again")
    header = photo_header.look(data, name)
    size = (header.height, header.width)
    if header.width * header.height > MAX_PIXELS:
        what = f"{header.width:,} x {header.height:,} pixels, more than {MAX_PIXELS:,}"
        raise DataError(f"{name} is refused: {what}", "scale it down first")
    if header.several:
        raise DataError(f"{name} holds several pictures: animated, or of several pages", "save one of them as PNG")
    try:
        # these two flags keep 16 bits, apply the EXIF rotation, make grey three channels and drop alpha
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise DataError(
            f"{name} cannot be decoded: {error.err}", "open it in an image viewer; copy it again"
        ) from error
    if picture is None:
        raise DataError(f"{name} is not an image that can be read, or it is damaged", "copy it again or remove it")
    if picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} has pixels of type {picture.dtype}, wanted 8 or 16 bit integers", "convert it to PNG")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.shape[:2] not in (size, size[::-1]):
        raise DataError(f"{name} is damaged: {list(picture.shape)} was decoded, its header says {list(size)}")
    return cast(Photo, picture)


def read(path: Path) -> Photo:
    """An image file -> photo. Raises DataError naming the file."""
    return decode(files.read(path, MAX_BYTES), str(path))


def to_8bit(photo: Photo, white: int) -> Frame:
    """uint16 -> uint8 with `white` at 255, clipped; uint8 stays. The scale is fixed, never the photo's own maximum."""
    if photo.dtype == np.uint8:
        return photo.astype(np.uint8, copy=False)
    return np.asarray(np.minimum(photo.astype(np.float32) * (255 / white) + 0.5, 255), np.uint8)


def white_of(photo: Photo) -> int:
    """The smallest full scale of WHITES that holds the photo's brightest value; 0 for 8-bit photos."""
    if photo.dtype == np.uint8:
        return 0
    brightest = int(photo.max())
    return next(white for white in WHITES if brightest <= white)


def placement(photo_height: int, photo_width: int, spec: FrameSpec) -> tuple[int, int, int, int]:
    """Where the picture lies inside its frame: (left, top, width, height) in frame pixels.

    In a letterbox it is a whole number of CELL wide and high, 32 pixels at least, and begins at a cell of twice that
    size: cells of the networks' maps are then the photo's or the margin's.
    """
    if spec.fit == "squash":
        return 0, 0, spec.width, spec.height
    scale = min(spec.height / photo_height, spec.width / photo_width)
    height, width = (max(32, CELL * round(side * scale / CELL)) for side in (photo_height, photo_width))
    begin = 2 * CELL
    return (spec.width - width) // 2 // begin * begin, (spec.height - height) // 2 // begin * begin, width, height


def to_frame(photo: Photo, spec: FrameSpec) -> Frame:
    """[H, W, 3] uint8 or uint16 -> [spec.height, spec.width, 3] uint8, contiguous.

    Shrinking averages areas, enlarging interpolates: a thin scratch is never skipped over. Raises DataError for another
    shape or type.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype not in (np.uint8, np.uint16) or not photo.size:
        raise DataError(f"a photo is [H, W, 3] of uint8 or uint16, got {list(photo.shape)} of {photo.dtype}")
    left, top, width, height = placement(photo.shape[0], photo.shape[1], spec)
    # shrink first: where any axis grows, OpenCV's INTER_AREA quietly becomes bilinear and skips pixels of the other
    size = min(width, photo.shape[1]), min(height, photo.shape[0])
    shrunk = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    resized = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)
    frame = to_8bit(cast(Photo, resized), spec.white)
    if spec.fit == "letterbox":
        boxed = np.zeros((spec.height, spec.width, 3), np.uint8)
        # 0 is the margin's alone: the graph finds the photo by it
        np.maximum(frame, 1, out=boxed[top : top + height, left : left + width])
        return boxed
    return np.ascontiguousarray(frame)


def map_to_photo(values: NDArray[np.float32], photo_height: int, photo_width: int) -> NDArray[np.float32]:
    """A score map [h, w] -> [photo_height, photo_width] over the photo that it is of (bilinear)."""
    # one affine map from photo pixels to map cells, pixel centres on pixel centres
    ax, ay = values.shape[1] / photo_width, values.shape[0] / photo_height
    matrix = np.array([[ax, 0, 0.5 * ax - 0.5], [0, ay, 0.5 * ay - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(values, matrix, (photo_width, photo_height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return warped.astype(np.float32, copy=False)
