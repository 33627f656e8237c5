"""The crops of photos that are scored, in batches, with their teachers' logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtkd_edge.lab import paper_terms
from mtkd_edge.lab.benchmark.suites import Frames
from mtkd_edge.lab.map_method import pixels_of
from mtkd_edge.lab.paper_nets import Networks, logits_of
from mtkd_edge.lab.paper_terms import Terms
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress


@dataclass(frozen=True, eq=False)
class Views:
    """Crops of `side` pixels at the (top, left) `corners` of every photo, `batch` crops at a time."""

    corners: list[tuple[int, int]]
    side: int
    batch: int
    device: torch.device

    def crops(self, photos: Frames) -> Iterator[Frames]:
        """Photos [N, size, size, 3] -> batches [n, side, side, 3], photo by photo."""
        together = max(1, self.batch // len(self.corners))
        for start in range(0, len(photos), together):
            some = photos[start : start + together]
            views = [some[:, y : y + self.side, x : x + self.side] for y, x in self.corners]
            yield np.stack(views, 1).reshape(-1, self.side, self.side, 3)

    @torch.no_grad()
    def logits(self, teachers: list[Teacher], photos: Frames, progress: Progress) -> Tensor:
        """Of all crops, [N * corners, K, 1000], on the CPU: 4 KB a crop and teacher."""
        parts, done, total = [], 0, len(photos) * len(self.corners)
        for crops in self.crops(photos):
            parts.append(logits_of(teachers, pixels_of(crops, self.device)).cpu())
            done += len(crops)
            progress("teachers' logits", done, total)
        return torch.cat(parts)

    def terms(self, nets: Networks, photos: Frames, z: Tensor, progress: Progress) -> Terms:
        """The three terms of every crop, [N, corners, students, 3]; z: standardised logits of all crops."""

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            done = 0
            for crops in self.crops(photos):
                yield pixels_of(crops, self.device), z[done : done + len(crops)].to(self.device)
                done += len(crops)
                progress("scoring crops", done, len(z))

        return paper_terms.measure(nets, pairs(), len(self.corners))
