"""The published method: its networks, its loop, its score, and the bundle that `train` makes of it."""

from __future__ import annotations

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
from mtkd_edge.errors import UsageError
from mtkd_edge.lab import logits, paper_loop, paper_method, paper_terms
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.export import run_torch
from mtkd_edge.lab.paper_nets import Networks, Standard, logits_of
from mtkd_edge.lab.train import train
from mtkd_edge.progress import silent
from mtkd_edge.score import ScoreSpec, oracle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    factory.write(root / "train" / "good", tiny.normal_frames(24))
    return root


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return write_teachers(tmp_path_factory.mktemp("teachers"))


def config(parts: Path, out: Path, names: tuple[str, ...], **changes: object) -> TrainConfig:
    given: dict[str, object] = {"data": str(parts), "out": str(out), "method": "paper", "teachers": names, "size": 64}
    return TrainConfig(**{**given, "epochs": 2, "student": "test_resnet", **changes})


def nets(teachers: int = 2, students: tuple[str, ...] = ("test_resnet",), learn: bool = True) -> Networks:
    torch.manual_seed(0)
    return Networks(teachers, students, 64, learn)


def batch(teachers: int = 2, photos: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(photos, 3, 64, 64, generator=generator) * 255
    return pixels, torch.randn(photos, teachers, logits.CLASSES, generator=generator)


def grown(net: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_reconstruction_teaches_decoder_and_weights_and_never_the_student() -> None:
    net = nets()
    rebuilt, _ = paper_loop.losses(net, *batch())
    rebuilt.backward()
    assert grown(net.decoder) and net.a.grad is not None and float(net.a.grad.abs().sum()) > 0
    assert not grown(net.students)


def test_distillation_teaches_the_students_alone() -> None:
    net = nets(students=("test_resnet", "test_efficientnet"))
    _, learned = paper_loop.losses(net, *batch())
    learned.backward()
    assert all(grown(student) for student in net.students)
    assert not grown(net.decoder) and net.a.grad is None


def test_without_teachers_student_and_decoder_are_one_autoencoder() -> None:
    net = nets(teachers=0)
    rebuilt, learned = paper_loop.losses(net, *batch(teachers=0))
    (rebuilt + learned).backward()
    assert grown(net.decoder) and grown(net.students)


def test_several_students_share_what_none_of_them_teaches(tmp_path: Path) -> None:
    """Decoder and weights come out the same with one student and with two: one run serves all students."""
    found = []
    for students in (("test_resnet",), ("test_resnet", "test_efficientnet")):
        net = nets(students=students)
        paper_loop.distil(net, lambda step: batch(), 3, 0, tmp_path / str(len(students)), silent)
        found.append(net)
    one, two = found
    assert torch.equal(one.a, two.a) and float(one.a.detach().abs().sum()) > 0
    # the networks are made one after the other from one seed, so only the decoder, made first, starts alike
    assert all(torch.equal(a, b) for a, b in zip(one.decoder.parameters(), two.decoder.parameters(), strict=True))


def test_the_decoder_is_the_authors_layer_by_layer() -> None:
    """Five stages of four convolutions, the second and third the same, at twice the size; LeakyReLU to the end."""
    decoder, ran = nets().decoder, []
    for conv in (m for m in decoder.modules() if isinstance(m, torch.nn.Conv2d)):
        conv.register_forward_hook(lambda conv, seen, out: ran.append((id(conv), tuple(out.shape[1:]))))
    rebuilt = decoder(torch.randn(4, logits.CLASSES))
    sides = [side for side in (4, 8, 16, 32, 64) for _ in range(4)]
    channels = [c for c, out in ((128, 64), (64, 32), (32, 16), (16, 8), (8, 3)) for c in (c, c, c, out)]
    assert [shape for _, shape in ran] == [(c, side, side) for c, side in zip(channels, sides, strict=True)]
    assert all((ran[k][0] == ran[k + 1][0]) is (k % 4 == 1) for k in range(len(ran) - 1))
    assert isinstance(list(decoder.modules())[-1], torch.nn.LeakyReLU) and float(rebuilt.detach().max()) > 1


def test_a_resnet_student_begins_as_torchvisions() -> None:
    """timm's own would begin with every block's last scale at zero."""
    scales = [m.weight for n, m in logits.LogitStudent("resnet18").named_modules() if n.endswith("bn2")]
    assert len(scales) == 8 and all(bool((scale == 1).all()) for scale in scales)


def test_a_teacher_that_tells_the_photo_gets_the_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Networks(2, ("test_resnet",), 32)
    level = torch.randn(16, 1, generator=torch.Generator().manual_seed(2))
    pixels = (127.5 + 60 * level).clamp(0, 255).view(16, 1, 1, 1).expand(16, 3, 32, 32)
    clear = level.expand(16, logits.CLASSES)
    noise = torch.Generator().manual_seed(3)

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels, torch.stack([torch.randn(clear.shape, generator=noise), clear], 1)

    history = paper_loop.distil(net, draw, 60, 0, tmp_path, silent)
    # Adam moves a number by at most 0.001 a step: sixty steps show the direction
    assert float(net.weights()[1].detach()) > history[30]["w0_1"] > 0.5005


def test_equal_weights_stay_equal(tmp_path: Path) -> None:
    net = nets(learn=False)
    paper_loop.distil(net, lambda step: batch(), 3, 0, tmp_path, silent)
    assert net.weights().tolist() == [0.5, 0.5]


def test_mixed_precision_takes_the_same_steps_but_for_rounding(tmp_path: Path) -> None:
    """bfloat16 on a CPU: the code path that a GPU takes."""
    exact, mixed = nets(), nets()
    first = paper_loop.distil(exact, lambda step: batch(), 2, 0, tmp_path / "exact", silent)
    second = paper_loop.distil(mixed, lambda step: batch(), 2, 0, tmp_path / "mixed", silent, mixed=True)
    assert second[0]["loss"] == pytest.approx(first[0]["loss"], rel=0.02)
    assert second[0]["loss"] != first[0]["loss"]
    assert all(p.dtype == torch.float32 for p in mixed.parameters())


def test_an_epoch_takes_every_photo_once_in_an_order_of_its_own() -> None:
    epochs = paper_loop.Epochs(10, 3, seed=0)
    first, second = ([epochs.rows(3 * epoch + k).tolist() for k in range(3)] for epoch in range(2))
    assert epochs.steps == 3
    assert len({row for rows in first for row in rows}) == 9
    assert first != second


def test_random_crops_lie_inside_the_photo_and_follow_from_the_step() -> None:
    frames = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None, None], (4, 96, 96, 3))
    standard = Standard(torch.randn(3, 0, logits.CLASSES))
    draw = paper_loop.cropped(frames, 64, 5, [], standard, paper_loop.Epochs(4, 2, 0), CPU)
    pixels, z = draw(7)
    assert pixels.shape == (10, 3, 64, 64) and z.shape == (10, 0, logits.CLASSES)
    tops = pixels[:, 0, 0, 0]
    assert torch.equal(pixels[:, 0, -1, 0], tops + 63) and len(tops.unique()) > 3
    assert torch.equal(draw(7)[0], pixels) and not torch.equal(draw(8)[0], pixels)


def test_each_logit_is_standardised_and_a_constant_one_is_not_blown_up() -> None:
    raw = torch.randn(50, 2, 4) * 3 + 1
    raw[:, 0, 0] = 5
    z = Standard(raw)(raw)
    assert float(z.mean(0).abs().max()) < 1e-5
    assert z[:, 0, 0].abs().max() == 0 and float(z[:, 1].std(0, correction=0).mean()) == pytest.approx(1, abs=1e-4)


def test_both_inputs_of_a_teacher(names: tuple[str, ...]) -> None:
    assert logits.load_logits(names[0]).mean_std == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    assert logits.load_logits(names[0], "published").mean_std == (logits.HALF, logits.HALF)


def test_the_students_of_the_publication_give_a_thousand_logits() -> None:
    assert logits.student_names("multi") == ("resnet18", "vgg11", "densenet121")
    for name in ("resnet18", "densenet121"):
        assert logits.LogitStudent(name)(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    with pytest.raises(UsageError, match="no student"):
        logits.LogitStudent("resnet_18")


@pytest.fixture(scope="module")
def run(parts: Path, names: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(parts, tmp_path_factory.mktemp("runs") / "whole", names))


def test_a_run_passes_the_export_gate_and_keeps_its_weights(run: Path) -> None:
    manifest = bundle.load_bundle(run / "bundle")
    assert [level.kind for level in manifest.score.levels] == ["squared", "cosine", "squared"]
    assert sum(t.importance[0] for t in manifest.teachers) == pytest.approx(1, abs=1e-5)
    assert (manifest.student, manifest.score.pool) == ("test_resnet", 1.0)


def test_a_stopped_run_continues_bit_for_bit(parts: Path, names: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int, note: str = "") -> None:
        if step == "student" and done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(config(parts, out, names), stop)
    train(config(parts, out, names, resume=True))
    whole, resumed = (load_file(next((r / "checkpoint").glob("*.safetensors"))) for r in (run, out))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_several_students_fit_one_bundle(parts: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(logits, "STUDENTS", ("test_resnet", "test_efficientnet"))
    out = train(config(parts, tmp_path / "multi", names, student="multi", weights="equal", epochs=1))
    manifest = bundle.load_bundle(out / "bundle")
    levels = manifest.score.levels
    assert [level.name for level in levels][::3] == ["logits_test_resnet", "logits_test_efficientnet"]
    assert levels[0].weight == levels[1].weight != levels[3].weight, "each student by its own deviation"
    assert [t.importance for t in manifest.teachers] == [(0.5,), (0.5,)]


def test_without_a_teacher_the_bundle_judges_by_reconstruction(parts: Path, tmp_path: Path) -> None:
    out = train(config(parts, tmp_path / "none", ("none",), epochs=1))
    manifest = bundle.load_bundle(out / "bundle")
    assert [level.name for level in manifest.score.levels] == ["reconstruction"]
    assert manifest.teachers == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": (0.0, 0.0, 0.0)},
        {"terms": (1.0, -1.0, 1.0)},
        {"method": "map", "terms": (1.0, 0.0, 0.0)},
    ],
    ids=["nothing", "negative", "map-terms"],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        config(tmp_path, tmp_path / "run", ("none",), **changes).check()


def test_none_stands_alone_among_the_teachers() -> None:
    with pytest.raises(UsageError, match="stands alone"):
        logits.is_none(("none", "resnet152"))


def test_without_a_teacher_there_is_one_student() -> None:
    with pytest.raises(UsageError, match="one student"):
        paper_method.check_students(("none",), "multi")


def test_a_vgg_on_small_frames_is_refused_before_it_is_trained() -> None:
    paper_method.check_vgg(("resnet152", "vgg19"), 224)
    with pytest.raises(UsageError, match="vgg19 cannot be exported for frames of 192 pixels"):
        paper_method.check_vgg(("resnet152", "vgg19"), 192)


def test_networks_that_no_onnx_file_can_hold_are_refused() -> None:
    with torch.device("meta"):
        huge = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(UsageError, match="2 GB"):
        paper_method.check_size([huge])


def test_the_terms_are_those_of_the_one_definition_of_the_score(names: tuple[str, ...]) -> None:
    """`paper_terms.measure` against `score.oracle` on the exported graph's features, with r = 0.2, 0.3, 0.5."""
    teachers = [logits.load_logits(name) for name in names]
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    net = nets().eval()
    with torch.no_grad():
        raw = logits_of(teachers, pixels)
    standard = Standard(raw)
    terms = paper_terms.measure(net, [(pixels, standard(raw))], 1)
    r = (0.2, 0.3, 0.5)
    bare = paper_method.levels(("test_resnet",), 2, 64)
    weighted = tuple(msgspec.structs.replace(level, weight=w) for level, w in zip(bare, r, strict=True))
    spec = ScoreSpec(weighted, 64, 64, 0.0, 1.0)
    features = paper_method.PaperFeatures(teachers, net, standard)
    out = list(run_torch(features, frames, [str(i) for i in range(6)]).values())
    _, wanted = oracle(spec, out[:3], out[3:])
    assert (terms @ np.array(r))[:, 0, 0] == pytest.approx(wanted, rel=1e-4)
