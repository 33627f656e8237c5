"""Training, start to end, on a few drawn parts with the teachers that ship in the package."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import factory
import msgspec
import numpy as np
import pytest
import tiny
import torch
from logit_nets import write_teachers
from safetensors.torch import load_file

from mtkd_edge import bundle
from mtkd_edge.aspect import Aspects
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.lab import checkpoint, distil, teachers
from mtkd_edge.lab import train as training
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.mix import Mix
from mtkd_edge.lab.train import _same_inputs, inputs_of, train


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    factory.write(root / "train" / "good", tiny.normal_frames(24))
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
    assert manifest.aspects == Aspects(1.0, 1.0)


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
    moved = out.rename(tmp_path / "moved")
    train(config(parts, moved, resume=True))
    whole, resumed = weights_of(run), weights_of(moved)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def fails() -> None:
    raise RuntimeError("the GPU is gone")


def ctrl_c() -> None:
    """What the handler of SIGINT does; tests/test_uncut.py sends the signal itself."""
    signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # type: ignore[operator, misc]


@pytest.mark.parametrize(("happens", "end", "kept"), [(fails, RuntimeError, 2), (ctrl_c, KeyboardInterrupt, 4)])
def test_a_run_stopped_within_a_step_goes_on_from_a_whole_one(
    happens: Callable[[], None], end: type[BaseException], kept: int,
    parts: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After an error from the last that was saved: the batch has gone into statistics. Ctrl-C waits for its end."""
    out, step, count = tmp_path / "stopped", torch.optim.AdamW.step, 0

    def stop(self: torch.optim.AdamW, *words: object) -> object:
        nonlocal count
        count += 1
        if count == 4:
            happens()
        return step(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(distil, "SAVE_EVERY", 2)
    with monkeypatch.context() as within, pytest.raises(end):
        within.setattr(torch.optim.AdamW, "step", stop)
        train(config(parts, out))
    assert [path.name for path in (out / "checkpoint").glob("*.safetensors")] == [f"{kept}.student.safetensors"]
    train(config(parts, out, resume=True))
    whole, resumed = weights_of(run), weights_of(out)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_resuming_with_other_photos_is_refused(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "line")

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


def test_resuming_with_other_weights_or_generic_pictures_is_refused(parts: Path, tmp_path: Path) -> None:
    names = write_teachers(tmp_path / "weights")
    weights = Path(names[1].removeprefix("local-dir:"), "model.safetensors")
    settings = config(parts, tmp_path / "run", teachers=names)
    generic = np.zeros((2, 64, 64, 3), np.uint8)
    before = inputs_of(settings, generic)
    assert set(before) == {*names, "generic"}
    path = tmp_path / "inputs.json"
    _same_inputs(path, before, resume=False)
    _same_inputs(path, inputs_of(settings, generic), resume=True)
    with pytest.raises(DataError, match="begun with other files: generic"):
        _same_inputs(path, inputs_of(settings, generic + 1), resume=True)
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(DataError, match=f"begun with other files: {names[1]}"):
        _same_inputs(path, inputs_of(settings, generic), resume=True)
    path.write_bytes(b"\xff")
    with pytest.raises(BundleError, match="cannot be resumed"):
        _same_inputs(path, before, resume=True)


def test_a_run_here_has_the_name_of_its_folder(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(config(parts, Path()))
    assert bundle.load_bundle(tmp_path / "here" / "bundle").name == "here"


def test_an_out_that_is_a_file_is_told(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="cannot be made: a file is in its place"):
        train(config(parts, tmp_path / "file"))


def test_what_is_refused_before_anything_was_learned_keeps_no_folder(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = factory.write(tmp_path / "few", tiny.normal_frames(5))
    with pytest.raises(DataError, match="5 "):
        train(config(few, out))
    with pytest.raises(UsageError, match="no class logits"):
        train(config(parts, out, method="paper"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("asked", "gpus", "match"),
    [
        ("cuda", 0, "no CUDA GPU here"),
        ("cuda:9", 2, "2 CUDA GPUs here"),
        ("cudafoo", 2, "auto, cpu, cuda or cuda:N"),
        ("cuda:x", 2, "auto, cpu, cuda or cuda:N"),
        ("tpu", 0, "auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    asked: str, gpus: int, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UsageError, match=match):
        train(config(tmp_path / "nothing", tmp_path / "run", device=asked))
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_too_small_is_named_with_what_would_fit(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "_method", too_much)
    with pytest.raises(UsageError, match="too little memory for 8 frames of 64 pixels") as caught:
        train(config(parts, tmp_path / "run"))
    assert "--batch 4" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_options_is_refused_by_name(parts: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="seed"):
        train(config(parts, run, resume=True, seed=5))


def test_a_second_run_into_the_same_folder_is_refused(parts: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(config(parts, run))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 100},
        {"epochs": 0},
        {"preset": "nobody"},
        {"false_alarms": 0.0},
        {"batch": 1},
        {"seed": -1},
        {"student": "compactt"},
    ],
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
    with pytest.raises(BundleError, match=f"{path.name} is damaged"):
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
