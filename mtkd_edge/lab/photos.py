"""Photos of a dataset as one array of frames in memory: 762 frames of 256 pixels are 150 MB."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import files, frames
from mtkd_edge.errors import DataError
from mtkd_edge.frames import FrameSpec, Photo
from mtkd_edge.listing import THREADS
from mtkd_edge.progress import Progress


def load_frames(
    paths: Sequence[Path], spec: FrameSpec, progress: Progress, step: str, hashes: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Paths -> uint8 [N, height, width, 3], in order, read by several threads.

    `hashes`: the sha256 that each file must have. Raises DataError naming the file.
    """
    out = np.empty((len(paths), spec.height, spec.width, 3), np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda *each: frames.to_frame(_photo(*each), spec), paths, hashes or [""] * len(paths))
        for i, frame in enumerate(read):
            out[i] = frame
            progress(step, i + 1, len(paths))
    return out


def _photo(path: Path, wanted: str) -> Photo:
    data = files.read(path, frames.MAX_BYTES)
    if wanted and hashlib.sha256(data).hexdigest() != wanted:
        raise DataError(f"{path} is not the photo that the run was made with", "put that one back, or train again")
    return frames.decode(data, str(path))
