"""Fewer teachers at the edge: dropped by importance, or merged into one, and everything after them fitted anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import factory
import msgspec
import numpy as np
import onnx
import pytest
import tiny
import torch

from mtkd_edge import bundle
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.lab import merge, prune, teachers
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.explain import Explanation, explain
from mtkd_edge.lab.mix import Mix
from mtkd_edge.lab.train import train
from mtkd_edge.progress import silent

CPU = torch.device("cpu")
PIXELS = torch.from_numpy(tiny.normal_frames(6)).permute(0, 3, 1, 2).float()
NAMES = ("offline-res", "offline-plain", "offline-depthwise")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.write(tmp_path_factory.mktemp("line") / "photos", tiny.normal_frames(30))


@pytest.fixture(scope="module")
def pair() -> Mix:
    mix = Mix([teachers.load("offline-depthwise"), teachers.load("offline-res")]).eval()
    mix.fit([PIXELS])
    return mix


def trained(parts: Path, out: Path, **changes: object) -> tuple[Path, dict[str, object], bundle.Manifest]:
    given = {"data": str(parts), "out": str(out), "preset": "offline", "size": 64, "epochs": 1, **changes}
    run = train(TrainConfig(**given))
    return run, msgspec.json.decode((run / "metrics.json").read_bytes()), bundle.load_bundle(run / "bundle")


def explained(run: Path, names: list[str]) -> Explanation:
    return explain(onnx.load(run / "bundle" / bundle.FEATURES), onnx.load(run / "bundle" / bundle.HEAD), names)


def lessons_of(mix: Mix, generic: int = 0) -> list[merge.Lesson]:
    frames = tiny.normal_frames(6)
    with torch.no_grad():
        blocks = mix(PIXELS).half()
    others = np.random.default_rng(0).integers(0, 256, (generic, 64, 64, 3), np.uint8)
    return merge.lessons(mix, torch.ones(mix.channels), blocks, frames, others, 4, 0, silent)


def test_a_teacher_is_dropped_below_the_share_and_not_at_it() -> None:
    weights = torch.tensor([[0.25, 0.0625, 0.6875], [0.0, 0.1875, 0.8125]])
    assert prune.kept(weights, 0.0) == [0, 1, 2]
    assert prune.kept(weights, 0.125) == [0, 1, 2]
    assert prune.kept(weights, 0.1251) == [2]


def test_the_shares_of_those_left_sum_to_one_and_keep_their_ratio() -> None:
    left = prune.renormalised(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]]), [0, 2])
    torch.testing.assert_close(left, torch.tensor([[2 / 7, 5 / 7], [1 / 4, 3 / 4]]))


def test_what_is_left_of_a_mix_says_what_it_said_before(pair: Mix) -> None:
    for kept in ([0], [1]):
        small = prune.subset(pair, kept)
        assert len(small.teachers) == 1
        with torch.no_grad():
            torch.testing.assert_close(small(PIXELS), pair(PIXELS)[:, prune.channels_of(pair, kept)])


def test_a_pruned_run_holds_no_teacher_that_was_dropped(parts: Path, tmp_path: Path) -> None:
    run, metrics, manifest = trained(parts, tmp_path / "pruned", prune=0.33)
    means = {name: np.mean(shares) for name, shares in metrics["importance"].items()}
    edge = [teacher.name for teacher in manifest.teachers]
    assert tuple(means) == NAMES
    assert edge == metrics["at_the_edge"] == [name for name in NAMES if means[name] >= 0.33]
    assert 0 < len(edge) < 3
    for level in range(2):
        assert sum(t.importance[level] for t in manifest.teachers) == pytest.approx(1, abs=1e-5)
    inside = [part.name for part in explained(run, edge).parts if part.name.startswith("teacher")]
    assert inside == [f"teacher {name}" for name in edge], "the graph holds these and no other"


def test_the_cheapest_teacher_is_what_the_edge_teacher_begins_as(pair: Mix) -> None:
    cheap, dear = pair.teachers
    assert merge.work(cheap) < merge.work(dear)
    begun = merge.beginning([dear, cheap], 8, ["a", "b"], 0)
    for mine, its in zip(begun.trunk.trunk.parameters(), cheap.trunk.parameters(), strict=True):
        assert mine is not its and torch.equal(mine, its)
    assert (begun.name, begun.source, begun.channels) == ("merged", "offline-depthwise, taught by a + b", (8,))


def test_what_the_cheapest_teacher_knows_already_is_known_from_the_start() -> None:
    mix = Mix([teachers.load("offline-depthwise")]).eval()
    mix.fit([PIXELS])
    lessons = lessons_of(mix)
    edge = merge.beginning(list(mix.teachers), lessons[0].target.shape[1], ["it"], 0)
    single = merge.EdgeMix(edge)
    merge.fit_linear(single, lessons, 4, CPU)
    with torch.no_grad():
        said = single(PIXELS)
    target = lessons[0].target.float()
    assert float((said - target).square().mean() / target.square().mean()) < 1e-5


def test_the_edge_teacher_learns_and_a_stopped_lesson_continues(pair: Mix, tmp_path: Path) -> None:
    def run(folder: str, stop: int = 0) -> tuple[merge.EdgeMix, list[dict[str, float]]]:
        def listener(step: str, done: int, total: int, note: str = "") -> None:
            if step == "edge teacher":
                steps.append(done)
                if done == stop:
                    raise KeyboardInterrupt

        edge = merge.beginning(list(pair.teachers), lessons[0].target.shape[1], ["a", "b"], 0)
        return merge.taught(edge, lessons, 12, 3, 0, CPU, tmp_path / folder, listener)

    steps: list[int] = []
    lessons = lessons_of(pair, generic=4)
    assert len(lessons) == 3
    whole, history = run("whole")
    assert np.mean([row["loss"] for row in history[-3:]]) < 0.9 * np.mean([row["loss"] for row in history[:3]])
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=4)
    steps.clear()
    again, _ = run("stopped")
    assert steps == list(range(5, 13)), "what was learned before the stop is not learned again"
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not any(parameter.requires_grad for parameter in whole.parameters())


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_every_lesson_has_its_turn_however_small_the_batch(
    batch: int, pair: Mix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bytes] = set()

    def drawn(net: object, draw: Callable[[int], tuple[torch.Tensor, torch.Tensor]], *given: object) -> list[object]:
        for step in range(60):
            seen.update(target.numpy().tobytes() for target in draw(step)[1])
        return []

    monkeypatch.setattr(merge, "distil", drawn)
    lessons = lessons_of(pair, generic=4)
    edge = merge.beginning(list(pair.teachers), lessons[0].target.shape[1], ["a", "b"], 0)
    merge.taught(edge, lessons, 1, batch, 0, CPU, tmp_path, silent)
    for lesson in lessons:
        assert any(target.float().numpy().tobytes() in seen for target in lesson.target)


def test_pictures_unlike_good_parts_count_by_their_relative_error() -> None:
    target = torch.ones(1, 2, 2, 2)
    near, _ = merge.relative(target * 1.1, target)
    far, distance = merge.relative(target * 110, target * 100)
    assert float(near) == pytest.approx(0.01, rel=1e-4) and float(far) == pytest.approx(0.01, rel=1e-4)
    assert float(distance) == pytest.approx(100, rel=1e-4)


def test_a_merged_run_has_one_teacher_and_everything_after_it_is_fitted_to_it(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "STEPS", 4)
    generic = factory.write(tmp_path / "generic", tiny.with_defects(tiny.normal_frames(3, seed=7)))
    run, metrics, manifest = trained(parts, tmp_path / "merged", merge=True, generic=str(generic))
    (edge,) = manifest.teachers
    assert (edge.name, edge.taps, edge.importance) == ("merged", ("stride8",), (1.0,))
    assert list(metrics["importance"]) == list(NAMES)
    assert (run / "plots" / "edge-teacher.png").stat().st_size > 1000
    whole = explained(run, ["merged"])
    assert {"teacher merged", "student", "autoencoder"} <= {part.name for part in whole.parts}
    assert whole.total.macs < sum(merge.work(teachers.load(name)) for name in NAMES)
    # the graph's golden outputs: what the student learns is what the edge teacher says, and the levels are its channels
    with np.load(run / "bundle" / bundle.GOLDEN) as golden:
        assert golden["reference_deviation"].shape[1] == manifest.score.levels[0].channels == 80
        score = golden["score"]
    good, bad = score[:2], score[2:]
    assert abs(float(good.mean())) < 10, "center and scale are those of the edge teacher's own maps"
    assert float(bad.mean()) > float(good.mean())


def test_generic_pictures_that_are_not_there_are_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        trained(parts, tmp_path / "run", merge=True, generic=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prune": 0.34}, "below 1 / 3"),
        ({"prune": -0.1}, "below 1 / 3"),
        ({"prune": 0.1, "weights": "equal"}, "equal weights know none"),
        ({"merge": True, "teachers": ("offline-res",)}, "got one"),
        ({"generic": "x"}, "nothing is to be merged"),
        ({"merge": True, "method": "paper"}, "settings of map"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        TrainConfig(**{"data": "d", "out": "o", "preset": "offline", **changes}).check()
