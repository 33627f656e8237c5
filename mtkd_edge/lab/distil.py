"""The student's training loop: the whole of it, top to bottom.

The student sees pixels and learns the weighted mix of its frozen teachers:

    loss = mean d + mean (1 - cos) + mean of the hardest d        d[n,y,x] = mean_c w_c (S - Z)^2

The last term keeps only the largest 0.1 % of the distances (EfficientAD, arXiv:2303.14535): where a good part is
hardest to predict is where a false alarm would come from.

Everything about a step follows from its number (which photos, which rate), so a run that was stopped continues bit for
bit on a CPU from the weights and the optimiser's moments alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mtkd_edge.lab import checkpoint
from mtkd_edge.lab.uncut import Uncut
from mtkd_edge.progress import Progress

PEAK_RATE = 3e-3
WARM_UP = 0.1
HARD = 0.999
SAVE_EVERY = 100
Draw = Callable[[int], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def rate(step: int, steps: int, peak: float = PEAK_RATE) -> float:
    """Learning rate: a linear rise over the first tenth, then half a cosine down to nothing."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def loss_of(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both weighted mixes [N, D, h, w] -> (loss, mean distance)."""
    distance = ((predicted - target) ** 2).mean(1)
    cosine = 1 - nn.functional.cosine_similarity(predicted, target, dim=1)
    hard = torch.topk(distance.flatten(), max(1, round((1 - HARD) * distance.numel()))).values
    return distance.mean() + cosine.mean() + hard.mean(), distance.mean()


def distil(
    student: nn.Module, draw: Draw, factors: Tensor, steps: int, folder: Path, progress: Progress,
    name: str = "student", peak: float = PEAK_RATE, loss_of: Loss = loss_of,
) -> list[dict[str, float]]:  # fmt: skip
    """Train `student` in place for `steps` steps, from the last saved step of `folder` if there is one.

    `draw(step)` gives pixels [N, 3, H, W] and blocks [N, D, h, w]; `factors` [D] are the square roots of the weights.
    Saves every 100 steps, at the end, and after the step in which it is interrupted. Returns the history, a row a step.
    `name` is what it is called while it learns; `loss_of` takes both weighted mixes and gives the loss and the mean
    distance.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr=peak, weight_decay=1e-4)
    scale = factors.view(1, -1, 1, 1)
    done, history = checkpoint.restore(folder, student, optimizer)
    student.train()
    step = Uncut()
    try:
        while done < steps:
            with step:
                pixels, blocks = draw(done)
                loss, distance = loss_of(student(pixels) * scale, blocks * scale)
                for group in optimizer.param_groups:
                    group["lr"] = rate(done, steps, peak)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                done += 1
                history.append({"loss": loss.item(), "distance": distance.item(), "rate": rate(done - 1, steps, peak)})
            progress(name, done, steps, f"loss {history[-1]['loss']:.3f}")
            if done % SAVE_EVERY == 0 and done < steps:
                checkpoint.save(folder, student, optimizer, done, history)
    finally:
        if step.whole:
            checkpoint.save(folder, student, optimizer, done, history)
    student.eval()
    return history
