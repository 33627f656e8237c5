"""Photos of a dataset as one array of frames in memory: 762 frames of 256 pixels are 150 MB."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import frames
from mtkd_edge.frames import FrameSpec
from mtkd_edge.listing import THREADS
from mtkd_edge.progress import Progress


def load_frames(paths: Sequence[Path], spec: FrameSpec, progress: Progress, step: str) -> NDArray[np.uint8]:
    """Paths -> uint8 [N, height, width, 3], in order, read by several threads. Raises DataError naming the file."""
    out = np.empty((len(paths), spec.height, spec.width, 3), np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda path: frames.to_frame(frames.read(path), spec), paths)
        for i, frame in enumerate(read):
            out[i] = frame
            progress(step, i + 1, len(paths))
    return out
