"""The teacher mix: features of K networks made comparable, so that their distances can be added.

For each tap of each teacher, with statistics of the normal photos alone:

    divide each channel by the root of its deviation (floored at 1e-3 of the median), keep the C leading principal
    directions, divide by the root of their mean energy, resize to one grid at stride 8

Divided by its whole deviation, a channel that is mere noise on good parts would count as much as one that tells;
undivided, a few loud channels would decide. Both were measured (docs/decisions.md), and so was a blur, with which
PatchCore (arXiv:2106.08265, section 3.1) forgives where exactly an edge falls: outlines suffer from it.

Channels of different networks mean different things, unlike class logits, so the blocks are not summed but stacked:
for blocks sqrt(w_b) Z_b the squared distance of two mixes is sum_b w_b ||Z_b - S_b||^2, and the importance weights of
Ma et al. 2023 enter exactly. Everything is one 1x1 convolution a tap, kept as such in the exported graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtkd_edge.frames import CELL
from mtkd_edge.lab.letterbox import WHOLE, View
from mtkd_edge.lab.teachers import STRIDES, Teacher

CHANNELS = 48
"""Principal directions kept of each tap: 48 hold most of the energy of maps of 32 to 512 channels."""
GRID_STRIDE = CELL


@dataclass(frozen=True)
class Block:
    """One tap of one teacher inside the mix: channels [start, stop)."""

    teacher: int
    stride: int
    start: int
    stop: int


class Mix(nn.Module):
    """K teachers, aligned: pixels [N, 3, H, W] in 0..255 -> blocks [N, D, H/8, W/8], each channel of unit energy.

    The blocks of letterboxed frames are those of their photos, on the grid of `view` (`letterbox.py`).
    """

    def __init__(self, teachers: Sequence[Teacher], widths: Sequence[int] | None = None, view: View = WHOLE) -> None:
        super().__init__()
        self.view = view
        self.teachers = nn.ModuleList(teachers)
        channels = [c for teacher in teachers for c in teacher.channels]
        kept = list(widths or [min(CHANNELS, c) for c in channels])
        convs = [nn.Conv2d(c, k, 1).requires_grad_(False) for c, k in zip(channels, kept, strict=True)]
        self.align: Sequence[nn.Conv2d] = convs
        self._registered = nn.ModuleList(convs)
        stops = [sum(kept[: i + 1]) for i in range(len(kept))]
        self.blocks = tuple(
            Block(i // len(STRIDES), STRIDES[i % len(STRIDES)], stop - width, stop)
            for i, (width, stop) in enumerate(zip(kept, stops, strict=True))
        )
        self.channels = stops[-1]

    def taps(self, pixels: Tensor) -> list[Tensor]:
        """The raw maps of all teachers, in block order."""
        seen = self.view.seen(pixels)
        return [tap for teacher in self.teachers for tap in teacher(seen)]

    def forward(self, pixels: Tensor) -> Tensor:
        """The stacked blocks, of unit energy a channel on normal photos, not yet weighted."""
        side = (pixels.shape[2] // GRID_STRIDE, pixels.shape[3] // GRID_STRIDE)
        blocks = [resize(conv(tap), side) for conv, tap in zip(self.align, self.taps(pixels), strict=True)]
        return self.view.placed(torch.cat(blocks, 1), pixels)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set the 1x1 convolutions from normal photos: batches of pixels [N, 3, H, W]. One pass, float64 sums."""
        sums: list[Tensor] = []
        squares: list[Tensor] = []
        count = [0] * len(self.align)
        for pixels in batches:
            for i, tap in enumerate(self.taps(pixels)):
                flat = self.view.positions(tap, pixels)
                if len(sums) <= i:
                    sums.append(torch.zeros(len(flat), dtype=torch.float64, device=flat.device))
                    squares.append(torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device))
                # float32 inside a batch, float64 across batches
                sums[i] += flat.sum(1).double()
                squares[i] += (flat @ flat.T).double()
                count[i] += flat.shape[1]
        for conv, total, square, n in zip(self.align, sums, squares, count, strict=True):
            mean = total / n
            set_alignment(conv, mean, square / n - mean[:, None] * mean[None])


def resize(block: Tensor, side: tuple[int, int]) -> Tensor:
    """[N, C, h, w] -> [N, C, *side], bilinear between the positions' centres."""
    if tuple(block.shape[-2:]) == side:
        return block
    return nn.functional.interpolate(block, side, mode="bilinear", align_corners=False)


def set_alignment(conv: nn.Conv2d, mean: Tensor, covariance: Tensor) -> None:
    """Divide by root deviations, project on the leading directions, scale to unit energy: in one convolution."""
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    root = deviation.clamp_min(1e-3 * float(deviation.median())).clamp_min(1e-12).sqrt()
    values, vectors = torch.linalg.eigh(covariance / (root[:, None] * root[None]))
    kept = vectors[:, -conv.out_channels :]
    # the sign of an eigenvector is arbitrary; fixing it makes two runs comparable
    kept = kept * kept[kept.abs().argmax(0), torch.arange(kept.shape[1], device=kept.device)].sign()
    energy = values[-conv.out_channels :].clamp_min(0).mean().sqrt().clamp_min(1e-6)
    weight = (kept / root[:, None]).T / energy
    conv.weight.copy_(weight[:, :, None, None])
    if conv.bias is not None:
        conv.bias.copy_(-(weight @ mean))
