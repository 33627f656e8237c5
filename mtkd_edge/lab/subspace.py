"""The autoencoder: at each position of the grid, a linear code of the teacher mix.

Good parts look alike at the same place, and what varies there (lighting, grain, a part turned a little) fills few
directions. So each grid position p keeps a mean mu_p of the projected mix y and the k leading principal directions U_p
of what the good parts show in a window of w x w positions around p, and rebuilds

    y'_p = mu_p + U_p U_p^T (y_p - mu_p)

What cannot be rebuilt lies in the other directions V_p (the columns of U_p and V_p together are orthonormal):

    |y_p - y'_p| = |V_p^T y_p - V_p^T mu_p|

The score asks for no more than this length, and every position has directions of its own, so what a frame costs is to
read them: twice U_p, or V_p once. A code of 48 of 80 directions is 31 MB one way and 10 MB the other; one of few photos
is short, and cheaper as it is defined. Whichever is less is computed.

What cannot be rebuilt is anomalous. A linear autoencoder's optimum is this projection (Baldi and Hornik 1989,
doi:10.1016/0893-6080(89)90014-2), so it is computed, not trained. With a window of one position it is sharpest, for
parts that lie alike to the pixel; a wider one sees w^2 times as many samples and forgives shifts. PaDiM
(arXiv:2011.08785) keeps a full covariance a position instead: more numbers, and no better (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODE = 48
SAMPLES_A_DIRECTION = 8
"""A principal direction needs this many samples to be more than chance."""


def code_size(samples: int) -> int:
    """How many directions a position keeps: at most CODE, fewer where samples are few."""
    return max(1, min(CODE, samples // SAMPLES_A_DIRECTION))


class PositionAutoencoder(nn.Module):
    """Weighted mix [N, D, h, w] -> what it has in some directions, and what its reconstruction has there.

    Both are [N, channels, h, w]: in the directions V_p that a code of `code` leaves over (at least one), or in all.
    """

    def __init__(self, project: nn.Conv2d, grid: tuple[int, int], code: int) -> None:
        super().__init__()
        self.project, self.grid = project, grid
        width, positions = project.out_channels, grid[0] * grid[1]
        self.code = max(0, min(code, width - 1))
        self.leads = 2 * self.code < width - self.code
        kept = self.code if self.leads else width - self.code
        self.channels = width if self.leads else kept
        self.directions: Tensor
        self.mean: Tensor
        self.register_buffer("directions", torch.zeros(positions, width, kept))
        self.register_buffer("mean", torch.zeros(1, self.channels, *grid))

    def forward(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """As `compare`, of the projected mix."""
        return self.compare(self.project(mix))

    def compare(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y [N, C, h, w] -> y_p and y'_p, or V_p^T y_p and V_p^T y'_p = V_p^T mu_p; in that order."""
        if not self.leads:
            return self._planes(self._rows(y) @ self.directions), self.mean.expand(y.shape[0], -1, -1, -1)
        coded = self._rows(y - self.mean) @ self.directions
        return y, self._planes(coded @ self.directions.transpose(1, 2)) + self.mean

    def _rows(self, planes: Tensor) -> Tensor:
        # channels stay last: OpenVINO computes convolutions so, and need not copy on either side of a product
        return planes.permute(2, 3, 0, 1).reshape(self.grid[0] * self.grid[1], -1, planes.shape[1])

    def _planes(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self.grid, -1, rows.shape[2]).permute(2, 3, 0, 1)

    @torch.no_grad()
    def fit(self, seen: Moments, window: int) -> None:
        """From the training photos, over windows of `window` x `window` positions (odd)."""
        mean, covariance = seen.over(window, self.grid)
        # float64: in float32 one run returned NaN directions; it could not be repeated, so the cause is not known
        rising = torch.linalg.eigh(covariance.double())[1]
        left = rising.shape[1] - self.code
        self.directions.copy_(rising[:, :, left:] if self.leads else rising[:, :, :left])
        there = mean.double()[:, None]
        self.mean.copy_(self._planes(there if self.leads else there @ rising[:, :, :left]))


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
