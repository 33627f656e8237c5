"""What one cell of a benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mtkd_edge.lab.benchmark.settings import Settings, Variant
from mtkd_edge.progress import Progress


@dataclass(frozen=True, eq=False)
class Job:
    """One category, variant and seed. `folder` is the cell's own; it is deleted when the outcome is written.

    `photos`: what `Suite.digest` says of the category's.
    """

    settings: Settings
    variant: Variant
    category: str
    seed: int
    folder: Path
    photos: str
    device: torch.device
    progress: Progress
