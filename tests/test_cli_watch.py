"""Commands that run an engine, as a user runs them: real processes, pipes and signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import factory
import pytest
import tiny
from factory import Factory
from program import started

from mtkd_edge.cli import app, console, verdicts
from mtkd_edge.verdict import Region, State, Verdict


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return factory.build(tmp_path_factory.mktemp("plant"))


def run_json(capfd: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """The command's JSON lines; it must succeed."""
    capfd.readouterr()
    code = app.run([*words, "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_the_newest_engine_watches_a_folder_and_stdout_has_one_verdict_a_photo(plant: Factory) -> None:
    with started(plant.root, "watch", "photos", "bad", "--out", "shift", "--json") as process:
        out, err = process.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, err
    assert len(lines) == 46
    assert {line["path"] for line in lines if line["source"] == "bad"} == {f"bad/{n:03d}.png" for n in range(6)}
    keys = {"source", "seq", "captured", "state", "score", "threshold", "regions", "latency_ms"}
    assert all(keys <= line.keys() for line in lines)
    assert sum(line["state"] == "anomalous" for line in lines if line["source"] == "bad") >= 4
    written = [json.loads(line) for line in (plant.root / "shift" / "verdicts.jsonl").read_text().splitlines()]
    assert written == lines
    summary = json.loads((plant.root / "shift" / "summary.json").read_text())
    assert sorted(source["captured"] for source in summary["sources"]) == [6, 40]
    overlays = list((plant.root / "shift" / "overlays").rglob("*.jpg"))
    assert len(overlays) == sum(line["state"] == "anomalous" for line in lines)
    assert "40 frames captured" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_drains_and_ends_with_0(number: int, plant: Factory, tmp_path: Path) -> None:
    shutil.copytree(plant.bad, tmp_path / "hot")
    with started(tmp_path, "watch", "hot", "--follow", "--engine", str(plant.engine), "--json") as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(6)]
        process.send_signal(number)
        rest, err = process.communicate()
    assert process.returncode == 0, err
    assert [json.loads(line)["seq"] for line in first + rest.splitlines()] == list(range(6))
    assert "6 frames captured" in err


def test_a_reader_that_goes_away_ends_the_watch(plant: Factory, tmp_path: Path) -> None:
    shutil.copytree(plant.bad, tmp_path / "hot")
    with started(tmp_path, "watch", "hot", "--follow", "--engine", str(plant.engine)) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        time.sleep(0.5)
        shutil.copy(plant.photos / "000.png", tmp_path / "hot" / "later.png")
        err = process.stderr.read()
        assert process.wait() == 0, err
    assert "Traceback" not in err
    assert "Broken pipe" in err


def test_the_lines_for_people_say_state_score_and_place(plant: Factory, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"torn")
    with started(plant.root, "watch", "bad", str(tmp_path / "torn.png")) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert sum(line.startswith("anomalous") and " region" in line for line in out.splitlines()) >= 4
    assert any(line.startswith("invalid") and "torn.png" in line for line in out.splitlines())
    assert "\x1b[" not in out, "no colours where stdout is no terminal"


def test_evaluate_takes_runs_and_engines_and_gives_the_keys_that_users_rely_on(
    plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(plant.photos, tmp_path / "train" / "good")
    shutil.copytree(plant.bad, tmp_path / "test" / "blotch")
    factory.write(tmp_path / "test" / "good", tiny.normal_frames(8, seed=9))
    (by_engine,) = run_json(capfd, "evaluate", str(plant.engine), str(tmp_path))
    (by_run,) = run_json(capfd, "evaluate", str(plant.run), str(tmp_path))
    keys = "image_auroc pixel_auroc aupro f1_max per_defect false_alarm_rate detection_rate threshold"
    assert set(keys.split()) <= by_engine.keys()
    assert by_engine["image_auroc"] == by_run["image_auroc"] > 0.9


def test_check_and_bench_report_on_a_sound_engine(plant: Factory, capfd: pytest.CaptureFixture[str]) -> None:
    (checked,) = run_json(capfd, "check", str(plant.engine))
    assert {row["name"] for row in checked["rows"]} >= {"map", "score"}
    (benched,) = run_json(capfd, "bench", str(plant.engine), "--batch", "1", "--seconds", "0.05")
    assert [row["batch"] for row in benched["rows"]] == [1]
    assert benched["rows"][0]["calls"] >= 1
    # the CPU recipe compiles for one frame: a larger batch is refused, not quietly cut
    assert app.run(["bench", str(plant.engine), "--batch", "1,2"]) == 2
    assert benched["floor"]["milliseconds"] > 0


def test_a_threshold_is_shown_set_by_hand_and_fitted(
    plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = str(shutil.copytree(plant.engine, tmp_path / "engine"))
    (before,) = run_json(capfd, "threshold", engine)
    (by_hand,) = run_json(capfd, "threshold", engine, "--score", "123.5")
    assert (by_hand["threshold"]["score"], by_hand["threshold"]["method"]) == (123.5, "manual")
    assert all(line["threshold"] == 123.5 for line in run_json(capfd, "watch", str(plant.bad), "--engine", engine))
    (fitted,) = run_json(capfd, "threshold", engine, "--photos", str(plant.photos), "--false-alarms", "0.1")
    assert (fitted["threshold"]["method"], fitted["threshold"]["photos"]) == ("conformal", 40)
    assert fitted["threshold"]["score"] != before["threshold"]["score"]
    run_json(capfd, "check", engine)


@pytest.mark.parametrize(
    "words",
    [["--score", "nan"], ["--score", "1", "--photos", "x"], ["--false-alarms", "0.1"]],
    ids=" ".join,
)
def test_a_threshold_that_makes_no_sense_is_refused(
    words: list[str], plant: Factory, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (plant.engine / "threshold.json").read_bytes()
    assert app.run(["threshold", str(plant.engine), *words]) == 2
    assert capfd.readouterr().err.startswith("error: ")
    assert (plant.engine / "threshold.json").read_bytes() == before


def verdict(state: State, score: float | None, **more: Any) -> Verdict:
    return Verdict(source="cam", seq=7, captured=0.0, state=state, score=score, threshold=3.5, **more)


def test_a_verdict_reads_as_one_line() -> None:
    box = Region(box=(412, 96, 31, 18), area=402, peak=7.9, peak_at=(430, 104))
    found = verdicts.line(verdict(State.ANOMALOUS, 5.214, regions=(box,), latency_ms={"total": 9.14}))
    assert found == "anomalous     5.214 >  3.5  cam #7  1 region: 31 x 18 at 412,96  9.1 ms"
    assert verdicts.line(verdict(State.INVALID, None, reason="torn.png is damaged")) == (
        "invalid    cam #7  torn.png is damaged"
    )


def test_colours_only_on_a_terminal_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.colour("normal", console.BLUE) == "\x1b[34mnormal\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.colour("normal", console.BLUE) == "normal"
