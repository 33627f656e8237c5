"""The autoencoder of the map method: at each position, a linear code of the teacher mix.

Good parts look alike at the same place, and what varies there (lighting, position, grain) fills few directions. So each
grid position p keeps the mean mu_p of its projected mix y_p and the k leading principal directions U_p, and rebuilds

    y'_p = mu_p + U_p U_p^T (y_p - mu_p)

What cannot be rebuilt is anomalous. A linear autoencoder's optimum is this projection (Baldi and Hornik 1989,
doi:10.1016/0893-6080(89)90014-2), so it is computed, not trained. PaDiM (arXiv:2011.08785) keeps a full covariance a
position instead: four times the numbers, and no better (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PROJECTED = 64
CODE = 24
PHOTOS_A_DIRECTION = 8
"""A principal direction needs this many photos to be more than chance."""


def code_size(photos: int) -> int:
    """How many directions a position keeps: at most CODE, fewer where photos are few."""
    return max(1, min(CODE, photos // PHOTOS_A_DIRECTION))


class PositionAutoencoder(nn.Module):
    """Weighted mix [N, D, h, w] -> (its projection, its reconstruction), both [N, PROJECTED, h, w]."""

    def __init__(self, channels: int, grid: tuple[int, int], code: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, min(PROJECTED, channels), 1, bias=False).requires_grad_(False)
        width, positions = self.project.out_channels, grid[0] * grid[1]
        self.grid, self.code = grid, code
        self.mean: Tensor
        self.basis: Tensor
        self.register_buffer("mean", torch.zeros(positions, 1, width))
        self.register_buffer("basis", torch.zeros(positions, width, code))

    def forward(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Projection and reconstruction, in that order."""
        y = self.project(mix)
        rows = y.flatten(2).permute(2, 0, 1) - self.mean  # [positions, N, width]
        rebuilt = (rows @ self.basis) @ self.basis.transpose(1, 2) + self.mean
        return y, rebuilt.permute(1, 2, 0).reshape(-1, y.shape[1], *self.grid)

    @torch.no_grad()
    def fit(self, mixes: Iterable[Tensor]) -> None:
        """From the weighted mixes [n, D, h, w] of training photos; iterated twice: projection, then positions."""
        batches = list(mixes)
        total = sum(_second_moment(batch) for batch in batches)
        vectors = torch.linalg.eigh(torch.as_tensor(total))[1][:, -self.project.out_channels :]
        vectors = vectors * vectors[vectors.abs().argmax(0), torch.arange(vectors.shape[1])].sign()
        self.project.weight.copy_(vectors.T[:, :, None, None])
        rows = torch.cat([self.project(batch.float()).flatten(2).permute(2, 0, 1) for batch in batches], 1)
        self.mean.copy_(rows.mean(1, keepdim=True))
        centred = rows - self.mean
        covariance = centred.transpose(1, 2) @ centred
        self.basis.copy_(torch.linalg.eigh(covariance)[1][:, :, -self.code :])


def _second_moment(batch: Tensor) -> Tensor:
    flat = batch.permute(1, 0, 2, 3).flatten(1).float()
    return (flat @ flat.T).double()
