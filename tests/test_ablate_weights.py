"""The table of what the importance weights do: its shortcuts give what the long way gives."""

from __future__ import annotations

from pathlib import Path

import ablate_cache
import ablate_weights
import line
import numpy as np
import pytest
import torch
from ablate_weights import Row

from mtkd_edge import dataset
from mtkd_edge.lab import teachers
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.framing import frame_spec, view_of
from mtkd_edge.lab.map_method import pixels_of
from mtkd_edge.lab.mix import Block, Mix
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.lab.projection import projected, projection
from mtkd_edge.lab.subspace import Moments, PositionAutoencoder
from mtkd_edge.progress import silent

SHAPE = (12, 8, 8)
BLOCKS = (Block(0, 8, 0, 3), Block(0, 16, 3, 6), Block(1, 8, 6, 9), Block(1, 16, 9, 12))


@pytest.fixture(scope="module")
def features() -> ablate_cache.Features:
    """Two teachers' features; a pasted defect shows in the second one's alone."""
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(12, 12))

    def drawn(count: int) -> np.ndarray:
        return np.einsum("nchw,cd->ndhw", rng.normal(size=(count, *SHAPE)), turn / 4).astype(np.float16)

    sets = {"train": drawn(64), "tune": drawn(20), "pasted": drawn(20), "test": drawn(12)}
    flaws = np.zeros((20, 8, 8), bool)
    flaws[:, 1, 2] = True
    sets["pasted"][:, 6:, 1, 2] += (4, -4, 4, 4, 4, -4)
    sets["test"][6:, 6:, 1, 2] += (4, -4, 4, 4, 4, -4)
    masks = tuple(np.zeros((16, 16), bool) for _ in range(12))
    for mask in masks[6:]:
        mask[2:4, 4:6] = True
    kinds = ("good",) * 6 + ("flaw",) * 6
    root = ablate_cache._root(sets["train"])
    return ablate_cache.Features(BLOCKS, sets, flaws, torch.rand(64, 3, 4, 4), root, kinds, masks)


def test_blocks_add_up_the_weighted_distances_and_a_sum_adds_up_the_features(features: ablate_cache.Features) -> None:
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    a, b = torch.randn(2, 12)
    matrix = ablate_weights.mixer(features, Row((0, 1)), weights)
    shares = (0.25, 0.5, 0.75, 0.5)
    wanted = sum(2 * w * (a - b)[k.start : k.stop].square().sum() for w, k in zip(shares, BLOCKS, strict=True))
    torch.testing.assert_close(((a - b) @ matrix).square().sum(), wanted)
    mixed = a @ ablate_weights.mixer(features, Row((0, 1), "equal", "sum"), weights)
    torch.testing.assert_close(mixed[:3], 0.25 * a[:3] + 0.75 * a[6:9])
    torch.testing.assert_close(mixed[3:6], 0.5 * a[3:6] + 0.5 * a[9:12])


def test_the_autoencoder_of_a_row_is_that_of_the_training(features: ablate_cache.Features) -> None:
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    matrix = ablate_weights.mixer(features, Row((0, 1)), weights)
    train = torch.from_numpy(features.sets["train"].astype(np.float32)) * matrix.diagonal().view(1, -1, 1, 1)
    project = projection(lambda: iter([train]))
    net = PositionAutoencoder(project, (8, 8), 5)
    net.fit(Moments(projected(project, lambda: iter([train]))), 3)
    tune = torch.from_numpy(features.sets["tune"].astype(np.float32)) * matrix.diagonal().view(1, -1, 1, 1)
    y, again = net(tune)
    wanted = (y - again).square().mean(1).sqrt().numpy()
    rows = ablate_weights.projected_by(features, slice(0, 12), matrix, ("train", "tune"))
    quick = ablate_weights.autoencoder(features, Moments(rows["train"]), 3, most=5)
    np.testing.assert_allclose(ablate_weights.distances(quick, rows["tune"]), wanted, atol=1e-4)


def test_one_teacher_of_several_is_taken_from_the_middle_of_the_cache(features: ablate_cache.Features) -> None:
    blocks, channels = ablate_weights.subset(features, Row((1,)))
    assert blocks == (Block(0, 8, 0, 3), Block(0, 16, 3, 6)) and channels == slice(6, 12)


def test_fishers_rule_prefers_the_teacher_that_shows_defects(features: ablate_cache.Features) -> None:
    weights = ablate_weights.fisher(features, Row((0, 1)), 0)
    assert (weights[:, 1] > 0.6).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_a_row_is_measured_and_a_seed_changes_nothing_that_does_not_depend_on_it(
    features: ablate_cache.Features,
) -> None:
    equal, again = ablate_weights.run(features, Row((0, 1)), [0, 1])
    assert {**equal, "seed": 1, "seconds": 0} == {**again, "seconds": 0}
    assert equal["image_auroc"] > 0.9 and equal["pixel_auroc"] > 0.9
    assert len(list(ablate_weights.run(features, Row((0, 1), "pixels"), [0, 1]))) == 2
    text = ablate_weights.table([{"row": "a + b, equal, blocks", **equal}])
    assert "| a + b | equal | blocks | 0.50/0.50 | 0.50/0.50 |" in text


def test_the_cache_holds_what_the_training_sees_of_photos_that_keep_their_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        shape = (96, 192, 3) if n % 2 else (192, 96, 3)
        line.write_photo(tmp_path / "data/train/good" / f"{n}.png", rng.integers(0, 256, shape, np.uint8))
    line.write_photo(tmp_path / "data/test/good/0.png", rng.integers(0, 256, (96, 192, 3), np.uint8))
    name = "offline-depthwise"
    features = ablate_cache.load(tmp_path / "data", [name], 96, tmp_path / "cache")
    listing = dataset.scan(tmp_path / "data")
    config = TrainConfig(data="", out="", size=96)
    spec = frame_spec(config, listing)
    assert spec.fit == "letterbox"
    frames = load_frames(listing.side("train"), spec, silent, "")
    mix = Mix([teachers.load(name)], view=view_of(config, spec)).eval()
    with torch.no_grad():
        mix.fit([pixels_of(frames, torch.device("cpu"))])
        wanted = mix(pixels_of(frames, torch.device("cpu"))).numpy()
    assert features.sets["train"].shape == wanted.shape == (len(frames), mix.channels, 12, 12)
    np.testing.assert_allclose(features.sets["train"], wanted, atol=0.05, rtol=0.05)
    assert features.seen.shape == (len(frames), 3, 6, 6)
    assert features.flaws.shape == (len(features.sets["pasted"]), 12, 12)
    assert features.flaws.any((1, 2)).all()
    # what is called defective is where the features changed most, on the whole
    copies = len(features.flaws) // len(features.sets["tune"])
    change = np.abs(features.sets["pasted"] - features.sets["tune"].repeat(copies, 0)).astype(float).mean(1)
    assert change[features.flaws].mean() > 3 * change[~features.flaws].mean()
