"""Progress: bars on a terminal, a plain line now and then anywhere else, and never on stdout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from mtkd_edge.cli import console, progress

WORK = (
    "from mtkd_edge.cli import progress\n"
    "with progress.shown() as report:\n"
    "    for done in range(1, 5): report('train', done, 4, f'loss {done}')\n"
)


def test_a_terminal_gets_a_bar_with_count_and_note() -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=theirs, env=env, timeout=60)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "train" in said and "4/4" in said and "loss 4" in said


def test_a_pipe_gets_one_plain_line_a_step() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    assert done.stderr == "train: 4/4  0.0 s  loss 4\n"


def test_a_long_step_says_how_far_it_is_and_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.shown() as report:
        for done in range(1, 9):
            report("train", done, 100)
            now += 5.0
    assert capsys.readouterr().err.splitlines() == [
        "train: 3/100  485 s left",
        "train: 5/100  475 s left",
        "train: 7/100  465 s left",
    ]


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert console.table([("part", "normal"), ("good", "20"), ("scratch", "1")]) == (
        "part     normal\ngood     20\nscratch  1"
    )
