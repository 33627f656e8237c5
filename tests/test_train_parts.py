"""What training is made of: alignment, importance, projection, autoencoders, and the choices between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtkd_edge.lab import importance, normalise, teachers
from mtkd_edge.lab.distil import rate
from mtkd_edge.lab.mix import Block, Mix
from mtkd_edge.lab.projection import projected, projection
from mtkd_edge.lab.subspace import Moments, PositionAutoencoder, code_size
from mtkd_edge.progress import silent
from mtkd_edge.score import Level, ScoreSpec


def test_aligned_blocks_have_unit_energy_and_no_mean() -> None:
    torch.manual_seed(0)
    mix = Mix([teachers.load("offline-res")]).eval()
    pixels = torch.rand(4, 3, 64, 64) * 255
    mix.fit([pixels])
    out = mix(pixels)
    first = out[:, : mix.blocks[0].stop]
    assert float((first**2).mean()) == pytest.approx(1, abs=0.05)
    assert float(first.mean((0, 2, 3)).abs().max()) < 1e-2


def test_importance_goes_to_the_teacher_that_tells_more() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(16, 3, 8, 8, generator=generator)
    clear = picture.repeat(1, 2, 1, 1) * 2 - 1
    blocks = (Block(0, 8, 0, 6), Block(1, 8, 6, 12))
    mixed = torch.cat([clear * 1.7, torch.zeros_like(clear)], 1)
    weights, history = importance.learn(lambda step: (mixed, picture * 255), blocks, 0, lambda *a, **k: None)
    assert float(weights[0, 0]) > 0.7
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_autoencoder_by_position_rebuilds_what_varies_and_not_what_is_new() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2, 12, 4, 4, generator=generator)
    usual = torch.einsum("nk,kchw->nchw", torch.randn(40, 2, generator=generator), directions)
    net = PositionAutoencoder(project := projection(lambda: iter([usual])), (4, 4), 2)
    net.fit(Moments(projected(project, lambda: iter([usual]))), 1)
    y, rebuilt = net(usual)
    assert float((y - rebuilt).abs().max()) < 1e-4
    y, rebuilt = net(usual + torch.randn(40, 12, 4, 4, generator=generator))
    assert float((y - rebuilt).abs().mean()) > 0.3


@pytest.mark.parametrize("code", [1, 4, 12])
def test_what_the_autoencoder_misses_is_what_a_denoising_one_does_not_rebuild(code: int) -> None:
    """Written out as it is defined: least squares from noisy good photos to clean ones, at each position."""
    generator = torch.Generator().manual_seed(0)
    usual, other = (torch.randn(30, 12, 4, 4, generator=generator) + 5 for _ in range(2))
    net = PositionAutoencoder(project := projection(lambda: iter([usual])), (4, 4), code)
    net.fit(Moments(projected(project, lambda: iter([usual]))), 1)
    seen, rebuilt = net(other)
    assert seen.shape == rebuilt.shape == (30, 12, 4, 4)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        good, photo = (project(photos)[:, :, row, column].double().numpy() for photos in (usual, other))
        covariance = np.cov(good.T, bias=True)
        noise = np.linalg.eigvalsh(covariance)[: 12 - min(code, 11)].mean()
        # of all linear maps this one brings E |M (x + noise) - x|^2 to its least
        rebuild = covariance @ np.linalg.inv(covariance + noise * np.eye(12))
        centred = photo - good.mean(0)
        found = (seen - rebuilt)[:, :, row, column].norm(dim=1).numpy()
        np.testing.assert_allclose(found, np.linalg.norm(centred - centred @ rebuild.T, axis=1), rtol=1e-4)


def test_where_all_good_photos_are_the_same_whatever_differs_is_missed() -> None:
    usual = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(5, 1, 1, 1)
    net = PositionAutoencoder(project := projection(lambda: iter([usual])), (4, 4), 3)
    net.fit(Moments(projected(project, lambda: iter([usual]))), 1)
    seen, rebuilt = net(usual + 0.5)
    torch.testing.assert_close((seen - rebuilt).norm(dim=1), torch.full((5, 4, 4), 0.5 * 6**0.5), rtol=1e-3, atol=1e-3)


def residual(net: PositionAutoencoder, mix: torch.Tensor) -> float:
    """Of what lies inside, away from the border."""
    y, rebuilt = net(mix)
    return float((y - rebuilt)[:, :, 1:-1, 1:-1].abs().mean())


def test_a_window_of_the_autoencoder_forgives_shifts_that_no_training_photo_had() -> None:
    pattern = torch.randn(12, 8, 8, generator=torch.Generator().manual_seed(0))
    usual = pattern[None, :, 1:7, 1:7].repeat(4, 1, 1, 1)
    moved = torch.stack([pattern[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)])
    project = projection(lambda: iter([moved]))
    seen = Moments(projected(project, lambda: iter([usual])))
    alone, around = PositionAutoencoder(project, (6, 6), 8), PositionAutoencoder(project, (6, 6), 8)
    alone.fit(seen, 1)
    around.fit(seen, 3)
    assert residual(alone, usual) < 1e-3
    assert residual(around, moved) < 0.1 * residual(alone, moved)


def test_the_moments_of_a_window_are_half_the_positions_own_and_half_of_all_that_lies_in_it() -> None:
    rows = torch.randn(16, 30, 5, generator=torch.Generator().manual_seed(4))  # 4 x 4 positions, 30 photos
    mean, covariance = Moments(rows).over(3, (4, 4))
    inside = [y * 4 + x for y in (0, 1, 2) for x in (1, 2, 3)]  # around row 1, column 2
    corner = [0, 1, 4, 5]
    for position, window in ((1 * 4 + 2, inside), (0, corner)):
        # as many samples of the position itself as of all the window
        samples = torch.cat([rows[window].reshape(-1, 5), rows[position].repeat(len(window), 1)])
        torch.testing.assert_close(mean[position], samples.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(covariance[position], torch.cov(samples.T, correction=0), rtol=0, atol=1e-4)
    alone, spread = Moments(rows).over(1, (4, 4))
    torch.testing.assert_close(alone[3], rows[3].mean(0))
    torch.testing.assert_close(spread[3], torch.cov(rows[3].T, correction=0))


def test_the_space_of_the_autoencoders_is_orthonormal_and_keeps_the_energy() -> None:
    usual = torch.randn(40, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    project = projection(lambda: iter([usual[:20], usual[20:]]))
    rows = project.weight[:, :, 0, 0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
    assert float((projected(project, lambda: iter([usual])) ** 2).sum()) == pytest.approx(
        float((usual**2).sum()), rel=1e-4
    )


def test_few_photos_get_a_short_code() -> None:
    assert [code_size(n) for n in (4, 16, 80, 1000)] == [1, 2, 10, 32]


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == rates[9] or max(rates) == rates[10]
    assert rates[0] < rates[5] and rates[-1] < 0.01 * max(rates)


def choice(deviation: float, alone: float, near: float) -> normalise.Choice:
    """What is chosen where defects raise the three distances by so much."""
    rng = np.random.default_rng(0)
    names = ("deviation", "window 1", "window 3")
    levels = tuple(Level(name, "distance", 1, 4, 4, 0.5) for name in names)
    found = [
        normalise.Distances(rng.random((30, 4, 4)), rng.random((30, 4, 4)) + rise) for rise in (deviation, alone, near)
    ]
    return normalise.choose(levels, found, ScoreSpec(levels, 8, 8, 1.0, 0.1))


def test_level_weights_go_where_pasted_defects_show() -> None:
    found = choice(0.0, 0.4, 0.0)
    deviation, reconstruction = found.score.levels
    assert (deviation.name, reconstruction.name) == ("deviation", "reconstruction")
    assert reconstruction.weight > deviation.weight > 0
    assert found.tried[found.name] == max(found.tried.values()) > found.tried["window 1, 0.5/0.5"]


def test_the_autoencoder_that_shows_pasted_defects_is_kept() -> None:
    assert choice(0.0, 0.05, 0.4).autoencoder == "window 3"
    assert choice(0.0, 0.4, 0.05).autoencoder == "window 1"


def test_a_wider_window_is_not_kept_for_shares_that_the_first_one_likes_as_well() -> None:
    found = choice(0.0, 0.4, 0.39)
    first, wider = (max(v for k, v in found.tried.items() if k.startswith(f"window {w}")) for w in (1, 3))
    assert found.tried["window 1, 0.5/0.5"] + normalise.MARGIN < first < wider < first + normalise.MARGIN
    assert found.name == "window 1, 0.1/0.9"


def test_where_nothing_is_better_the_first_choice_stays() -> None:
    assert choice(2.0, 2.0, 2.0).name == "window 1, 0.5/0.5"


@pytest.mark.parametrize("side", [4, 6, 10, 14, 18])
def test_importance_is_learned_at_every_size_that_is_taken(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid of `--size` 64, 96, 160, 224 and 288."""
    monkeypatch.setattr(importance, "STEPS", 2)
    blocks = (Block(0, 8, 0, 2), Block(1, 8, 2, 5))
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 5, side, side, generator=draw), 255 * torch.rand(2, 3, side, side, generator=draw)
    weights, history = importance.learn(lambda step: batch, blocks, 0, silent)
    assert weights.sum(1) == pytest.approx(1) and len(history) == 2


def test_the_projection_is_where_the_features_are() -> None:
    """No GPU is needed to see it: torch's device without memory takes part in everything but reading numbers."""
    features = torch.randn(4, 5, 3, 3, device="meta")
    project = projection(lambda: iter([features]))
    assert project(features).device.type == project.weight.device.type == "meta"
