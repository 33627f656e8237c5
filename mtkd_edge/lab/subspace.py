"""The autoencoder for parts that lie alike: at each position, a linear code of the teacher mix.

Good parts look alike at the same place, and what varies there (lighting, position, grain) fills few directions. So each
grid position p keeps the mean mu_p of its projected mix y_p and the k leading principal directions U_p, and rebuilds

    y'_p = mu_p + U_p U_p^T (y_p - mu_p)

What cannot be rebuilt is anomalous. A linear autoencoder's optimum is this projection (Baldi and Hornik 1989,
doi:10.1016/0893-6080(89)90014-2), so it is computed, not trained. PaDiM (arXiv:2011.08785) keeps a full covariance a
position instead: more numbers, and no better (docs/decisions.md). `codebook.py` is for parts that lie anyhow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODE = 40
PHOTOS_A_DIRECTION = 8
"""A principal direction needs this many photos to be more than chance."""


def code_size(photos: int) -> int:
    """How many directions a position keeps: at most CODE, fewer where photos are few."""
    return max(1, min(CODE, photos // PHOTOS_A_DIRECTION))


class PositionAutoencoder(nn.Module):
    """Weighted mix [N, D, h, w] -> (its projection, its reconstruction), both [N, C, h, w]."""

    def __init__(self, project: nn.Conv2d, grid: tuple[int, int], code: int) -> None:
        super().__init__()
        self.project, self.grid = project, grid
        width, positions = project.out_channels, grid[0] * grid[1]
        self.code = min(code, width)
        self.mean: Tensor
        self.basis: Tensor
        self.register_buffer("mean", torch.zeros(positions, 1, width))
        self.register_buffer("basis", torch.zeros(positions, width, self.code))

    def forward(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Projection and reconstruction, in that order."""
        y = self.project(mix)
        rows = y.flatten(2).permute(2, 0, 1) - self.mean  # [positions, N, width]
        rebuilt = (rows @ self.basis) @ self.basis.transpose(1, 2) + self.mean
        return y, rebuilt.permute(1, 2, 0).reshape(-1, y.shape[1], *self.grid)

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """From all training photos in the projected space, [positions, N, C]."""
        self.mean.copy_(rows.mean(1, keepdim=True))
        centred = rows - self.mean
        self.basis.copy_(torch.linalg.eigh(centred.transpose(1, 2) @ centred)[1][:, :, -self.code :])
