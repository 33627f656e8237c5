"""`scripts/gpu_report.py` keeps what it has found whatever happens next: errors, crashes, hangs, a wrong engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gpu_child
import gpu_report
import gpu_rows
import gpu_written
import pytest
import tiny

from mtkd_edge import bundle

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)
TESTS = Path(__file__).resolve().parent


ABOUT = {"gpu": "none", "machine": "here"}


@pytest.fixture
def report(tmp_path) -> gpu_written.Report:
    return gpu_written.Report(tmp_path, ABOUT)


def on_disk(folder: Path) -> dict:
    return json.loads((folder / gpu_written.JSON).read_text())


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        (
            "raise in checks, abort in speed",
            {"verdict bits": "KeyError: 'no such key'", "the process of speed": "Fatal Python error: Aborted"},
        ),
        (
            "raise in speed, abort at the end of speed",
            {"section speed": "ZeroDivisionError", "the process of speed": "ended with -6"},
        ),
    ],
)
def test_a_fault_costs_one_row_and_everything_else_is_reported(tmp_path, faults, failed):
    command = [sys.executable, str(TESTS / "gpu_on_double.py"), "--out", str(tmp_path)]
    environment = {**os.environ, "FAULTS": faults}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 1, done.stderr
    found = on_disk(tmp_path)
    checks = found["checks"]
    assert {name for name, row in checks.items() if row["state"] == "FAILED"} == set(failed)
    assert all(words in checks[name]["found"] for name, words in failed.items())
    assert {*gpu_report.CHECKS, *gpu_report.PIPELINE, *gpu_report.TOOLS, "clean exit"} <= checks.keys()
    assert found["empty_launch"]["queued_us"] > 0
    assert {"rivals", "frame", "pipeline", "resources"} <= found.keys()
    assert found["seconds"].keys() == {*gpu_report.SECTIONS, *gpu_report.TOOLS, "clean exit"}
    assert (tmp_path / gpu_written.MARKDOWN).read_text() in done.stdout


def test_a_process_that_hangs_is_stopped_with_its_children_and_what_it_found_is_kept(report, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_child, "MERGE", 0.1)
    code = (
        "import json, pathlib, subprocess, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1])\n"
        "found = {'gpu': 'none', 'machine': 'here', 'checks': {'first': {'state': 'ok', 'found': sys.argv[-3]}}}\n"
        "(folder / 'report.json').write_text(json.dumps(found))\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'left')!r}).write_text(str(left.pid))\n"
        "print('about to hang', flush=True)\n"
        "time.sleep(60)\n"
    )
    seen = []
    add = report.add
    monkeypatch.setattr(report, "add", lambda found: (seen.append(on_disk(tmp_path) if seen else {}), add(found)))
    began = time.monotonic()
    ended = gpu_child.section("speed", [sys.executable, "-c", code], report, 3.0)
    assert time.monotonic() - began < 20
    assert ended.code is None
    checks = on_disk(tmp_path)["checks"]
    assert checks["first"] == {"state": "ok", "found": "speed"}
    assert checks["the process of speed"]["state"] == "FAILED"
    assert "did not end in its time and was stopped: about to hang" in checks["the process of speed"]["found"]
    assert any("first" in found.get("checks", {}) for found in seen[:-2]), "taken over while it ran"
    until(lambda: not alive(int((tmp_path / "left").read_text())), "a child that was left behind goes on")


def test_a_report_that_is_stopped_leaves_what_it_has_and_no_process(tmp_path):
    command = [sys.executable, str(TESTS / "gpu_on_double.py"), "--out", str(tmp_path)]
    environment = {**os.environ, "FAULTS": "hang in speed"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=TESTS.parent) as process:
        try:
            file = tmp_path / gpu_written.JSON
            until(lambda: file.exists() and "empty_launch" in on_disk(tmp_path), "speed was not begun")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            process.terminate()
    assert process.returncode == 128 + 15
    assert len(children) == 1
    assert not alive(int(children[0]))
    assert on_disk(tmp_path)["checks"].keys() == set(gpu_report.CHECKS)


def until(holds, complaint: str) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(complaint)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_ends_at_once_leaves_its_code_and_its_words():
    ended = gpu_child.run([sys.executable, "-c", "import sys; sys.exit('no such GPU')"], 20.0)
    assert (ended.code, ended.reason()) == (1, "the process ended with 1: no such GPU")


def test_an_error_that_nobody_thought_of_is_a_row_with_its_words():
    assert gpu_report.run_check(lambda: str(1 // 0)) == {
        "state": "FAILED", "found": "ZeroDivisionError: integer division or modulo by zero"
    }  # fmt: skip
    assert gpu_rows.any_failed({"rivals": [{"by": "eager", "us": 1.0}, {"by": "onnx", **gpu_rows.failed("other")}]})
    assert not gpu_rows.any_failed({"rivals": [{"by": "onnx", **gpu_rows.skipped("absent")}], "copy_gb_per_s": 1.0})


def test_what_was_added_is_on_the_disk_and_a_table_whatever_its_words(report, tmp_path):
    report.check("one", gpu_rows.failed("no | here\n  hint: there"))
    report.add({"empty_launch": {"queued_us": complex(1, 2)}})
    report.check("two", {"state": "ok", "found": "all"})
    assert on_disk(tmp_path)["checks"].keys() == {"one", "two"}
    assert on_disk(tmp_path)["empty_launch"] == {"queued_us": "(1+2j)"}
    assert "| one | FAILED | no \\| here hint: there |" in (tmp_path / gpu_written.MARKDOWN).read_text().splitlines()


def test_a_table_is_on_the_disk_row_by_row(report, tmp_path):
    def rows():
        yield {"by": "kernel", "us": 1.0}
        assert on_disk(tmp_path)["rivals"] == [{"by": "kernel", "us": 1.0}]
        raise RuntimeError("the GPU has fallen off the bus")

    with pytest.raises(RuntimeError):
        report.grow("rivals", rows())
    assert on_disk(tmp_path)["rivals"] == [{"by": "kernel", "us": 1.0}]


@pytest.mark.parametrize(
    ("said", "code", "state"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, "ok"),
        ("========= ERROR SUMMARY: 3 errors", 9, "FAILED"),
        ("========= ERROR SUMMARY: 0 errors", 1, "FAILED"),
        ("nothing to look at", 0, "FAILED"),
    ],
)
def test_a_sanitizer_must_have_looked_and_found_nothing(tmp_path, monkeypatch, said, code, state):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_report.shutil, "which", lambda name: str(tool))
    row = gpu_report.sanitizer("memcheck", ["gpu_report.py"], 20.0)
    assert row["state"] == state
    assert said in row["found"]


@pytest.mark.parametrize(
    ("backend", "words"), [("", r"engine\.json cannot be read"), ("openvino", "an engine for openvino, which needs no")]
)
def test_a_wrong_engine_is_told_before_anything_runs(tmp_path, monkeypatch, backend, words):
    folder = tmp_path / "engine"
    folder.mkdir()
    if backend:
        model = tiny.make_bundle(folder)
        manifest = bundle.EngineManifest(
            target="cpu", backend=backend, precision="int8", batch=(1, 1, 1), created="", model=model, built={},
            gate={}, calibration="", files=bundle.seal(folder),
        )  # fmt: skip
        bundle.save(folder, manifest, bundle.load_threshold(folder))
    monkeypatch.setattr(gpu_report._trt_driver, "find", lambda: pytest.fail("something was begun"))
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--engine", str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=words):
        gpu_report.main()


def test_an_engine_that_does_not_open_ends_the_report_at_once(report, tmp_path, monkeypatch):
    asked = []

    def section(name: str, command: list[str], into: gpu_written.Report, limit: float) -> None:
        asked.append((name, command[-2:], limit))
        into.check(name, gpu_rows.failed("the plan is of tensorrt 10.3, here is 11.4"))

    monkeypatch.setattr(gpu_child, "section", section)
    gpu_report.everything(report, ["python", "gpu_report.py"], tmp_path / "engine", 7.0)
    assert asked == [("engine", ["--parent", str(os.getpid())], 7.0)]


def test_a_section_ends_with_the_process_that_wants_it(tmp_path):
    """One that is killed by the system cannot stop its section."""
    command = [sys.executable, str(TESTS.parent / "scripts" / "gpu_report.py"), "--host", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--parent", "1"], capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == -9, done.stderr
