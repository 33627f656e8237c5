"""The soak's pictures: each carries its own number, so that a verdict's photo proves which frame was judged.

    8 x 8 cells of 16 pixels, RGB; a defect is one white cell in the third row
    rows 0 to 4   dark red: a swapped colour would be blue
    rows 5 to 7   the number's 24 bits, a brighter red for 1

Nothing but the standard library: the camera runs in the system's Python, which has GStreamer and no numpy.
"""

from __future__ import annotations

from collections.abc import Callable

CELLS, CELL = 8, 16
SIDE = CELLS * CELL
BITS_FROM = 5
BASE, ONE, ZERO, WHITE = (80, 30, 30), (125, 30, 30), (40, 30, 30), (255, 255, 255)
RATE = 10
"""Frames a second."""
CYCLE, BAD_FROM, BAD_TO = 50, 20, 23
"""Of `CYCLE` frames those from BAD_FROM up to, and without, BAD_TO have a defect."""


def is_bad(number: int, offset: int) -> bool:
    """Whether a camera's frame shows a defect; cameras differ by `offset`."""
    return BAD_FROM <= (number + offset) % CYCLE < BAD_TO


def picture(number: int, bad: bool) -> bytes:
    """RGB bytes, [SIDE, SIDE, 3]."""
    rows = []
    for row in range(CELLS):
        colours = [_colour(number, row, column, bad) for column in range(CELLS)]
        rows.append(b"".join(bytes(colour) * CELL for colour in colours) * CELL)
    return b"".join(rows)


def number_of(pixel: Callable[[int, int], tuple[int, int, int]]) -> int | None:
    """The number in a picture whose RGB pixel (x, y) `pixel` gives; None where its colours are not ours."""
    number = 0
    for row in range(CELLS):
        for column in range(CELLS):
            red, green, blue = pixel(column * CELL + CELL // 2, row * CELL + CELL // 2)
            if row >= BITS_FROM:
                number = number << 1 | (red > BASE[0])
            elif min(red, green, blue) < 128 and (red < green + 25 or red < blue + 25):
                return None
    return number


def _colour(number: int, row: int, column: int, bad: bool) -> tuple[int, int, int]:
    if row >= BITS_FROM:
        place = (CELLS - BITS_FROM) * CELLS - 1 - ((row - BITS_FROM) * CELLS + column)
        return ONE if number >> place & 1 else ZERO
    return WHITE if bad and (row, column) == (2, 5) else BASE
