"""Ctrl-C in a training step: in a process of its own.

Where faulthandler is on, as in pytest, onnxsim (0.8) leaves a stack for signal handlers behind that is not there any
more, and the next signal ends the process.
"""

from __future__ import annotations

import subprocess
import sys

STEP = """
import os, signal, sys
from mtkd_edge.lab.uncut import Uncut

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)

step, said = Uncut(), []
try:
    with step:
        for _ in range(int(sys.argv[1])):
            ctrl_c()
        said.append("the step is done")
        if sys.argv[2:]:
            raise RuntimeError("it failed")
    said.append("and more")
except (KeyboardInterrupt, RuntimeError) as error:
    said.append(type(error).__name__)
try:
    ctrl_c()
except KeyboardInterrupt:
    said.append("as usual afterwards")
print(*said, step.whole, sep=", ")
"""


def told(*words: str) -> str:
    command = [sys.executable, "-c", STEP, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_step_without_ctrl_c_is_whole() -> None:
    assert told("0") == "the step is done, and more, as usual afterwards, True"


def test_ctrl_c_waits_for_the_end_of_the_step() -> None:
    assert told("1") == "the step is done, KeyboardInterrupt, as usual afterwards, True"


def test_a_second_one_does_not_wait_and_what_it_cuts_is_not_whole() -> None:
    assert told("2") == "KeyboardInterrupt, as usual afterwards, False"


def test_an_error_within_the_step_is_told_and_not_the_ctrl_c() -> None:
    assert told("1", "fails") == "the step is done, RuntimeError, as usual afterwards, False"
