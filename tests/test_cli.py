"""The contract of the command line: help, exit codes, one JSON object on stdout, signals."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import factory
import msgspec
import numpy as np
import onnx
import pytest
from factory import Factory

from mtkd_edge import bundle
from mtkd_edge.cli import app, look
from mtkd_edge.device import doctor

COMMANDS = sorted(command.name or "" for command in app.app.registered_commands)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return factory.build(tmp_path_factory.mktemp("plant"))


@pytest.fixture
def engine(plant: Factory, tmp_path: Path) -> Path:
    """A copy of the engine that a test may damage."""
    return Path(shutil.copytree(plant.engine, tmp_path / "engine"))


def reseal(engine: Path) -> None:
    """The manifest of an engine whose files were changed on purpose."""
    manifest = msgspec.json.decode((engine / bundle.ENGINE).read_bytes(), type=bundle.EngineManifest)
    manifest = msgspec.structs.replace(manifest, files=bundle.seal(engine))
    bundle.save(engine, manifest, bundle.load_threshold(engine))


def said(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Every line of stdout as JSON; a line that is not fails the test."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def failed(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command line that must fail, with --json; the error object, whose code is the program's."""
    capfd.readouterr()
    code = app.run([*words, "--json"])
    out, err = capfd.readouterr()
    error: dict[str, Any] = json.loads(out)
    assert error["exit_code"] == code
    assert err.rstrip().splitlines()[-1].startswith(("error: ", "hint: "))
    return error


@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_of_every_command(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(words) == 0
    out = capfd.readouterr().out
    assert out.startswith("Usage: mtkd-edge")
    assert max(map(len, out.splitlines())) <= 100


def test_help_groups_the_commands_in_the_order_of_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    app.run(["--help"])
    out = capfd.readouterr().out
    places = [out.index(f"\n{heading}:\n") for heading in ("Train", "Build", "Run", "Look")]
    assert places == sorted(places)
    for name in COMMANDS:
        assert f"\n  {name}  " in out


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    """Twice the processor time of `import typer` at most (0.23 s beside 0.14 s): seconds would measure the machine."""
    code = "import sys; from mtkd_edge.cli.app import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert not {"numpy", "cv2", "rich", "torch", "openvino", "onnx"} & set(loaded)
    bare, ours = zip(*[(processor_seconds("import typer"), processor_seconds(code)) for _ in range(5)], strict=True)
    assert min(ours) < 2 * min(bare)


def processor_seconds(code: str) -> float:
    """What a Python process takes to run it, waiting apart."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_typing_slip_is_answered_with_the_command_that_was_meant(capfd: pytest.CaptureFixture[str]) -> None:
    error = failed(capfd, "whatch", "x")
    assert error["exit_code"] == 2
    assert "Did you mean 'watch'?" in error["error"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--fast"],
        ["watch"],
        ["build-engine", "--int8", "--fp32"],
        ["check"],
        ["bench", "x", "--seconds", "many"],
        ["train", "--size", "100"],
        ["train", "--preset", "nothing"],
        ["train", "--resume", "--out", "nowhere"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(
    words: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert failed(capfd, *words)["exit_code"] == 2


@pytest.mark.parametrize("words", [["--target", "moon"], ["--false-alarms", "2"]], ids=" ".join)
def test_a_wrong_setting_of_a_build_ends_with_2(
    words: list[str], plant: Factory, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failed(capfd, "build-engine", str(plant.run), "--fp32", *words)["exit_code"] == 2


def test_too_few_photos_end_with_3(plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    two = factory.write(tmp_path / "two", np.zeros((2, 64, 64, 3), np.uint8))
    assert failed(capfd, "threshold", str(plant.engine), "--photos", str(two))["exit_code"] == 3
    assert failed(capfd, "train", str(two), "--out", str(tmp_path / "run"))["exit_code"] == 3


def test_one_flipped_byte_ends_with_4(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray((engine / bundle.HEAD).read_bytes())
    data[100] ^= 1
    (engine / bundle.HEAD).write_bytes(data)
    error = failed(capfd, "check", str(engine))
    assert error["exit_code"] == 4
    assert bundle.HEAD in error["error"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["watch", "x"], "mtkd-edge build-engine --int8"), (["build-engine"], "mtkd-edge train")],
    ids=["watch", "build-engine"],
)
def test_nothing_made_yet_ends_with_4_and_the_command_that_makes_it(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    error = failed(capfd, *words)
    assert (error["exit_code"], error["hint"]) == (4, hint)


@pytest.mark.parametrize(
    ("package", "words"),
    [("torch", ["train", "photos"]), ("onnx", ["build-engine", "runs/tiny", "--int8", "--target", "cpu"])],
)
def test_a_missing_extra_ends_with_5_and_its_pip_line(package: str, words: list[str], plant: Factory) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from mtkd_edge.cli.app import run;"
        f"sys.exit(run({[*words, '--out', 'new', '--json']!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=plant.root)
    assert done.returncode == 5, done.stderr
    assert json.loads(done.stdout)["hint"] == "pip install 'mtkd-edge[train]'"


def test_a_graph_the_runtime_refuses_ends_with_6(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = onnx.load(engine / bundle.FEATURES)
    graph.graph.node[0].op_type = "Unheard"
    onnx.save(graph, engine / bundle.FEATURES)
    reseal(engine)
    assert failed(capfd, "check", str(engine))["exit_code"] == 6


def test_a_graph_that_is_none_ends_with_4(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (engine / bundle.FEATURES).write_bytes(b"no graph")
    reseal(engine)
    assert failed(capfd, "check", str(engine))["exit_code"] == 4


def test_a_base_install_that_cannot_run_an_engine_ends_with_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert app.run(["doctor", "--json"]) == look.UNFIT == 6
    assert said(capfd)[0]["ok"] is False


def test_a_source_that_is_not_there_ends_with_7(plant: Factory, capfd: pytest.CaptureFixture[str]) -> None:
    assert failed(capfd, "watch", "/dev/video99", "--engine", str(plant.engine))["exit_code"] == 7


def test_golden_frames_that_come_out_otherwise_end_with_8(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with np.load(engine / bundle.GOLDEN) as golden:
        np.savez(engine / bundle.GOLDEN, **{**golden, "score": golden["score"] * 2})
    reseal(engine)
    error = failed(capfd, "check", str(engine))
    assert error["exit_code"] == 8
    assert "score deviates" in error["error"]


def test_an_int8_build_that_is_not_good_enough_ends_with_8_and_leaves_no_engine(
    plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tiny network is random, and INT8 spoils it: the gate has to say so."""
    out, evidence = tmp_path / "int8", tmp_path / "calibration"
    words = ["build-engine", str(plant.run), "--int8", "--target", "cpu"]
    error = failed(capfd, *words, "--out", str(out), "--calibration", str(evidence))
    assert error["exit_code"] == 8
    assert "not as good as the FP32 graph" in error["error"]
    assert not out.exists()
    assert {path.name for path in evidence.iterdir()} == {"tiny.json", "tiny.sha256"}


def test_an_int8_build_takes_its_ranges_from_the_evidence_where_they_fit(
    plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, evidence = tmp_path / "loose.toml", tmp_path / "calibration"
    recipe.write_text("name = 'loose'\nbackend = 'openvino'\n[gate]\nspearman = -1.0\nauroc_drop = 1.0\nflips = 1.0\n")
    words = [
        "build-engine",
        str(plant.run),
        "--int8",
        "--target",
        str(recipe),
        "--calibration",
        str(evidence),
        "--json",
    ]
    assert app.run([*words, "--out", str(tmp_path / "first")]) == 0
    assert "calibrate" in capfd.readouterr().err
    assert app.run([*words, "--out", str(tmp_path / "second")]) == 0
    out, err = capfd.readouterr()
    assert "calibrate" not in err
    made = json.loads(out)
    assert (made["precision"], made["calibration"]) == ("int8", str(evidence / "tiny.json"))
    assert (
        bundle.load_engine(tmp_path / "first").files[bundle.FEATURES]
        == bundle.load_engine(tmp_path / "second").files[bundle.FEATURES]
    ), "the same evidence gives the same graph"


def test_evidence_of_another_graph_is_measured_again_and_damaged_evidence_is_not_overwritten(
    plant: Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["build-engine", str(plant.run), "--int8", "--target", "cpu", "--calibration", str(tmp_path)]
    assert app.run([*words, "--out", str(tmp_path / "engine")]) == 8
    path = tmp_path / "tiny.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["graph"], "0" * 64))
    assert app.run([*words, "--out", str(tmp_path / "engine")]) == 8
    assert json.loads(path.read_text())["graph"] != "0" * 64
    path.write_text("{")
    assert failed(capfd, *words, "--out", str(tmp_path / "engine"))["exit_code"] == 4
    assert path.read_text() == "{"


def test_a_fault_of_ours_is_one_line_and_a_traceback_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(doctor, "examine", broken)
    assert app.run(["doctor"]) == 1
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == (
        "",
        ["error: unexpected ZeroDivisionError: by zero", "hint: see where: mtkd-edge --debug doctor"],
    )
    assert app.run(["doctor", "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_what_a_library_prints_never_reaches_stdout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    examine = doctor.examine

    def noisy() -> doctor.Report:
        print("from Python")
        os.write(1, b"from C\n")
        return examine()

    monkeypatch.setattr(doctor, "examine", noisy)
    assert app.run(["doctor", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["ok"]
    assert "from Python" in err
    assert "from C" in err
