"""A benchmark that is refused: its folder is free for the corrected command, and nothing that was learned is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factory
import pytest
import tiny

from mtkd_edge.cli import app
from mtkd_edge.errors import BundleError, MtkdError, UsageError
from mtkd_edge.lab.benchmark import map_cell
from mtkd_edge.lab.benchmark.run import run
from mtkd_edge.lab.benchmark.settings import complete, variants
from mtkd_edge.lab.train import CHECKPOINT

QUICK: dict[str, Any] = {"preset": "offline", "size": 64, "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts") / "disc"
    factory.write(root / "train" / "good", tiny.normal_frames(20))
    factory.write(root / "test" / "good", tiny.normal_frames(4, seed=1))
    factory.write(root / "test" / "blotch", tiny.with_defects(tiny.normal_frames(4, seed=2)))
    return root


def attempt(parts: Path, out: Path, **given: Any) -> None:
    settings = complete("folder", str(parts), {**QUICK, **given})
    run(settings, variants(settings, None), [], 1, out)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--size", "100"],
        ["--batch", "1"],
        ["--student", "compactt"],
        ["--teachers", "resnet18x"],
        ["--method", "paper", "--student", "resnet18x"],
        ["--method", "paper", "--preset", "offline"],
    ],
    ids=lambda words: " ".join(words).replace("--", ""),
)
def test_the_corrected_command_may_have_the_folder(
    wrong: list[str], parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["benchmark", "folder", str(parts), "--device", "cpu", "--out", str(out), "--json"]
    assert app.run([*words, *wrong]) == 2
    said = json.loads(capfd.readouterr().out)
    assert said["error"] and not out.exists()


@pytest.mark.parametrize(
    "wrong", [{"student": "compactt"}, {"method": "paper", "student": "resnet18x"}], ids=lambda given: given["student"]
)
def test_a_student_that_nobody_knows_is_refused_before_photos_are_read(
    wrong: dict[str, Any], parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtkd_edge.dataset.scan", lambda *a, **k: pytest.fail("photos were read"))
    with pytest.raises(UsageError, match=wrong["student"]):
        settings = complete("folder", str(parts), {**wrong, "device": "cpu"})
        run(settings, variants(settings, None), [], 1, tmp_path / "out")


def test_what_was_there_before_stays(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no-such-net"):
        attempt(parts, tmp_path, teachers=("no-such-net",))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_learned_keeps_its_settings(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the evaluation comes after the training, which the same command must find again."""
    out = tmp_path / "out"

    def refused(*arguments: object) -> None:
        raise MtkdError("the runtime refused")

    with monkeypatch.context() as patch:
        patch.setattr(map_cell.evaluate, "evaluate", refused)
        with pytest.raises(MtkdError, match="the runtime refused"):
            attempt(parts, out)
    assert (out / "unfinished" / "all" / "disc-0" / "run" / CHECKPOINT).exists()
    with pytest.raises(UsageError, match="another epochs"):
        attempt(parts, out, epochs=2)
    monkeypatch.setattr(map_cell, "train", lambda *arguments: pytest.fail("it was trained again"))
    attempt(parts, out)
    with pytest.raises(UsageError, match="another epochs"):
        attempt(parts, out, epochs=2)


def test_a_refused_cell_leaves_the_finished_ones_their_settings(parts: Path, tmp_path: Path) -> None:
    attempt(parts, tmp_path)
    settings = complete("folder", str(parts), {**QUICK})
    row = variants(settings, None)[0]
    (tmp_path / "settings.json").rename(tmp_path / "kept")
    with pytest.raises(UsageError, match="no-such-net"):
        run(settings, [type(row)("wrong", ("no-such-net",))], [], 1, tmp_path)
    assert (tmp_path / "settings.json").read_bytes() == (tmp_path / "kept").read_bytes()


def test_an_out_that_is_a_file_is_told(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="cannot be made: a file is in its place"):
        attempt(parts, tmp_path / "file")
