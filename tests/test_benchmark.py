"""`benchmark`: the published protocol, resumed cells, and labels that nobody reads before the scores are there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import tiny
from logit_nets import write_teachers
from test_cifar10 import Part, write_compact

from mtkd_edge.cli import app
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.lab.benchmark import paper_cell
from mtkd_edge.lab.benchmark.outcome import Outcome
from mtkd_edge.lab.benchmark.run import run
from mtkd_edge.lab.benchmark.settings import Settings, complete, variants
from mtkd_edge.lab.benchmark.suites import open_suite
from mtkd_edge.progress import silent

SMALL: dict[str, Any] = {"method": "paper", "student": "test_resnet", "epochs": 2, "device": "cpu"}
CROPS = {"size": 64, "crop": 32, "stride": 32, "crops": 2, "batch": 16}
DISC, STRIPE = 0, 3


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return write_teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("parts")
    for seed, name in enumerate(("disc", "coin")):
        factory.write(root / name / "train" / "good", tiny.normal_frames(20, seed=seed))
        factory.write(root / name / "test" / "good", tiny.normal_frames(6, seed=10 + seed))
        factory.write(root / name / "test" / "blotch", tiny.with_defects(tiny.normal_frames(6, seed=20 + seed)))
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    write_compact(root / "as-it-is", *pictures())
    return root


def pictures() -> tuple[Part, Part]:
    """Airplanes are discs and cats are noise, 40 to train on and 12 to test."""
    rng = np.random.default_rng(0)
    frames = tiny.normal_frames(92, size=32)
    labels = np.array([DISC] * 40 + [STRIPE] * 40 + [DISC] * 6 + [STRIPE] * 6, np.uint8)
    frames[labels == STRIPE] = rng.integers(0, 256, frames[labels == STRIPE].shape)
    return Part(frames[:80], labels[:80]), Part(frames[80:], labels[80:])


def paper(suite: str, root: Path, names: tuple[str, ...], **given: Any) -> Settings:
    return complete(suite, str(root), {**SMALL, "teachers": names, **given})  # type: ignore[arg-type]


def one(settings: Settings, category: str, out: Path) -> Outcome:
    (outcome,) = run(settings, variants(settings, None), [category], 1, out).outcomes
    return outcome


@pytest.mark.parametrize("protocol", ["honest", "oracle"])
def test_permuting_the_test_labels_of_cifar10_changes_nothing_but_the_metrics(
    protocol: str, cifar: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    train, test = pictures()
    order = np.random.default_rng(1).permutation(len(test.labels))
    write_compact(tmp_path / "permuted", train, Part(test.pixels, test.labels[order]))
    found = []
    for root in (cifar / "as-it-is", tmp_path / "permuted"):
        settings = paper("cifar10", root, names, size=32, crop=32, protocol=protocol, every=1)
        found.append(one(settings, "airplane", tmp_path / f"out-{root.name}"))
    told, permuted = found
    assert permuted.scores == told.scores and permuted.importance == told.importance
    assert permuted.image_auroc != told.image_auroc
    assert {**permuted.photos} == {**told.photos} == {"train": 36, "tune": 4, "good": 6, "anomalous": 6, "left_out": 0}


def exchanged(parts: Path, root: Path) -> Path:
    """The same photos, half of the good and half of the defective test photos with each other's labels."""
    shutil.copytree(parts / "disc", root / "disc")
    for n in range(3):
        good, bad = (root / "disc" / "test" / kind / f"{n:03}.png" for kind in ("good", "blotch"))
        data = good.read_bytes()
        good.write_bytes(bad.read_bytes())
        bad.write_bytes(data)
    return root


@pytest.mark.parametrize("method", ["paper", "map"])
def test_permuting_the_test_labels_of_folders_changes_nothing_but_the_metrics(
    method: str, parts: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    other = exchanged(parts, tmp_path / "exchanged")
    if method == "paper":
        given: dict[str, Any] = {**SMALL, **CROPS, "teachers": names}
    else:
        given = {"method": "map", "preset": "offline", "size": 64, "epochs": 1, "device": "cpu"}
    told, permuted = (
        one(complete("folder", str(root), dict(given)), "disc", tmp_path / f"out-{n}")
        for n, root in enumerate((parts, other))
    )
    assert permuted.importance == told.importance
    assert sorted(permuted.scores) == pytest.approx(sorted(told.scores), rel=1e-4)
    assert permuted.scores != pytest.approx(told.scores, rel=1e-4)
    assert permuted.image_auroc != told.image_auroc


def test_labels_that_are_asked_for_before_the_scores_would_be_noticed(
    parts: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are behind a function; here it fails until the last score is made."""
    settings = paper("folder", parts, names, **CROPS)
    task = open_suite(settings).task("disc", settings, silent)
    scored = []
    honest = paper_cell.paper_terms.honest
    monkeypatch.setattr(paper_cell.paper_terms, "honest", lambda *a: scored.append(honest(*a)) or scored[-1])

    def labels() -> np.ndarray:
        assert scored, "the labels were read before the scores were made"
        return task.labels()

    monkeypatch.setattr("mtkd_edge.lab.benchmark.suites.Folders.task", lambda *a, **k: replace(task, labels=labels))
    assert len(one(settings, "disc", tmp_path / "out").scores) == 12


def test_a_finished_cell_is_not_run_again_and_new_ones_are_added(
    parts: Path, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, ran = paper("folder", parts, names, **CROPS, protocol="oracle", every=1), []
    cell = paper_cell.run
    monkeypatch.setattr(paper_cell, "run", lambda job, task: ran.append((job.category, job.seed)) or cell(job, task))
    first = run(settings, variants(settings, None), ["disc"], 1, tmp_path / "out")
    again = run(settings, variants(settings, None), ["disc", "coin"], 1, tmp_path / "out")
    assert ran == [("disc", 0), ("coin", 0)]
    assert again.outcomes[0] == first.outcomes[0]
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| coin |" in text and "| mean |" in text and "chosen by test labels" in text
    assert not list((tmp_path / "out" / "unfinished").glob("*/*"))


def test_a_stopped_cell_goes_on_to_the_same_figures(parts: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    settings = paper("folder", parts, names, **CROPS, protocol="oracle", every=1)

    def stop(step: str, done: int, total: int, note: str = "") -> None:
        if step == "student" and (done, total) == (3, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, variants(settings, None), ["disc"], 1, tmp_path / "stopped", stop)
    resumed, whole = (one(settings, "disc", tmp_path / name) for name in ("stopped", "whole"))
    assert resumed.scores == whole.scores and resumed.oracle == whole.oracle


def test_other_settings_in_the_same_folder_are_refused_by_name(
    parts: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    one(paper("folder", parts, names, **CROPS), "disc", tmp_path / "out")
    with pytest.raises(UsageError, match="another epochs"):
        one(paper("folder", parts, names, **CROPS, epochs=3), "disc", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "other", "word"),
    [("PROGRAM", "0.0.1", "0.0.1"), ("named", lambda device: "another GPU", "another GPU")],
    ids=["version", "device"],
)
def test_a_folder_of_another_version_or_device_is_refused_before_anything_is_run(
    name: str,
    other: Any,
    word: str,
    parts: Path,
    names: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = paper("folder", parts, names, **CROPS)
    with monkeypatch.context() as patch:
        patch.setattr(f"mtkd_edge.lab.benchmark.run.{name}", other)
        first = one(settings, "disc", tmp_path / "old")
    monkeypatch.setattr(paper_cell, "run", lambda *arguments: pytest.fail("a cell was run"))
    with pytest.raises(UsageError, match=rf"old was run by .*{word}.*, this is .*(?s:.*)another --out than"):
        one(settings, "coin", tmp_path / "old")
    assert first.made_by is not None and word in (first.made_by.version, first.made_by.device)


def test_a_cell_that_was_copied_from_elsewhere_is_refused(parts: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    settings = paper("folder", parts, names, **CROPS)
    one(settings, "disc", tmp_path / "out")
    path = tmp_path / "out" / "results" / "all" / "disc-0.json"
    path.write_text(path.read_text().replace(' CPU"', ' GPU"'))
    with pytest.raises(UsageError, match=r"disc-0\.json was run by .* GPU, the others by .* CPU"):
        one(settings, "disc", tmp_path / "out")


def test_without_a_teacher_the_reconstruction_judges(parts: Path, tmp_path: Path) -> None:
    outcome = one(paper("folder", parts / "disc", ("none",), **CROPS), "disc", tmp_path / "out")
    assert outcome.importance == {} and outcome.single == {}
    assert np.ptp(outcome.scores) > 0


def test_data_that_is_not_there_is_named(parts: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no category"):
        one(paper("folder", tmp_path, names, **CROPS), "disc", tmp_path / "out")
    shutil.copytree(parts / "disc" / "train", tmp_path / "bolt" / "train")
    factory.write(tmp_path / "bolt" / "test" / "good", tiny.normal_frames(3))
    with pytest.raises(DataError, match="wanted good and others"):
        one(paper("folder", tmp_path, names, **CROPS), "bolt", tmp_path / "out-2")
    with pytest.raises(UsageError, match="choose from coin, disc"):
        one(paper("folder", parts, names, **CROPS), "bolt", tmp_path / "out-3")


def test_the_command_runs_map_on_cifar10_and_prints_one_object(
    cifar: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "cifar10", str(cifar / "as-it-is"), "--categories", "airplane", "--preset", "offline"]
    words += ["--size", "64", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "out"), "--json"]
    assert app.run(words) == 0, capfd.readouterr().err
    said = json.loads(capfd.readouterr().out)
    (outcome,) = said["outcomes"]
    assert (outcome["category"], outcome["photos"]["anomalous"]) == ("airplane", 6)
    assert 0 <= outcome["image_auroc"] <= 1 and len(outcome["importance"]) == 3
    assert said == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert not list(tmp_path.glob("out/**/*.png")), "photos that were written for the training are gone"


def test_a_stopped_benchmark_says_how_to_go_on(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtkd_edge.lab.benchmark.run.run", stopped)
    assert app.run(["benchmark", "cifar10", str(cifar), "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on from here" in capfd.readouterr().err


def test_an_oracle_of_map_ends_with_2(cifar: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["benchmark", "cifar10", str(cifar), "--protocol", "oracle", "--json"]) == 2
    assert "published method" in json.loads(capfd.readouterr().out)["error"]
