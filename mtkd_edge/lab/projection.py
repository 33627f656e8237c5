"""The space in which the autoencoders work: the leading principal directions of the weighted teacher mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

PROJECTED = 80
Batches = Callable[[], Iterator[Tensor]]
"""Gives the weighted mixes [n, D, h, w] of the training photos, batch by batch, as often as it is called."""


@torch.no_grad()
def projection(batches: Batches) -> nn.Conv2d:
    """A frozen 1x1 convolution [N, D, h, w] -> [N, at most PROJECTED, h, w]; its rows are orthonormal."""
    total = torch.as_tensor(sum(_second_moment(batch) for batch in batches()))
    kept = min(PROJECTED, len(total))
    vectors = torch.linalg.eigh(total)[1][:, -kept:]
    # the sign of an eigenvector is arbitrary; fixing it makes two runs comparable
    vectors = vectors * vectors[vectors.abs().argmax(0), torch.arange(kept, device=vectors.device)].sign()
    project = nn.Conv2d(len(total), kept, 1, bias=False, device=vectors.device).requires_grad_(False)
    project.weight.copy_(vectors.T[:, :, None, None])
    return project


@torch.no_grad()
def projected(project: nn.Conv2d, batches: Batches) -> Tensor:
    """All training photos in that space, position by position: [h * w, N, channels] float32."""
    return torch.cat([project(batch).flatten(2).permute(2, 0, 1) for batch in batches()], 1)


def _second_moment(batch: Tensor) -> Tensor:
    flat = batch.permute(1, 0, 2, 3).flatten(1)
    # float32 inside a batch, float64 across batches
    return (flat @ flat.T).double()
