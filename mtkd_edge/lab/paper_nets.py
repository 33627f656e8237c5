"""What trains in the published method (Ma et al. 2023, doi:10.1016/j.sysarc.2023.102861): decoder, weights, students.

Nothing here knows photos, batches or scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtkd_edge.lab.logits import CLASSES, LogitStudent

SMALL_SIGMA = 1e-3
"""A logit that never varies on the normals is divided by this, as in the authors' code."""
WIDTHS = (128, 64, 32, 16, 8, 3)
STAGES = len(WIDTHS) - 1
SLOPE = 0.2


class Stage(nn.Module):
    """One 2x stage of the authors' decoder: four convolutions, of which the second and the third are the same one."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        bigger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up = nn.Sequential(bigger, _conv(inside, inside), *_after(inside))
        self.twice = _conv(inside, inside)
        self.down = nn.Sequential(*_after(inside), _conv(inside, out), *_after(out))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, out, 2 H, 2 W]."""
        found: Tensor = self.down(self.twice(self.twice(self.up(x))))
        return found


def _conv(inside: int, out: int) -> nn.Module:
    return nn.Conv2d(inside, out, 3, 1, 1)


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE)


class Decoder(nn.Module):
    """Logits [N, 1000] -> photo in -1..1, [N, 3, side, side]: 128 x side/32 x side/32, then five 2x stages.

    The teachers are the encoder of the paper's autoencoder, and this is its other half, layer by layer that of the
    authors' code, where the last stage too ends in a LeakyReLU, so nothing holds the pixels within -1..1.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.base = side // 2**STAGES
        self.start = nn.Linear(CLASSES, WIDTHS[0] * self.base**2)
        self.stages = nn.Sequential(*[Stage(inside, out) for inside, out in pairwise(WIDTHS)])

    def forward(self, logits: Tensor) -> Tensor:
        """The reconstruction."""
        out: Tensor = self.stages(self.start(logits).view(-1, WIDTHS[0], self.base, self.base))
        return out


class Networks(nn.Module):
    """Decoder D, students S_1.. and the numbers `a` whose softmax are the importance weights.

    One D and one `a` serve all students: both learn from the teachers' mix alone, so training the students one after
    the other, as the authors do, would give each the same D and `a`. Without teachers (`teachers` 0, the paper's
    ablation) student and decoder are an autoencoder of their own.
    """

    def __init__(self, teachers: int, students: tuple[str, ...], side: int, learn_weights: bool = True) -> None:
        super().__init__()
        self.decoder = Decoder(side)
        self.students = nn.ModuleList([LogitStudent(name) for name in students])
        self.a = nn.Parameter(torch.zeros(teachers), requires_grad=learn_weights)

    def weights(self) -> Tensor:
        """softmax(a): [K], the sum is 1."""
        return self.a.softmax(0)

    def mix(self, z: Tensor) -> Tensor:
        """Standardised logits [N, K, 1000] -> z_T = sum_k w_k z_k, [N, 1000]."""
        return (self.weights().view(1, -1, 1) * z).sum(1)


class Standard(nn.Module):
    """Mean and standard deviation of each teacher's logits on the normals, [1, K, 1000]: logits -> z."""

    mean: Tensor
    std: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        mean = logits.mean(0, keepdim=True)
        std = ((logits - mean) ** 2).mean(0, keepdim=True).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std == 0, SMALL_SIGMA, std))

    def forward(self, logits: Tensor) -> Tensor:
        """z_k = (T_k(x) - mu_k) / sigma_k."""
        return (logits - self.mean) / self.std


def logits_of(teachers: Iterable[nn.Module], pixels: Tensor) -> Tensor:
    """Pixels 0..255 [N, 3, H, W] -> logits of all teachers, [N, K, 1000]; K may be 0."""
    found = [teacher(pixels)[0] for teacher in teachers]
    return torch.stack(found, 1) if found else pixels.new_zeros(len(pixels), 0, CLASSES)


def unit(pixels: Tensor) -> Tensor:
    """0..255 -> -1..1, what the decoder is to give back."""
    return pixels / 127.5 - 1
