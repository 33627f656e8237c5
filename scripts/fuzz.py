"""Broken image and video files, thousands of them, through the path that `watch` takes: no crash, no hang, no silence.

    python scripts/fuzz.py --photos 5000 --videos 300 --seed 1

Drawn pictures are encoded as JPEG, PNG, BMP, TIFF, WebP, MP4 and AVI and then spoilt: bits flipped, cut short, spliced
with another file, header fields set to extreme values, blocks moved. Every file must come out once, as frames of a
sound size or `invalid` with a reason. The same seed gives the same files. Exit code 1 where one does not; it is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from mtkd_edge import MAX_PIXELS, photo_header
from mtkd_edge.device.sources import open_source
from mtkd_edge.device.sources.base import Captured
from mtkd_edge.errors import DataError, SourceError

EXTREME = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HANGS = 60.0
"""Seconds after which a video hangs."""
JPEG, PNG = ".jpg", ".png"
CODECS: tuple[tuple[str, list[int], bool], ...] = (
    (JPEG, [], False),
    (JPEG, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4], False),
    (PNG, [], False),
    (PNG, [], True),
    (".bmp", [], False),
    (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 1], False),
    (".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 5], True),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80], False),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101], False),
)
"""Ending, parameters, and whether it has 16 bits."""


class Outcome(msgspec.Struct):
    """What became of the files. `faults` names those that broke the rule."""

    files: int = 0
    frames: int = 0
    invalid: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    replaced: Counter[str] = msgspec.field(default_factory=Counter)
    slowest_ms: float = 0.0
    peak_mb: int = 0
    faults: list[str] = msgspec.field(default_factory=list)


def draw(rng: np.random.Generator, side: int = 48) -> np.ndarray:
    """A picture [side, side + 16, 3] of shapes on noise."""
    picture = rng.integers(90, 130, (side, side + 16, 3), np.uint8)
    for _ in range(4):
        centre = (int(rng.integers(0, side)), int(rng.integers(0, side)))
        cv2.circle(picture, centre, int(rng.integers(2, 14)), rng.integers(0, 255, 3).tolist(), -1)
    return picture


def encode(rng: np.random.Generator) -> tuple[str, bytes]:
    """Ending and bytes of a sound file."""
    ending, parameters, deep = CODECS[int(rng.integers(len(CODECS)))]
    picture = draw(rng)
    if deep:
        picture = picture.astype(np.uint16) * 257
    if ending in (PNG, ".bmp") and rng.random() < 0.3:
        picture = picture[..., 0]
    return ending, cv2.imencode(ending, picture, parameters)[1].tobytes()


def spoil(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The same file, broken in one of the ways that disks, networks and people have."""
    broken, way = bytearray(data), int(rng.integers(6))
    at = int(rng.integers(len(broken)))
    if way == 0:
        for place in rng.integers(0, len(broken), int(rng.integers(1, 17))):
            broken[place] ^= 1 << int(rng.integers(8))
    elif way == 1:
        del broken[at:]
    elif way == 2:
        broken[at:] = other[int(rng.integers(len(other))) :]
    elif way == 3:
        for _ in range(int(rng.integers(1, 4))):
            size, place = int(rng.choice((1, 2, 4))), int(rng.integers(0, min(80, len(broken))))
            value = EXTREME[int(rng.integers(len(EXTREME)))] & (256**size - 1)
            broken[place : place + size] = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    elif way == 4:
        length = int(rng.integers(1, 1 + len(broken) // 2))
        broken[at:at] = broken[max(0, at - length) : at]
    else:
        broken[at : at + int(rng.integers(1, 64))] = bytes(int(rng.integers(0, 64)))
    return bytes(broken)


def photos(folder: Path, count: int, seed: int) -> Outcome:
    """Write `count` photos, spoilt each in its own way, and read them as `watch` does."""
    rng = np.random.default_rng(seed)
    if not count:
        return Outcome()
    for number in range(count):
        (ending, data), (_, other) = encode(rng), encode(rng)
        (folder / f"{number:06d}{ending}").write_bytes(spoil(rng, data, other))
    found, seen = Outcome(files=count), Counter[Path]()
    source = open_source(str(folder))
    for captured in source.frames():
        seen[captured.path or Path()] += 1
        found.slowest_ms = max(found.slowest_ms, captured.decode_ms)
        judge(found, captured, sound(captured))
    found.replaced.update(getattr(source, "replaced", {}))
    if seen != Counter(folder.iterdir()):
        found.faults.append(f"{len(seen)} of {count} files came out, or one twice")
    return found


def sound(captured: Captured) -> bool:
    """Whether a photo has the size that its file says."""
    if captured.photo is None or captured.path is None:
        return False
    try:
        header = photo_header.look(captured.path.read_bytes(), "")
    except DataError:
        return False
    size = (header.height, header.width)
    return captured.photo.shape[:2] in (size, size[::-1]) and header.width * header.height <= MAX_PIXELS


def judge(found: Outcome, captured: Captured, is_sound: bool) -> None:
    """Count a frame; one that is neither sound nor invalid with a reason is a fault."""
    if captured.photo is None:
        found.invalid += 1
        found.reasons[reason(captured)] += 1
        if not captured.problem:
            found.faults.append(f"{captured.path}: no photo and no reason")
        return
    found.frames += 1
    if not is_sound or captured.photo.dtype not in (np.uint8, np.uint16) or captured.photo.shape[2:] != (3,):
        found.faults.append(f"{captured.path}: {captured.photo.shape} of {captured.photo.dtype} is no sound frame")


def reason(captured: Captured) -> str:
    """The problem without the name and the numbers in it."""
    text = captured.problem.replace(str(captured.path), "").strip()
    return " ".join("N" if any(c.isdigit() for c in word) else word for word in text.split())[:70]


def videos(folder: Path, count: int, seed: int) -> Outcome:
    """Write `count` spoilt videos and read each as `watch` does, in a process that may die of it."""
    rng, found = np.random.default_rng(seed), Outcome(files=count)
    originals: list[tuple[str, bytes]] = []
    for ending, codec in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mp4", "mp4v")):
        path = folder / f"original{len(originals)}{ending}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))  # type: ignore[attr-defined]
        for _ in range(12):
            writer.write(draw(rng))
        writer.release()
        originals.append((ending, path.read_bytes()))
    for number in range(count):
        ending, data = originals[number % len(originals)]
        path = folder / f"{number:05d}{ending}"
        path.write_bytes(spoil(rng, data, originals[int(rng.integers(len(originals)))][1]))
        began = time.monotonic()
        said, peak, fault = apart(path)
        found.slowest_ms = max(found.slowest_ms, (time.monotonic() - began) * 1e3)
        found.peak_mb = max(found.peak_mb, peak)
        found.frames += said.get("frames", 0)
        found.invalid += said.get("invalid", 0)
        found.reasons.update(said.get("reasons", {}))
        found.faults += [*said.get("faults", []), *([f"{path}: {fault}"] if fault else [])]
    return found


def apart(path: Path) -> tuple[dict[str, Any], int, str]:
    """Read a video in a fork -> what it counted, its memory in MB, and what it died of."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(into, "w") as pipe:
            pipe.write(json.dumps(msgspec.to_builtins(film(path))))
        os._exit(0)
    os.close(into)
    deadline, fault = time.monotonic() + HANGS, ""
    while not (done := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            fault = f"hangs for {HANGS:g} s"
        time.sleep(0.005)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    if done[1] and not fault:
        fault = f"died with status {done[1]}"
    return json.loads(text or "{}"), done[2].ru_maxrss // 1024, fault


def film(path: Path) -> Outcome:
    """All frames of one video; one that is refused as a whole counts as invalid."""
    found = Outcome(files=1)
    try:
        for captured in open_source(str(path)).frames():
            judge(found, captured, is_sound=captured.photo is not None and 0 < captured.photo.size <= 3 * MAX_PIXELS)
    except SourceError as error:
        found.invalid += 1
        found.reasons[error.message.replace(str(path), "").strip()[:70]] += 1
    return found


def lines(what: str, found: Outcome) -> Iterator[str]:
    """For people."""
    yield f"{found.files} {what}: {found.frames} frames, {found.invalid} invalid, {len(found.faults)} faults"
    yield f"  slowest {found.slowest_ms:.0f} ms; decoders replaced {dict(found.replaced) or 'none'}"
    yield from (f"  {count:6d}  {text}" for text, count in found.reasons.most_common(12))
    yield from (f"  FAULT {fault}" for fault in found.faults[:20])


def main() -> int:
    """Run, print, and say by the exit code whether the rule was kept."""
    parser = argparse.ArgumentParser(description="Broken files through the path that watch takes.")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "videos").mkdir()
    (folder / "photos").mkdir()
    film_outcome = videos(folder / "videos", given.videos, given.seed)  # first: a fork wants a process without threads
    photo_outcome = photos(folder / "photos", given.photos, given.seed)
    print(*lines("photos", photo_outcome), *lines("videos", film_outcome), sep="\n")
    if film_outcome.peak_mb:
        print(f"  memory of the reader of one video: {film_outcome.peak_mb} MB at most")
    if photo_outcome.faults or film_outcome.faults:
        print(f"the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
