"""Training, start to end, on a small drawn line with the teachers that ship in the package."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtkd_edge import bundle
from mtkd_edge.demo import line
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.lab import checkpoint, distil, importance, normalise, teachers
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.distil import rate
from mtkd_edge.lab.mix import Block, Mix
from mtkd_edge.lab.projection import projected, projection
from mtkd_edge.lab.subspace import Moments, PositionAutoencoder, code_size
from mtkd_edge.lab.train import train
from mtkd_edge.progress import silent
from mtkd_edge.score import Level, ScoreSpec


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    line.render(root, good=24)
    return root


def config(parts: Path, out: Path, **changes: object) -> TrainConfig:
    given: dict[str, object] = {"data": str(parts), "out": str(out), "preset": "offline", "size": 64, "epochs": 3}
    return TrainConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(parts, tmp_path_factory.mktemp("runs") / "whole"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "checkpoint").glob("*.student.safetensors")
    return load_file(path)


def test_a_run_leaves_a_bundle_that_loads_with_every_hash_right(run: Path) -> None:
    manifest = bundle.load_bundle(run / "bundle")
    assert [t.name for t in manifest.teachers] == ["offline-res", "offline-plain", "offline-depthwise"]
    assert [level.name for level in manifest.score.levels] == ["deviation", "reconstruction"]
    for level in range(2):
        assert sum(t.importance[level] for t in manifest.teachers) == pytest.approx(1, abs=1e-5)
    assert bundle.load_threshold(run / "bundle").photos == manifest.held_out


def test_a_run_says_what_happened_in_numbers_and_pictures(run: Path) -> None:
    metrics = msgspec.json.decode((run / "metrics.json").read_bytes())
    assert metrics["photos"]["train"] + metrics["photos"]["tune"] + metrics["photos"]["held_out"] == 24
    assert sorted(p.name for p in (run / "plots").iterdir()) == ["importance.png", "student.png"]


def test_a_stopped_run_continues_bit_for_bit(parts: Path, run: Path, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int, note: str = "") -> None:
        if step == "student" and done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(config(parts, out), stop)
    train(config(parts, out, resume=True))
    whole, resumed = weights_of(run), weights_of(out)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_run_stopped_within_a_step_goes_on_from_the_last_whole_one(
    parts: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does: by then the batch has gone into the statistics of the network."""
    out, step, count = tmp_path / "stopped", torch.optim.AdamW.step, 0

    def stop(self: torch.optim.AdamW, *words: object) -> object:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return step(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(distil, "SAVE_EVERY", 2)
    with monkeypatch.context() as within, pytest.raises(KeyboardInterrupt):
        within.setattr(torch.optim.AdamW, "step", stop)
        train(config(parts, out))
    assert [path.name for path in (out / "checkpoint").glob("*.safetensors")] == ["2.student.safetensors"]
    train(config(parts, out, resume=True))
    whole, resumed = weights_of(run), weights_of(out)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_resuming_with_other_photos_is_refused(tmp_path: Path) -> None:
    line.render(tmp_path / "line", good=24)

    def stop(step: str, done: int, total: int, note: str = "") -> None:
        if step == "student":
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "line", out), stop)
    gone = sorted((tmp_path / "line" / "train" / "good").iterdir())[0]
    gone.unlink()
    with pytest.raises(DataError, match=rf"begun with other photos: \d+ photos have .* is train/good/{gone.name}"):
        train(config(tmp_path / "line", out, resume=True))
    assert (out / "checkpoint").is_dir(), "what was learned is still there"


def test_what_is_refused_before_anything_was_learned_keeps_no_folder(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line.render(tmp_path / "few", good=5)
    with pytest.raises(DataError, match="5 "):
        train(config(tmp_path / "few", out))
    with pytest.raises(UsageError, match="no class logits"):
        train(config(parts, out, method="paper"))
    assert not out.exists()


def test_resuming_with_other_options_is_refused_by_name(parts: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="seed"):
        train(config(parts, run, resume=True, seed=5))


def test_a_second_run_into_the_same_folder_is_refused(parts: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(config(parts, run))


@pytest.mark.parametrize(
    "changes", [{"size": 100}, {"epochs": 0}, {"preset": "nobody"}, {"false_alarms": 0.0}, {"batch": 1}]
)
def test_a_configuration_that_makes_no_sense_is_refused_before_anything_is_read(
    changes: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        train(config(tmp_path / "nothing", tmp_path / "run", **changes))


def test_the_published_method_needs_teachers_with_logits(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class logits"):
        train(config(parts, tmp_path / "paper", method="paper"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    checkpoint.save(tmp_path, net, optimizer, 1, [])
    (path,) = tmp_path.glob("*.student.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        checkpoint.restore(tmp_path, net, optimizer)


def test_unreachable_weights_name_the_ways_that_need_no_network() -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        teachers.load("local-dir:/nowhere/resnet18")
    assert "config.json" in str(caught.value)


def test_teachers_never_train(run: Path) -> None:
    mix = Mix([teachers.load("offline-res")])
    mix.train()
    assert not any(module.training for teacher in mix.teachers for module in teacher.modules())
    assert not any(p.requires_grad for p in mix.parameters())


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


def test_the_moments_of_a_window_are_those_of_all_that_lies_in_it() -> None:
    rows = torch.randn(16, 30, 5, generator=torch.Generator().manual_seed(4))  # 4 x 4 positions, 30 photos
    mean, covariance = Moments(rows).over(3, (4, 4))
    inside = [y * 4 + x for y in (0, 1, 2) for x in (1, 2, 3)]  # around row 1, column 2
    corner = [0, 1, 4, 5]
    for position, window in ((1 * 4 + 2, inside), (0, corner)):
        samples = rows[window].reshape(-1, 5)
        torch.testing.assert_close(mean[position], samples.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(covariance[position], samples.T.cov(correction=0), rtol=0, atol=1e-5)


def test_the_space_of_the_autoencoders_is_orthonormal_and_keeps_the_energy() -> None:
    usual = torch.randn(40, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    project = projection(lambda: iter([usual[:20], usual[20:]]))
    rows = project.weight[:, :, 0, 0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
    assert float((projected(project, lambda: iter([usual])) ** 2).sum()) == pytest.approx(
        float((usual**2).sum()), rel=1e-4
    )


def test_few_photos_get_a_short_code() -> None:
    assert [code_size(n) for n in (4, 16, 80, 1000)] == [1, 2, 10, 40]


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == rates[9] or max(rates) == rates[10]
    assert rates[0] < rates[5] and rates[-1] < 0.01 * max(rates)


def choice(deviation: float, near: float, alone: float) -> normalise.Choice:
    """What is chosen where defects raise the three distances by so much."""
    rng = np.random.default_rng(0)
    names = ("deviation", "window 3", "window 1")
    levels = tuple(Level(name, "distance", 1, 4, 4, 0.5) for name in names)
    found = [
        normalise.Distances(rng.random((30, 4, 4)), rng.random((30, 4, 4)) + rise) for rise in (deviation, near, alone)
    ]
    return normalise.choose(levels, found, ScoreSpec(levels, 8, 8, 1.0, 0.1))


def test_level_weights_go_where_pasted_defects_show() -> None:
    found = choice(0.0, 0.4, 0.0)
    deviation, reconstruction = found.score.levels
    assert (deviation.name, reconstruction.name) == ("deviation", "reconstruction")
    assert reconstruction.weight > deviation.weight > 0
    assert found.tried[found.name] == max(found.tried.values()) > found.tried["window 3, 0.5/0.5"]


def test_the_autoencoder_that_shows_pasted_defects_is_kept() -> None:
    assert choice(0.0, 0.05, 0.4).autoencoder == "window 1"
    assert choice(0.0, 0.4, 0.05).autoencoder == "window 3"


def test_where_nothing_is_better_the_first_choice_stays() -> None:
    assert choice(2.0, 2.0, 2.0).name == "window 3, 0.5/0.5"


@pytest.mark.data
def test_any_timm_folder_is_a_teacher_with_its_own_mean(shared: Path) -> None:
    teacher = teachers.load(f"local-dir:{shared}/weights/mobilenetv2_100")
    assert teacher.channels == (32, 96)
    assert teacher.mean_std == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.data
def test_torchvision_gives_what_timm_lacks(shared: Path) -> None:
    weights = shared / "weights" / "squeezenet1_1-torchvision" / "model.safetensors"
    assert teachers.load(f"torchvision:squeezenet1_1:{weights}").channels == (256, 512)


@pytest.mark.data
def test_the_published_method_trains_and_exports(shared: Path, parts: Path, tmp_path: Path) -> None:
    names = tuple(f"local-dir:{shared}/weights/{name}" for name in ("mobilenetv2_100", "mobilenetv1_100"))
    out = train(config(parts, tmp_path / "paper", method="paper", teachers=names, epochs=1))
    manifest = bundle.load_bundle(out / "bundle")
    assert [level.kind for level in manifest.score.levels] == ["squared", "cosine", "squared"]
    assert sum(t.importance[0] for t in manifest.teachers) == pytest.approx(1, abs=1e-5)


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
