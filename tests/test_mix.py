"""The teacher mix: what alignment does to the features."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from mtkd_edge.lab import teachers
from mtkd_edge.lab.mix import Mix, set_alignment


def test_blocks_have_unit_energy_on_the_photos_they_were_fitted_to() -> None:
    mix = Mix([teachers.load("offline-res"), teachers.load("offline-depthwise")]).eval()
    pixels = torch.from_numpy(tiny.normal_frames(16, 64)).permute(0, 3, 1, 2).float()
    mix.fit([pixels[:8], pixels[8:]])
    with torch.no_grad():
        made = [conv(tap) for conv, tap in zip(mix.align, mix.taps(pixels), strict=True)]
        assert [float(block.square().mean()) for block in made] == pytest.approx([1.0] * len(made), rel=1e-4)
        assert torch.equal(mix(pixels)[:, mix.blocks[0].start : mix.blocks[0].stop], made[0])


def test_a_channel_counts_by_its_deviation_and_not_by_its_variance_nor_alike() -> None:
    conv = nn.Conv2d(2, 2, 1).requires_grad_(False)
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.normal(size=(10_000, 2)) * (100.0, 1.0) + (5.0, -3.0))
    set_alignment(conv, seen.mean(0), torch.cov(seen.T))
    with torch.no_grad():
        out = conv(seen.float().T[None, :, :, None])[0, :, :, 0]
    energy = out.square().mean(1).sort().values
    assert float(energy.mean()) == pytest.approx(1, rel=1e-3)
    assert float(energy[1] / energy[0]) == pytest.approx(100, rel=0.1)
    assert out.mean(1).abs().max() < 1e-3


def test_a_dead_channel_stays_finite() -> None:
    conv = nn.Conv2d(3, 3, 1).requires_grad_(False)
    set_alignment(conv, torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 0.0])).double())
    assert torch.isfinite(conv.weight).all() and torch.isfinite(conv.bias).all()
