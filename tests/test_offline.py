"""The shipped teachers: there, small, frozen, unlike each other, and made by a script that can be run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import offline_tasks as tasks
import offline_textures as made
import pytest
import torch
from safetensors import safe_open
from torch import nn

from mtkd_edge import bundle
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.frames import FrameSpec, read, to_frame
from mtkd_edge.lab import offline
from mtkd_edge.metrics import auroc

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SHA256 = {
    "offline-res": "d61186ba88c68641e3b344f93efa01ab97915afa93a2d4fd84563d8813d172cc",
    "offline-plain": "9d1e5cca5520414011ac2269b7821fee115c44d910ce0684a21193db5772c82a",
    "offline-depthwise": "6350d38227ff57ab54af106ce8b91bacdece7528fa5c266f100dc3301ef923c9",
}


@pytest.fixture(params=offline.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def normalised(frames: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> what a teacher takes."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(offline.MEAN).view(3, 1, 1)) / torch.tensor(offline.STD).view(3, 1, 1)


def test_weights_are_the_released_ones(name: str) -> None:
    """A changed file changes every bundle made with it: retraining means new hashes here and in the changelog."""
    assert bundle.sha256(offline.weights_path(name)) == SHA256[name]


def test_all_weights_together_stay_small() -> None:
    paths = [offline.weights_path(name) for name in offline.NAMES]
    assert sum(path.stat().st_size for path in paths) <= 4_000_000
    assert sorted(offline.WEIGHTS.glob("*")) == sorted(paths)


def test_weights_are_float16_and_say_what_they_learned_from(name: str) -> None:
    with safe_open(offline.weights_path(name), "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
        facts = json.loads(file.metadata()["training"])
    assert facts["validation"]["statistics_8"] > 0.5
    assert facts["cifar10"] is True


@pytest.mark.parametrize(("height", "width"), [(256, 256), (96, 160)])
def test_taps_have_the_announced_channels_and_strides(name: str, height: int, width: int) -> None:
    teacher = offline.create(name)
    taps = teacher(torch.zeros(2, 3, height, width))
    assert [tuple(tap.shape) for tap in taps] == [
        (2, teacher.channels[stride], height // stride, width // stride) for stride in offline.STRIDES
    ]


def test_teacher_is_frozen_and_in_eval_mode(name: str) -> None:
    teacher = offline.create(name)
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert {weight.dtype for weight in teacher.parameters()} == {torch.float32}


def test_only_operations_that_quantise_well_remain(name: str) -> None:
    leaves = {type(module) for module in offline.create(name).modules() if not list(module.children())}
    assert leaves <= {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Identity}


def test_same_picture_gives_same_features_and_another_others(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    x = normalised(frames)
    first, again = offline.create(name)(x), offline.create(name)(x)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
        assert (a[0] - a[1]).abs().mean() > 0.1 * a.abs().mean()


def test_no_two_teachers_share_a_structure() -> None:
    def signature(teacher: nn.Module) -> tuple[object, ...]:
        return tuple(
            (type(m).__name__, m.kernel_size, m.stride, getattr(m, "groups", 1) > 1)
            for m in teacher.modules()
            if isinstance(m, nn.Conv2d | nn.MaxPool2d)
        )

    assert len({signature(offline.create(name)) for name in offline.NAMES}) == len(offline.NAMES)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    for call in (offline.create, offline.untrained, offline.weights_path):
        with pytest.raises(UsageError, match="no offline teacher is called 'resnet18'") as caught:
            call("resnet18")
        assert all(name in caught.value.hint for name in offline.NAMES)


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_damaged_installation_is_named(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    res, plain = (offline.weights_path(name).read_bytes() for name in ("offline-res", "offline-plain"))
    if damage != "missing":
        (tmp_path / "offline-res.safetensors").write_bytes(res[:1000] if damage == "cut" else plain)
    monkeypatch.setattr(offline, "WEIGHTS", tmp_path)
    with pytest.raises(BundleError, match="offline-res") as caught:
        offline.create("offline-res")
    assert "reinstall" in caught.value.hint


def test_folding_keeps_the_outputs(name: str) -> None:
    net = offline.untrained(name)
    x = torch.rand(4, 3, 64, 64)
    net(x)  # in training mode: moves the running statistics away from 0 and 1
    before = net.eval()(x)
    for a, b in zip(before, offline.fold(net)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_textures_depend_on_seed_and_index_alone() -> None:
    for make, count in ((made.texture, len(made.FAMILIES)), (made.region, 3), (made.flaw, 4)):
        for index in range(count):
            picture = make(7, index, 48)
            assert picture.dtype == np.uint8
            assert picture.shape[:2] == (48, 48)
            assert np.array_equal(picture, make(7, index, 48))
        assert any(not np.array_equal(make(7, i, 48), make(8, i, 48)) for i in range(count))


def test_pasted_flaws_lie_where_the_picture_changed() -> None:
    pools = tasks.make_pools(0, 32, None, slice(None))
    image = pools.textures[:16].float() / 255
    flawed, where = tasks.paste_flaws(image, image.roll(1, 0), pools, torch.Generator().manual_seed(0))
    changed = (flawed - image).abs().amax(1, keepdim=True)
    assert where.any()
    assert not where.all()
    assert changed[where].min() > 0.03
    for stride in offline.STRIDES:
        batch = tasks.compose(pools, 4, torch.Generator().manual_seed(1))
        label, flaw, numbers = tasks.targets(batch, stride)
        cells = tasks.SIZE // stride
        assert label.shape == (4, cells, cells)
        assert flaw.shape == (4, 1, cells, cells)
        assert numbers.shape == (4, tasks.STATISTICS, cells, cells)
        assert torch.isfinite(numbers).all()


def test_unseen_textures_of_one_kind_look_alike(name: str) -> None:
    """The nearest other texture is of the same of 16 kinds far more often than with fresh weights (about 0.1)."""
    kinds = torch.arange(12 * len(made.FAMILIES)) % len(made.FAMILIES)
    x = normalised(np.stack([made.texture(99, index, 96) for index in range(len(kinds))]))
    features = torch.cat([tap.mean((2, 3)) for tap in offline.create(name)(x)], 1)
    features = nn.functional.normalize((features - features.mean(0)) / (features.std(0) + 1e-6))
    alike = (features @ features.T).fill_diagonal_(-1)
    assert (kinds[alike.argmax(1)] == kinds).float().mean() > 0.35


def test_training_script_runs_from_textures_alone(tmp_path: Path) -> None:
    """The whole path on tiny settings, without CIFAR-10; the files it writes load into the shipped architectures."""
    script = [sys.executable, "-W", "error", str(SCRIPTS / "train_offline_teachers.py")]
    options = ["offline-res", "--quick", "--out", str(tmp_path), "--cifar", str(tmp_path / "none")]
    done = subprocess.run([*script, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "offline-res.safetensors", "pt") as file:
        wanted = offline.fold(offline.untrained("offline-res")).state_dict()
        assert {key: file.get_tensor(key).shape for key in file.keys()} == {  # noqa: SIM118
            key: value.shape for key, value in wanted.items()
        }
        assert json.loads(file.metadata()["training"])["cifar10"] is False


def test_quick_training_cannot_overwrite_the_shipped_weights() -> None:
    script = [sys.executable, str(SCRIPTS / "train_offline_teachers.py"), "--quick"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--out" in done.stderr


def _cells(folder: Path, every: int) -> torch.Tensor:
    """All three teachers' features of each `every`-th photo: [n, channels, 16, 16]."""
    spec = FrameSpec(256, 256)
    x = normalised(np.stack([to_frame(read(path), spec) for path in sorted(folder.iterdir())[::every]]))
    found = []
    for name in offline.NAMES:
        eighth, sixteenth = offline.create(name)(x)
        found += [nn.functional.avg_pool2d(eighth, 2), sixteenth]
    return torch.cat(found, 1)


def test_broken_bottles_look_further_from_good_ones_than_good_ones_do(shared: Path) -> None:
    """Distance to the mean good photo, place by place: the plainest detector there is must already tell them apart."""
    bottle = shared / "data" / "mvtec" / "bottle"
    good = _cells(bottle / "train" / "good", 5)
    mean, spread = good.mean(0), good.std(0) + 1e-3
    scores = {}
    for kind in ("good", "broken_large", "broken_small"):
        far = ((_cells(bottle / "test" / kind, 2) - mean) / spread).pow(2).mean(1)
        scores[kind] = far.flatten(1).amax(1).numpy()
    bad = np.concatenate([scores["broken_large"], scores["broken_small"]])
    labels = np.repeat([False, True], [len(scores["good"]), len(bad)])
    assert auroc(labels, np.concatenate([scores["good"], bad])) > 0.95
