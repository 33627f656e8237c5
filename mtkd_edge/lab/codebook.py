"""The autoencoder for parts that lie anyhow: every position is rebuilt by the nearest entry of one codebook.

    y'_p = c_i,   i = argmin_j |y_p - c_j|^2 = argmax_j (2 c_j . y_p - |c_j|^2)

A vector-quantised code (van den Oord et al. 2017, arXiv:1711.00937) without an encoder of its own: the frozen teachers
are the encoder, and the entries are the k-means centres (Lloyd 1982, doi:10.1109/TIT.1982.1056489) of the good parts'
projected mixes. One may call it the memory bank of PatchCore (arXiv:2106.08265) at a size that does not grow with the
photos. It knows no positions: a part may be turned or shifted, a texture has none. In the graph it is a convolution, an
arg max and a look-up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ENTRIES = 1024
SAMPLED = 40_000
"""Positions, drawn from all photos, that set the entries: about forty an entry."""
ROUNDS = 10
POSITIONS_AN_ENTRY = 8


class CodebookAutoencoder(nn.Module):
    """Weighted mix [N, D, h, w] -> (its projection, its reconstruction), both [N, C, h, w]."""

    def __init__(self, project: nn.Conv2d, positions: int) -> None:
        super().__init__()
        self.project = project
        size = max(1, min(ENTRIES, positions // POSITIONS_AN_ENTRY))
        self.match = nn.Conv2d(project.out_channels, size, 1).requires_grad_(False)
        self.entries: Tensor
        self.register_buffer("entries", torch.zeros(size, project.out_channels))

    def forward(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Projection and reconstruction, in that order."""
        y = self.project(mix)
        nearest = self.match(y).argmax(1)  # [N, h, w]
        return y, nn.functional.embedding(nearest, self.entries).permute(0, 3, 1, 2)

    @torch.no_grad()
    def fit(self, rows: Tensor, seed: int) -> None:
        """From all training photos in the projected space, [positions, N, C]. Sums are in a fixed order."""
        flat = rows.reshape(-1, rows.shape[2])
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(flat), generator=generator)[:SAMPLED]
        sample = flat[chosen.to(flat.device)]
        entries = sample[: len(self.entries)].clone()
        parts = [sample[i : i + 8192] for i in range(0, len(sample), 8192)]
        for _ in range(ROUNDS):
            nearest = torch.cat([_match(part, entries).argmax(1) for part in parts])
            sums = torch.zeros_like(entries).index_add_(0, nearest, sample)
            counts = torch.bincount(nearest, minlength=len(entries))[:, None]
            # an entry that nobody is nearest to stays where it is
            entries = torch.where(counts > 0, sums / counts.clamp_min(1), entries)
        self.entries.copy_(entries)
        self.match.weight.copy_(2 * entries[:, :, None, None])
        assert self.match.bias is not None
        self.match.bias.copy_(-(entries**2).sum(1))


def _match(points: Tensor, entries: Tensor) -> Tensor:
    """[n, C], [m, C] -> [n, m]: the larger, the nearer."""
    return 2 * points @ entries.T - (entries**2).sum(1)
