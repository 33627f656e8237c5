"""The autoencoder: at each position of the grid, a linear denoising autoencoder of the teacher mix.

Good parts look alike at the same place, and what varies there (lighting, grain, a part turned a little) fills few
directions. So each grid position p keeps a mean mu_p of the projected mix y, the principal directions U_p of what the
good parts show in a window of w x w positions around p, and the variances l_p along them, and rebuilds

    y'_p = mu_p + U_p diag(l_p / (l_p + s_p)) U_p^T (y_p - mu_p)

That is what a linear autoencoder learns that is shown y with noise of variance s_p and asked for y without (denoising
autoencoder, Vincent et al. 2008, doi:10.1145/1390156.1390294); its optimum is known, so it is computed, not trained.
The noise is that of the directions beyond a short code, their mean variance, as in probabilistic PCA (Tipping and
Bishop 1999, doi:10.1111/1467-9868.00196). What varies much on good parts is rebuilt, what never varies is not, and what
lies between counts in part; a code that is cut off instead knows two kinds alone (docs/decisions.md).

What cannot be rebuilt is anomalous, and the score asks for no more than its length:

    |y_p - y'_p| = |G_p (y_p - mu_p)| = |R_p y_p - R_p mu_p|,    G_p = diag(s_p / (l_p + s_p)) U_p^T = Q_p R_p

Every position has numbers of its own, so what a frame costs is to read them; of the triangle R_p that is half, in four
steps nearly: 16 MB for 80 channels at 1024 positions, where G_p has 26.

With a window of one position it is sharpest, for parts that lie alike to the pixel; a wider one sees w^2 times as many
samples and forgives shifts. Half of its weight is the position's own, so that what lies around does not blur it away.
PaDiM (arXiv:2011.08785) asks for Mahalanobis' distance, in which the directions that vary least outweigh all others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CODE = 32
SAMPLES_A_DIRECTION = 8
"""A principal direction needs this many samples to be more than chance."""


def code_size(samples: int) -> int:
    """How many directions are not noise: at most CODE, fewer where samples are few."""
    return max(1, min(CODE, samples // SAMPLES_A_DIRECTION))


OWN = 0.5
"""The share of a window's weight that is its middle's; the other half is spread over all of it."""
STEPS = 4
"""Of the triangle: more would save less than a product more costs."""


class PositionAutoencoder(nn.Module):
    """Weighted mix [N, D, h, w] -> R_p y_p and R_p mu_p, both [N, channels, h, w].

    `code`: how many directions are not noise, of `channels` in all; one at least is.
    """

    def __init__(self, project: nn.Conv2d, grid: tuple[int, int], code: int) -> None:
        super().__init__()
        self.project, self.grid = project, grid
        self.channels = project.out_channels
        self.code = min(code, self.channels - 1)
        positions, step = grid[0] * grid[1], -(-self.channels // STEPS)
        self.begins = tuple(range(0, self.channels, step))
        for begin in self.begins:
            left = self.channels - begin
            self.register_buffer(f"triangle{begin}", torch.zeros(positions, left, min(step, left)))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(1, self.channels, *grid))

    def forward(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """As `compare`, of the projected mix."""
        return self.compare(self.project(mix))

    def compare(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y [N, channels, h, w] -> R_p y_p and R_p mu_p; their difference is as long as that of y_p and y'_p."""
        # channels stay last: OpenVINO computes convolutions so, and need not copy on either side of a product
        rows = y.permute(2, 3, 0, 1).reshape(self.grid[0] * self.grid[1], -1, self.channels)
        return self._planes(self._turned(rows)), self.mean.expand(y.shape[0], -1, -1, -1)

    def _turned(self, rows: Tensor) -> Tensor:
        """R_p times each of [positions, N, channels]; a step of its rows needs no channel from before it."""
        return torch.cat([rows[:, :, begin:] @ self.get_buffer(f"triangle{begin}") for begin in self.begins], 2)

    def _planes(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self.grid, -1, self.channels).permute(2, 3, 0, 1)

    @torch.no_grad()
    def fit(self, seen: Moments, window: int) -> None:
        """From the training photos, over windows of `window` x `window` positions (odd)."""
        mean, covariance = seen.over(window, self.grid)
        # float64: in float32 one run returned NaN directions; it could not be repeated, so the cause is not known
        variances, directions = torch.linalg.eigh(covariance.double())
        variances = variances.clamp_min(0)
        # never 0: where all good photos are the same, whatever differs is missed as a whole
        noise = variances[:, : self.channels - self.code].mean(1, keepdim=True).clamp_min(1e-9)
        triangle = torch.linalg.qr((directions * (noise / (variances + noise))[:, None]).transpose(1, 2), mode="r")[1]
        for begin in self.begins:
            numbers = self.get_buffer(f"triangle{begin}")
            numbers.copy_(triangle[:, begin : begin + numbers.shape[2], begin:].transpose(1, 2))
        self.mean.copy_(self._planes((triangle @ mean.double()[:, :, None]).transpose(1, 2)))


class Moments:
    """Mean [positions, C] and covariance [positions, C, C] of what all training photos show at each position."""

    def __init__(self, rows: Tensor) -> None:
        """`rows`: all training photos in the projected space, [positions, N, C]."""
        self.photos = rows.shape[1]
        self.mean = rows.mean(1)
        centred = rows - self.mean[:, None]
        self.covariance = centred.transpose(1, 2) @ centred / self.photos

    def over(self, window: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and covariance of what a window around each position shows, half of it the position's own.

        At the border, of what lies inside.
        """
        mean = _averaged(self.mean, window, grid)
        between = _averaged(_outer(self.mean), window, grid) - _outer(mean)
        return mean, _averaged(self.covariance, window, grid) + between


def _outer(mean: Tensor) -> Tensor:
    return mean[:, :, None] * mean[:, None]


def _averaged(values: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """The weighted mean over the window around each position: [positions, ...], the same shape."""
    if window == 1:
        return values
    plane = values.flatten(1).T.reshape(1, -1, *grid)
    mean = nn.functional.avg_pool2d(plane, window, 1, window // 2, count_include_pad=False)
    return OWN * values + (1 - OWN) * mean.flatten(2)[0].T.reshape(values.shape)
