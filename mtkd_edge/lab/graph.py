"""The two graphs that leave the lab: pixels -> features, and features -> map and score.

`MapFeatures` ends in named pairs (student_<level>, reference_<level>); it alone is ever quantised. `ScoreHead` is
`mtkd_edge.score` written in torch, constant by constant from the same `ScoreSpec`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkd_edge.score import EPSILON, ScoreSpec, resampler


def nchw(frames: Tensor) -> Tensor:
    """Frames uint8 [N, H, W, 3] -> float [N, 3, H, W] in 0..255, the first nodes of every graph that leaves the lab.

    The cast comes first: TensorRT takes uint8 as a network's input and for nothing else, not even a transposition.
    """
    return frames.float().permute(0, 3, 1, 2)


class MapFeatures(nn.Module):
    """Frames uint8 [N, H, W, 3] -> students, then references: the level `deviation`, then one an autoencoder.

    A graph that leaves the lab has one autoencoder. While it is being chosen, all of them look at the same mix.
    """

    def __init__(self, mix: nn.Module, student: nn.Module, autoencoders: Sequence[nn.Module], factors: Tensor) -> None:
        super().__init__()
        self.mix, self.student, self.autoencoders = mix, student, nn.ModuleList(autoencoders)
        self.factors: Tensor
        self.register_buffer("factors", factors.view(1, -1, 1, 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The student's prediction, the reconstructions, the mix, and what was to be reconstructed."""
        pixels = nchw(frames)
        mix = self.mix(pixels) * self.factors
        wanted, rebuilt = zip(*(autoencoder(mix) for autoencoder in self.autoencoders), strict=True)
        return self.student(pixels) * self.factors, *rebuilt, mix, *wanted


class ScoreHead(nn.Module):
    """`mtkd_edge.score` in float32. Students of all levels, then references -> map [N, H, W], score [N]."""

    def __init__(self, spec: ScoreSpec) -> None:
        super().__init__()
        self.spec = spec
        for i, level in enumerate(spec.levels):
            constants = {
                "rows": resampler(spec.height, level.height, spec.sigma),
                "columns": resampler(spec.width, level.width, spec.sigma).T,
                "center": level.grid(level.center),
                "gain": level.weight / level.grid(level.scale),
            }
            for name, value in constants.items():
                self.register_buffer(f"{name}{i}", torch.tensor(value, dtype=torch.float32))

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """One fused expression a level; see the formula in `mtkd_edge.score`."""
        count = len(self.spec.levels)
        maps = []
        for i, level in enumerate(self.spec.levels):
            d = _distance(level.kind, features[i], features[count + i])
            normalised = (d - self.get_buffer(f"center{i}")) * self.get_buffer(f"gain{i}")
            maps.append(self.get_buffer(f"rows{i}") @ normalised @ self.get_buffer(f"columns{i}"))
        total = torch.stack(maps).sum(0) if len(maps) > 1 else maps[0]
        flat = total.flatten(1)
        largest = torch.topk(flat, self.spec.pooled, dim=1, sorted=False).values.mean(1)
        # runtimes differ in where top-k puts NaN; a sum that is not finite makes the score NaN on all of them
        whole = flat.sum(1)
        return total, largest + (whole - whole)


def _distance(kind: str, student: Tensor, reference: Tensor) -> Tensor:
    if kind != "cosine":
        squared = ((student - reference) ** 2).mean(1)
        return squared if kind == "squared" else squared.sqrt()
    norms = (student**2).sum(1).sqrt() * (reference**2).sum(1).sqrt()
    return 1 - (student * reference).sum(1) / (norms + EPSILON)
