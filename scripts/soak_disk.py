"""A small disk for the events that can be filled or made read-only, and a wall clock that can be set.

Mounting takes root, or a kernel that lets a user have mounts of his own (`unshare`): the soak starts itself again in
such a namespace, so that whatever it mounts is gone with it. Where neither works these faults are left out, and named.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

INSIDE = "MTKD_SOAK_INSIDE"


def enter_namespace() -> None:
    """Start this program again with mounts of its own, once; return where that is done or cannot be."""
    if INSIDE in os.environ:
        return
    own = ["unshare", "--mount", "--propagation", "private"]
    for command in ([*own] if os.geteuid() == 0 else [], [*own, "--user", "--map-root-user"]):
        if (
            command
            and shutil.which("unshare")
            and not subprocess.run([*command, "true"], capture_output=True).returncode
        ):
            os.environ[INSIDE] = "1"
            os.execvp(command[0], [*command, sys.executable, *sys.argv])


class Disk:
    """`folder` is where the events go; `cannot` says why it can be neither filled nor made read-only, else ""."""

    def __init__(self, place: Path, megabytes: int) -> None:
        place.mkdir()
        self.folder = place / "events"
        done = _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(place))
        self.cannot = f"no file system can be mounted here: {done}" if done else ""
        self._ballast, self._twin = place / "somebody-elses-file", place / "read-only"
        self.folder.mkdir()

    def fill(self) -> None:
        """To the last byte, by a file of somebody else."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 65536)
            except OSError:  # full: what was wanted
                return

    def empty(self) -> None:
        """Room again."""
        self._ballast.unlink(missing_ok=True)

    def forbid(self) -> None:
        """Read-only for everything that is opened from now on. Raises RuntimeError where that fails."""
        folder, twin = str(self.folder), str(self._twin)
        steps = [("--bind", twin, folder)]
        if not self._twin.exists():
            # beside it, where nobody writes: a mount on which a file is open for writing cannot become read-only
            self._twin.mkdir()
            steps = [("--bind", folder, twin), ("-o", "remount,bind,ro", twin), *steps]
        for words in steps:
            if failed := _run("mount", *words):
                raise RuntimeError(failed)

    def allow(self) -> None:
        """Writable again."""
        _run("umount", "--lazy", str(self.folder))


class WallClock:
    """`cannot` says why the station's clock cannot be set; else `environment` belongs to it."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        self.environment: dict[str, str] = {}
        compiler = shutil.which("g++")
        self.cannot = "" if compiler else "no g++ here to compile the clock with"
        if compiler:
            source = Path(__file__).with_name("soak_clock.cpp")
            self.cannot = _run(compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source))
        if not self.cannot:
            self.step(0)
            self.environment = {"LD_PRELOAD": str(library), "MTKD_SOAK_CLOCK": str(self._file)}

    def step(self, seconds: float) -> None:
        """The station's wall clock is this far from the machine's."""
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(handle, struct.pack("q", int(seconds * 1e9)), 0)
        os.close(handle)


def _run(*command: str) -> str:
    """What went wrong, "" where nothing did."""
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} ended with {done.returncode}"
