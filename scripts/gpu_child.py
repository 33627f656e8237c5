"""A part of `gpu_report.py` in a process of its own: one that crashes, hangs or spoils a context costs no other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_rows import any_failed, failed
from gpu_written import JSON, Report

STEP = 0.05
"""Seconds between two looks at a process."""
MERGE = 2.0
"""Seconds after which what a process has found so far is taken over."""
KILL = 10.0
"""Seconds for the system to end a process that was killed; one that hangs in the driver may never end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is over: its exit code, None where it was stopped for its time, and all that it has said."""

    code: int | None
    said: str

    def reason(self) -> str:
        """How it ended, with its last words."""
        how = "did not end in its time and was stopped" if self.code is None else f"ended with {self.code}"
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        # after a crash Python tells where it was, and then for pages what else it had loaded
        crash = next((number for number, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        last = " / ".join(lines[-3:] if crash is None else lines[crash : crash + 6])
        return f"the process {how}: {last or 'it said nothing'}"


def run(command: Sequence[str], limit: float, meanwhile: Callable[[], None] = lambda: None) -> Ended:
    """Run a command for at most `limit` seconds; `meanwhile` is called every MERGE seconds.

    Its output goes to a file: children that it leaves behind would keep a pipe open. They are killed with it.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            in_time = _wait(process.pid, limit, meanwhile)
        finally:
            # before it is waited for, so that the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode != 0:
        sys.stderr.write(said)
    return Ended(process.returncode if in_time else None, said)


def section(name: str, command: Sequence[str], report: Report, limit: float) -> Ended:
    """Run a command that writes a report of its own into `--out`, and take over what it finds, also while it runs."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / JSON

        def merge() -> None:
            if file.is_file():
                report.add(json.loads(file.read_text()))

        ended = run([*command, "--only", name, "--out", folder], limit, merge)
        merge()
        told = file.is_file() and any_failed(json.loads(file.read_text()))
    if not (ended.code == 0 or (ended.code == 1 and told)):
        report.check(f"the process of {name}", failed(ended.reason()))
    report.took(name, began)
    return ended


def _wait(process: int, limit: float, meanwhile: Callable[[], None]) -> bool:
    """Whether it ends in time. It is not collected."""
    end, merge = time.monotonic() + limit, time.monotonic() + MERGE
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        now = time.monotonic()
        if now > end:
            return False
        if now > merge:
            meanwhile()
            merge = time.monotonic() + MERGE
        time.sleep(STEP)
    return True
