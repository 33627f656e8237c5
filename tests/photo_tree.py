"""Folders of photos for the tests: made here, different for every seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mtkd_edge.dataset import Dataset


def write(path: Path, seed: int, size: tuple[int, int] = (40, 50), grey: bool = False, white: int = 255) -> Path:
    """A photo of noise, whose bytes depend on the seed."""
    rng = np.random.default_rng(seed)
    shape = size if grey else (*size, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rng.integers(0, white + 1, shape).astype(np.uint8 if white < 256 else np.uint16))
    return path


def what(found: Dataset) -> dict[str, str]:
    """{path: what is wrong with it}, one problem a photo."""
    assert len({problem.path for problem in found.problems}) == len(found.problems)
    return {problem.path: problem.what for problem in found.problems}
