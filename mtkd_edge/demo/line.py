"""A small production line, rendered offline: photos of good parts, of defective ones with masks, and a video.

    <root>/train/good/000.jpg ...                 good parts only
    <root>/test/good|chip|hole|mark|scratch|stain
    <root>/ground_truth/<kind>/<name>_mask.png
    <root>/line.mkv                               parts that stop under the camera, a few frames each
    <root>/line.json                              what is in the video: `Truth`

The same seed gives the same parts. This file knows nothing of training; it stands in for the customer's camera.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.bundle import write_file
from mtkd_edge.demo import line_defects, line_part
from mtkd_edge.demo.line_part import SIZE, Plane
from mtkd_edge.errors import DataError
from mtkd_edge.progress import Progress, silent

Picture = NDArray[np.uint8]
TEST_GOOD, TEST_EACH = 20, 8
PARTS, STOP, FPS = 30, 4, 10.0
"""The video: parts, frames for which each of them stands under the camera, frames per second."""


class Passing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part in the video: its first and last frame, counted from 0, and its kind ("good" or a defect)."""

    first: int
    last: int
    kind: str


class Truth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What line.json says of line.mkv; `defective` are the frames, counted from 0, that show a defective part."""

    video: str
    fps: float
    frames: int
    defective: tuple[int, ...]
    parts: tuple[Passing, ...]


def render(root: Path, seed: int = 0, good: int = 120, progress: Progress = silent) -> None:
    """Write the whole line under `root`, which must be absent or empty: `good` photos to train on, and all the rest.

    Raises DataError where the folder is in use or cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} is not an empty folder, the demo line writes nothing over yours", f"rm -r {root}")
    conveyor = line_part.belt(np.random.default_rng(seed))
    shots = [("train", "good", i) for i in range(good)] + [("test", "good", i) for i in range(TEST_GOOD)]
    shots += [("test", kind, i) for kind in line_defects.KINDS for i in range(TEST_EACH)]
    total = len(shots) + PARTS

    def shoot(number: int) -> None:
        side, kind, index = shots[number]
        exposure, mask = part(kind, (seed, 1, number), conveyor)
        picture = line_part.sensor(exposure, np.random.default_rng((seed, 2, number)))
        _write(root / side / kind / f"{index:03}.jpg", picture[..., ::-1])
        if kind != "good":
            _write(root / "ground_truth" / kind / f"{index:03}_mask.png", mask.astype(np.uint8) * 255)

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "render")
    try:
        for done, _ in enumerate(pool.map(shoot, range(len(shots))), start=1):
            progress("render the line", done, total)
    finally:
        pool.shutdown(cancel_futures=True)
    _film(root, seed, conveyor, progress, len(shots), total)


def part(kind: str, seed: tuple[int, ...], conveyor: Plane) -> tuple[Plane, NDArray[np.bool_]]:
    """One part as the lens sees it (float RGB [S, S, 3], no noise yet) and the mask of its defect, empty where good."""
    pose = line_part.pose_of(np.random.default_rng((*seed, 0)))

    def steel() -> np.random.Generator:
        return np.random.default_rng((*seed, 1))  # twice the same: a part, and its twin without the defect

    clean = line_part.expose(line_defects.good(pose, steel()), pose, conveyor)
    if kind == "good":
        return clean, np.zeros((SIZE, SIZE), np.bool_)
    draw = line_defects.KINDS[kind]
    for attempt in itertools.count():
        defects = np.random.default_rng((*seed, 2, attempt))
        picture = line_part.expose(draw(pose, steel(), defects), pose, conveyor)
        mask = line_defects.truth(clean, picture)
        # a scratch may fall into a hole: then another one is drawn
        if mask.sum() >= line_defects.LEAST:
            break
    return picture, mask


def _film(root: Path, seed: int, conveyor: Plane, progress: Progress, done: int, total: int) -> None:
    rng = np.random.default_rng((seed, 3))
    kinds = ["good"] * (PARTS - 2 * len(line_defects.KINDS)) + 2 * list(line_defects.KINDS)
    rng.shuffle(kinds)
    path = root / "line.mkv"
    # lossless, as a camera delivers: the traces of a codec are no part of what was learned, and score as defects
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), FPS, (SIZE, SIZE))
    if not writer.isOpened():
        raise DataError(f"{path} cannot be written as a video", "check the free space and permissions")
    passing = []
    for index, kind in enumerate(kinds):
        exposure, _ = part(kind, (seed, 4, index), conveyor)
        for picture in _stop(exposure, rng):
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
        passing.append(Passing(index * STOP, index * STOP + STOP - 1, kind))
        progress("render the line", done + index + 1, total)
    writer.release()
    bad = [frame for item in passing if item.kind != "good" for frame in range(item.first, item.last + 1)]
    truth = Truth(path.name, FPS, len(kinds) * STOP, tuple(bad), tuple(passing))
    write_file(root / "line.json", msgspec.json.format(msgspec.json.encode(truth), indent=1) + b"\n")


def _stop(exposure: Plane, rng: np.random.Generator) -> Iterator[Picture]:
    """The frames of one part: the conveyor trembles by a fraction of a pixel, the noise is new each time."""
    for _ in range(STOP):
        dx, dy = rng.normal(0, 0.3, 2)
        matrix = np.array([[1, 0, dx], [0, 1, dy]])
        moved = cv2.warpAffine(exposure, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        yield line_part.sensor(np.asarray(moved, np.float32), rng)


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    """BGR or grey -> file; the ending names the format. Raises DataError with the system's reason."""
    _, data = cv2.imencode(path.suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}", "check the free space and permissions"
        ) from error
