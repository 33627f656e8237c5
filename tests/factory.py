"""A small factory for the tests of the command line: photos, a run with a real bundle, an engine really built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tiny
from numpy.typing import NDArray

from mtkd_edge import dataset
from mtkd_edge.cli import app


@dataclass(frozen=True)
class Factory:
    """Where things are. `photos` are good parts, `bad` have a blotch each, `run` has no weights, only its bundle."""

    root: Path
    photos: Path
    bad: Path
    run: Path
    engine: Path


def write(folder: Path, frames: NDArray[np.uint8]) -> Path:
    """Frames -> PNG files 000.png, 001.png, ..."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), frame[:, :, ::-1])
    return folder


def build(root: Path) -> Factory:
    """Photos, a run of the tiny bundle on them, and its FP32 engine, made by the command itself."""
    photos = write(root / "photos", tiny.normal_frames(40))
    bad = write(root / "bad", tiny.with_defects(tiny.normal_frames(6, seed=5)))
    run = root / "runs" / "tiny"
    tiny.make_bundle(run / "bundle")
    (run / "data.json").write_bytes(dataset.encode(dataset.scan(photos)))
    engine = root / "engines" / "tiny-cpu"
    code = app.run(["build-engine", str(run), "--fp32", "--target", "cpu", "--out", str(engine), "--json"])
    assert code == 0, "the FP32 engine of the tiny bundle is built"
    return Factory(root, photos, bad, run, engine)
