"""The scores and features that `gpu_report.py` runs: the real sizes, and small ones for every path of the kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtkd_edge.device.kernel.layout import FeatureType
from mtkd_edge.score import Level, ScoreSpec

Arrays = list[NDArray[np.floating]]


DEFAULT = ScoreSpec(
    (
        Level("deviation", "distance", 272, 32, 32, 0.1, (2.5,), (0.4,)),
        Level("reconstruction", "distance", 80, 32, 32, 0.9, (0.6,), (0.1,)),
    ),
    64, 64, 1.0, 0.02,
)  # fmt: skip
"""What `train` makes of 256 pixels and three teachers."""
PAPER = ScoreSpec(
    (
        Level("logits", "squared", 1000, 1, 1, 0.3, (1.0,), (2.0,)),
        Level("direction", "cosine", 1000, 1, 1, 0.3, (0.1,), (0.2,)),
        Level("pixels", "squared", 3, 256, 256, 0.3),
    ),
    64, 64, 0.0, 1.0,
)  # fmt: skip
"""What `train --method paper` makes of 256 pixels."""
ODD = ScoreSpec(
    (
        Level("a", "squared", 3, 9, 13, 0.7, (0.3,), (0.7,)),
        Level("b", "cosine", 340, 8, 8, -0.3, (0.2,), (0.5,)),
        Level("c", "distance", 7, 1, 1, 0.4),
        Level("d", "squared", 33, 4, 6, 0.2),
    ),
    17, 33, 1.3, 1e-9,
)  # fmt: skip
"""Four levels of sizes that are multiples of nothing, the maximum."""
LARGE = ScoreSpec((Level("a", "distance", 4, 10, 64, 0.6), Level("b", "squared", 2, 12, 140, 0.4)), 118, 129, 1.5, 0.05)
"""A map that is larger than a block's shared memory."""
CASES = {"default": DEFAULT, "paper": PAPER, "odd": ODD, "large": LARGE}


def features(spec: ScoreSpec, batch: int, seed: int = 0, kind: FeatureType = "float32") -> tuple[Arrays, Arrays]:
    """Students and references, [batch, C, h, w] for every level."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, level.channels, level.height, level.width) for level in spec.levels]
    student = [rng.normal(0.2, 1.3, shape).astype(kind) for shape in shapes]
    return student, [(0.6 * s + rng.normal(0, 0.9, s.shape)).astype(kind) for s in student]
