"""The autoencoder: at each position of the grid, a linear code of the teacher mix.

Good parts look alike at the same place, and what varies there (lighting, grain, a part turned a little) fills few
directions. So each grid position p keeps a mean mu_p of the projected mix y and the k leading principal directions U_p
of what the good parts show in a window of w x w positions around p, and rebuilds

    y'_p = mu_p + U_p U_p^T (y_p - mu_p)

What cannot be rebuilt is anomalous. A linear autoencoder's optimum is this projection (Baldi and Hornik 1989,
doi:10.1016/0893-6080(89)90014-2), so it is computed, not trained. With a window of one position it is sharpest, for
parts that lie alike to the pixel; a wider one sees w^2 times as many samples and forgives shifts. PaDiM
(arXiv:2011.08785) keeps a full covariance a position instead: more numbers, and no better (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODE = 40
SAMPLES_A_DIRECTION = 8
"""A principal direction needs this many samples to be more than chance."""


def code_size(samples: int) -> int:
    """How many directions a position keeps: at most CODE, fewer where samples are few."""
    return max(1, min(CODE, samples // SAMPLES_A_DIRECTION))


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
    def fit(self, seen: Moments, window: int) -> None:
        """From the training photos, over windows of `window` x `window` positions (odd)."""
        mean, covariance = seen.over(window, self.grid)
        self.mean.copy_(mean[:, None])
        # float64: in float32 one run returned NaN directions; it could not be repeated, so the cause is not known
        self.basis.copy_(torch.linalg.eigh(covariance.double())[1][:, :, -self.code :])


class Moments:
    """Mean [positions, C] and covariance [positions, C, C] of what all training photos show at each position."""

    def __init__(self, rows: Tensor) -> None:
        """`rows`: all training photos in the projected space, [positions, N, C]."""
        self.photos = rows.shape[1]
        self.mean = rows.mean(1)
        centred = rows - self.mean[:, None]
        self.covariance = centred.transpose(1, 2) @ centred / self.photos

    def over(self, window: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and covariance of all that a window around each position shows; at the border, of what lies inside."""
        mean = _averaged(self.mean, window, grid)
        between = _averaged(_outer(self.mean), window, grid) - _outer(mean)
        return mean, _averaged(self.covariance, window, grid) + between


def _outer(mean: Tensor) -> Tensor:
    return mean[:, :, None] * mean[:, None]


def _averaged(values: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """The mean over the window around each position: [positions, ...], the same shape."""
    plane = values.flatten(1).T.reshape(1, -1, *grid)
    mean = nn.functional.avg_pool2d(plane, window, 1, window // 2, count_include_pad=False)
    return mean.flatten(2)[0].T.reshape(values.shape)
