"""Fewer teachers: those that turned out to matter little are dropped before anything is learned from them.

A teacher's importance is the mean of its weights over the levels, so the importance of all teachers sums to 1. What is
dropped leaves no trace in the graph: the rest keep their alignment, and their weights are scaled to sum to 1 again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtkd_edge.lab.mix import Mix
from mtkd_edge.lab.teachers import Teacher


def kept(weights: Tensor, least: float) -> list[int]:
    """Weights [levels, teachers] -> the numbers of the teachers of importance `least` or more; below 1 / teachers."""
    return [k for k, share in enumerate(weights.double().mean(0).tolist()) if share >= least]


def channels_of(mix: Mix, teachers: Sequence[int]) -> list[int]:
    """The channels of the mix that belong to these teachers, in order."""
    return [c for block in mix.blocks if block.teacher in teachers for c in range(block.start, block.stop)]


@torch.no_grad()
def subset(mix: Mix, teachers: Sequence[int]) -> Mix:
    """A mix of these teachers alone: the channels of `channels_of`, number by number."""
    convs = [conv for conv, block in zip(mix.align, mix.blocks, strict=True) if block.teacher in teachers]
    left = [teacher for k, teacher in enumerate(mix.teachers) if k in teachers and isinstance(teacher, Teacher)]
    small = Mix(left, [conv.out_channels for conv in convs], mix.view)
    for conv, old in zip(small.align, convs, strict=True):
        conv.load_state_dict(old.state_dict())
    return small.to(convs[0].weight.device).eval()


def renormalised(weights: Tensor, teachers: Sequence[int]) -> Tensor:
    """Weights [levels, teachers] of these teachers alone, each level's summing to 1."""
    left = weights[:, list(teachers)]
    return left / left.sum(1, keepdim=True)
