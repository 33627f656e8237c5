"""Importance weights of the teachers, learned through an autoencoder's reconstruction (Ma et al. 2023, section 3.2).

The teachers are the encoder: a decoder rebuilds what was seen from the weighted mix, and the weights are a softmax
whose logits only this reconstruction trains. Two changes make the idea sound for feature maps:

- The mix passes a noisy channel: sqrt(w_b) Z_b + noise. Without noise a decoder undoes any weight by scaling, and w
  means nothing; with it, w is a power budget, spent where it rebuilds most.
- Targets are the pixels *and* the features of every teacher. Pixels alone reward whoever keeps low-level detail.

No gradient of the distillation ever reaches w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtkd_edge.lab.mix import Block
from mtkd_edge.progress import Progress

STEPS = 150
NOISE = 0.5
FLOOR = 0.05
"""No teacher falls below this share of its level while learning: a weight of zero could never recover."""


class Decoder(nn.Module):
    """A narrow decoder through 64 channels at stride 4: [N, D, h, w] -> pixels and all features, [N, 3 + D, h, w]."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=4, mode="bilinear"),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, 3 + channels, 1),
        )

    def forward(self, mix: Tensor) -> Tensor:
        """Pixels first, then features in block order."""
        out: Tensor = self.body(mix)
        return out[..., : mix.shape[2], : mix.shape[3]]  # a side that four does not divide comes back larger


def shares(logits: Tensor) -> Tensor:
    """Logits [levels, teachers] -> weights, each level's summing to 1, none below FLOOR."""
    soft = logits.softmax(1)
    return FLOOR + (1 - FLOOR * logits.shape[1]) * soft if FLOOR * logits.shape[1] < 1 else soft


def equal(blocks: tuple[Block, ...]) -> Tensor:
    """The same weight for all teachers, [levels, teachers]."""
    levels, teachers = len({b.stride for b in blocks}), 1 + max(b.teacher for b in blocks)
    return torch.full((levels, teachers), 1 / teachers)


def spread(weights: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Weights [levels, teachers] -> one factor a channel, [D]: sqrt(w K), so that equal weights leave all as it is."""
    strides = sorted({block.stride for block in blocks})
    teachers = weights.shape[1]
    parts = [weights[strides.index(b.stride), b.teacher].expand(b.stop - b.start) * teachers for b in blocks]
    return torch.cat(parts).sqrt()


def learn(
    draw: Callable[[int], tuple[Tensor, Tensor]],
    blocks: tuple[Block, ...],
    seed: int,
    progress: Progress,
    felt_share: float = 1.0,
) -> tuple[Tensor, list[dict[str, float]]]:
    """Weights [levels, teachers], and the history of loss and weights.

    `draw(step)` gives a batch: blocks [N, D, h, w] and pixels in 0..255 [N, 3, h, w] at the same grid. `felt_share`:
    how much the features count beside the pixels; 0 is the publication's target, pixels alone.
    """
    first, _ = draw(0)
    torch.manual_seed(seed)
    decoder = Decoder(first.shape[1]).to(first.device)
    levels, teachers = len({b.stride for b in blocks}), 1 + max(b.teacher for b in blocks)
    logits = torch.zeros(levels, teachers, device=first.device, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": decoder.parameters(), "lr": 2e-3}, {"params": [logits], "lr": 3e-2}])
    noise = torch.Generator(device=first.device).manual_seed(seed)
    history: list[dict[str, float]] = []
    for step in range(STEPS):
        features, pixels = draw(step)
        mix = features * spread(shares(logits), blocks).view(1, -1, 1, 1)
        mix = mix + NOISE * torch.randn(mix.shape, generator=noise, device=mix.device)
        out = decoder(mix)
        seen = nn.functional.mse_loss(out[:, :3], pixels / 128 - 1)
        felt = nn.functional.mse_loss(out[:, 3:], features)
        loss = seen + felt_share * felt
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        now = shares(logits.detach())
        row = {f"w{level}_{k}": float(now[level, k]) for level in range(levels) for k in range(teachers)}
        history.append({"loss": loss.item(), "pixels": seen.item(), "features": felt.item(), **row})
        progress("importance of the teachers", step + 1, STEPS, f"loss {loss.item():.3f}")
    return shares(logits.detach()).cpu(), history
