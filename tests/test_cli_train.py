"""`train` as a user runs it: what it says, what it leaves, and how it is interrupted and continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import factory
import pytest
import tiny

from mtkd_edge import bundle, places
from mtkd_edge.lab.config import REVISION

SMALL = ["--preset", "offline", "--size", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ./data, as a user stands in it."""
    root = tmp_path_factory.mktemp("workshop")
    factory.write(root / "data", tiny.normal_frames(30))
    return root


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mtkd_edge", "train", *words]


def test_an_interrupted_training_says_how_to_go_on_and_does(workshop: Path) -> None:
    """Without DATA, `train` takes ./data; what it learned is in metrics.json and on stdout."""
    words = command(*SMALL, "--epochs", "400", "--out", "runs/long")
    with subprocess.Popen(words, cwd=workshop, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # the plain lines on stderr name a step when it ends: after the importance comes the student
        before = next(line for line in process.stderr if line.startswith("importance"))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        code = process.wait()
    assert code == 130, before + rest
    assert "stopped, continue with: mtkd-edge train --resume --out runs/long" in rest
    assert "Traceback" not in rest
    told = json.loads((workshop / "runs" / "long" / places.CONFIG).read_text())
    (workshop / "runs" / "long" / places.CONFIG).write_text(json.dumps({**told, "epochs": 2}))
    again = subprocess.run(command("--resume", "--json"), cwd=workshop, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continuing runs/long" in again.stderr
    assert "30 photos of good parts" in again.stderr
    said = json.loads(again.stdout)
    run = workshop / said["run"]
    assert len(said["importance"]) == 3
    assert bundle.load_bundle(places.bundle_of(run)).name == "long"
    assert json.loads((run / "metrics.json").read_text()).items() <= said.items()


@pytest.mark.parametrize(
    ("told", "wanted"),
    [({"revision": REVISION}, "another size"), ({}, "begun by a version of mtkd-edge whose method computes other")],
)
def test_a_resumed_run_keeps_its_settings_and_its_method(workshop: Path, told: dict[str, int], wanted: str) -> None:
    run = workshop / "runs" / f"old{len(told)}"
    run.mkdir(parents=True)
    (run / places.CONFIG).write_text(json.dumps({"data": "data", "out": str(run), "epochs": 2, "size": 64, **told}))
    words = command("--resume", "--out", str(run), "--size", "128", "--json")
    done = subprocess.run(words, cwd=workshop, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert wanted in json.loads(done.stdout)["error"]
