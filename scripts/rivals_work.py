"""Commands with a budget of processor time, and the environment that anomalib lives in."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("anomalib", "onnx", "onnxscript")


class OverBudgetError(Exception):
    """A command used up its processor time."""


@dataclass(frozen=True)
class Spent:
    """What a command printed, and what it took: seconds by the clock and of the processor, peak resident MB."""

    stdout: str
    seconds: float
    processor: float
    peak_mb: float


def spend(command: list[str], minutes: float, threads: int) -> Spent:
    """Run `command` on `threads` threads for at most so many processor minutes, without a network for weights.

    Raises OverBudgetError; ends the program where the command fails in any other way.
    """
    limit = max(1, int(minutes * 60))

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    settings = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    settings |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings}, preexec_fn=bound
    )
    assert process.stdout is not None
    with process.stdout:
        text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and usage.ru_utime + usage.ru_stime >= limit - 1:
        raise OverBudgetError(f"after {limit / 60:.3g} processor minutes")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {text}")
    return Spent(text, time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment(folder: Path) -> Path:
    """The Python of a virtual environment with anomalib; made where there is none. Needs a package index."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-c", f"import {', '.join(PACKAGES)}"], capture_output=True).returncode:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def version(python: Path) -> str:
    """Which anomalib a Python has: "anomalib 2.7.0". Exits where it has none."""
    ask = "import importlib.metadata; print('anomalib', importlib.metadata.version('anomalib'))"
    asked = subprocess.run([str(python), "-c", ask], capture_output=True, text=True)
    if asked.returncode:
        raise SystemExit(f"{python} has no anomalib; name another --anomalib-python, or none to have one made")
    return asked.stdout.strip()
