"""Pictures for people: the photo with its heat map, the regions and the verdict; and many of them on one sheet.

The colours mean the same in every picture. A map value is shown on a fixed scale, where 0 is a typical normal part, the
middle is the map threshold and the end is twice the threshold; it is never stretched to the picture's own extremes, so
a good part stays plain. Blue (normal) and orange (anomalous) differ for every kind of colour vision, and each verdict
is also written in words.

All pictures are RGB uint8 [H, W, 3]. This file knows nothing of files and sinks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.frames import Frame, FrameSpec, Photo, map_to_photo, to_8bit
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import State, Verdict

Colour = tuple[int, int, int]
COLOURS: dict[State, Colour] = {
    State.NORMAL: (0, 114, 178),
    State.ANOMALOUS: (213, 94, 0),
    State.INVALID: (90, 90, 90),
}
"""Okabe and Ito's blue and vermilion (jfly.uni-koeln.de/color), and grey."""
WHITE: Colour = (255, 255, 255)
SMALLEST, LARGEST = 480, 1280
"""A picture's longer side is brought between these: below, no text can be read; above, nothing is gained."""
NARROWEST = 360
FAINT, FULL, STRONG = 0.25, 0.75, 0.7
"""Opacity grows from 0 at half the threshold (FAINT of the scale) to STRONG at one and a half times it (FULL)."""
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(
    photo: Photo | None,
    values: NDArray[np.float32] | None,
    verdict: Verdict,
    threshold: Threshold,
    spec: FrameSpec,
) -> Frame:
    """One verdict as a picture. Without a photo it is a grey card with the reason."""
    if photo is None:
        picture = np.full((SMALLEST * 3 // 4, SMALLEST, 3), 225, np.uint8)
        _wrapped(picture, verdict.reason, SMALLEST * 3 // 8)
        return np.concatenate([_banner(verdict, SMALLEST), picture])
    picture, scale = _scaled(to_8bit(photo, spec.white))
    height, width = picture.shape[:2]
    if values is not None and np.isfinite(values).all():
        heat = scaled_heat(map_to_photo(values, height, width), threshold.map)
        picture = blend(picture, heat)
        outline = (heat > 0.5).astype(np.uint8)
        edges, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, edges, -1, WHITE, _pen(width), cv2.LINE_AA)
    for region in verdict.regions:
        _box(picture, np.asarray(region.box) * scale)
    if width < NARROWEST:
        sides = (NARROWEST - width) // 2, NARROWEST - width - (NARROWEST - width) // 2
        picture = np.pad(picture, ((0, 0), sides, (0, 0)), constant_values=225)
    if verdict.reason:
        _wrapped(picture, verdict.reason, height // 2)
    width = picture.shape[1]
    return np.concatenate([_banner(verdict, width), picture, _legend(threshold, width)])


def scaled_heat(values: NDArray[np.float32], level: float) -> NDArray[np.float32]:
    """Map values -> [0, 1] on the fixed scale: 0 -> 0, `level` -> 0.5, twice `level` -> 1, clipped.

    A level of 0 or below (a map that is not centred on normal parts) is shown one unit around itself.
    """
    low, high = (0.0, 2 * level) if level > 0 else (level - 1, level + 1)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def blend(picture: Frame, heat: NDArray[np.float32]) -> Frame:
    """The heat, in the colours of inferno, over the picture: invisible below FAINT, then more and more opaque."""
    # the darkest third of inferno would vanish on a dark part
    colours = cv2.applyColorMap((85 + heat * 170).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = np.clip((heat - FAINT) / (FULL - FAINT), 0, 1) * np.float32(STRONG)
    # a third of what the same sum takes in numpy, of which it was most of an overlay's time
    mixed = cv2.blendLinear(picture, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 1 - opacity, opacity)
    return mixed.astype(np.uint8, copy=False)


def sheet(pictures: Sequence[Frame], columns: int = 4, cell: int = 400, gap: int = 8) -> Frame:
    """Pictures in rows on white, each fitted into a square of `cell` pixels. Raises ValueError without any."""
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (cell + gap) + gap, columns * (cell + gap) + gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        scale = cell / max(picture.shape[:2])
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top = gap + number // columns * (cell + gap) + (cell - size[1]) // 2
        left = gap + number % columns * (cell + gap) + (cell - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small
    return canvas


def _scaled(picture: Frame) -> tuple[Frame, float]:
    longest = max(picture.shape[:2])
    scale = min(max(longest, SMALLEST), LARGEST) / longest
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False), scale


def _pen(width: int) -> int:
    return max(1, round(width / 500))


def _box(picture: Frame, box: NDArray[np.float64]) -> None:
    left, top, width, height = np.round(box).astype(int).tolist()
    pen = _pen(picture.shape[1])
    # a dark edge keeps the box visible on a bright part
    cv2.rectangle(picture, (left, top), (left + width, top + height), (0, 0, 0), 3 * pen, cv2.LINE_AA)
    cv2.rectangle(picture, (left, top), (left + width, top + height), (86, 180, 233), 2 * pen, cv2.LINE_AA)


def _banner(verdict: Verdict, width: int) -> Frame:
    """The verdict in words on its colour, the score against the threshold, and which frame it is."""
    height = max(44, width // 14)
    banner = np.full((height, width, 3), COLOURS[verdict.state], np.uint8)
    left, size = height // 4, height / 70
    _text(banner, verdict.state.value.upper(), left, height * 0.43, size, bold=True)
    if verdict.score is not None:
        sign = ">" if verdict.state is State.ANOMALOUS else "<="
        _text(banner, f"score {verdict.score:.4g} {sign} {verdict.threshold:.4g}", -left, height * 0.43, size)
    name = verdict.path or verdict.source
    number = f"#{verdict.seq}"
    fits = int((width - 3 * left) / (height * 0.13)) - len(number)
    _text(banner, name if len(name) <= fits else f"...{name[-fits:]}", left, height * 0.85, size * 0.7)
    _text(banner, number, -left, height * 0.85, size * 0.7)
    return banner


def _legend(threshold: Threshold, width: int) -> Frame:
    """The scale of the heat over a grey part, with its three numbers."""
    height = max(40, width // 20)
    strip = np.full((height, width, 3), 40, np.uint8)
    left, right, size = height // 4, width - height // 4, height / 75
    top, bottom = height // 6, height // 2
    ramp = np.tile(np.linspace(0, 1, right - left, dtype=np.float32), (bottom - top, 1))
    strip[top:bottom, left:right] = blend(np.full((*ramp.shape, 3), 128, np.uint8), ramp)
    cv2.line(strip, (width // 2, top - 2), (width // 2, bottom), WHITE, 2)
    low, level, high = "0: typical part", f"{threshold.map:.3g}: map threshold", f"{2 * threshold.map:.3g}"
    _text(strip, low, left, height * 0.88, size)
    _text(strip, level, (width - _width(level, size)) // 2, height * 0.88, size)
    _text(strip, high, -left, height * 0.88, size)
    return strip


def _text(picture: Frame, text: str, x: int, y: float, size: float, bold: bool = False) -> None:
    """White text whose base line is at y; x counts from the left, or from the right where negative."""
    text = text.encode("ascii", "replace").decode()  # Hershey fonts have no other letters
    pen = max(1, round(size * (3 if bold else 1.6)))
    x = x if x >= 0 else x + picture.shape[1] - _width(text, size)
    cv2.putText(picture, text, (x, round(y)), FONT, size, WHITE, pen, cv2.LINE_AA)


def _width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, FONT, size, max(1, round(size * 1.6)))[0][0])


def _wrapped(picture: Frame, text: str, y: int) -> None:
    """Text in lines on a dark ground across the picture."""
    width = picture.shape[1]
    size = width / 900
    lines = textwrap.wrap(text, 48)[:6]
    step = round(30 * size * 1.5)
    top = max(0, y - step * len(lines) // 2)
    picture[top : top + step * len(lines) + step // 2] //= 3
    for number, line in enumerate(lines):
        _text(picture, line, round(width * 0.03), top + step * (number + 1), size)
