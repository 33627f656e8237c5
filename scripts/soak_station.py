"""The station under test: the real program in a process of its own, everything it says, and what it takes."""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from soak_words import Totals, told, totals

AWAY = re.compile(r"\b(stalled|reconnecting|auth-failed)\b")
LOOK = 0.1
"""Seconds between two looks at the page."""
PATIENCE = 30.0
NOTICED = 5.0


class Said(msgspec.Struct, frozen=True):
    """A verdict as it was printed: `at` is monotonic seconds at which it was read."""

    at: float
    source: str
    seq: int
    state: str
    total_ms: float
    path: str


class Sample(msgspec.Struct, frozen=True):
    """All processes of the station together, at monotonic `at`. `rss` in bytes; `own`: of the first process alone.

    `stalled`: seconds since the boot for which something on this machine waited for a processor, by the kernel.
    """

    at: float
    rss: int
    fds: int
    threads: int
    processes: int
    stalled: float = 0.0
    own: int = 0


class Life(msgspec.Struct):
    """From one start of the program to its end."""

    began: float
    first: float = 0.0
    ended: float = 0.0
    killed: bool = False
    code: int | None = None
    stopped_in: float = 0.0
    orphans: int = 0
    totals: list[Totals] = msgspec.field(default_factory=list)
    said: list[Said] = msgspec.field(default_factory=list)
    away: list[tuple[float, str]] = msgspec.field(default_factory=list)
    samples: list[Sample] = msgspec.field(default_factory=list)
    states: list[dict[str, Any]] = msgspec.field(default_factory=list)
    words: list[str] = msgspec.field(default_factory=list)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its new parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Station:
    """Started and ended many times; `lives` has all of it."""

    def __init__(self, config: Path, page: int, environment: dict[str, str]) -> None:
        self._config, self._page, self._environment = config, page, environment
        self.lives: list[Life] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self.judged: set[str] = set()
        """Paths of the photos that have a verdict."""

    @property
    def life(self) -> Life:
        """The latest."""
        return self.lives[-1]

    def start(self) -> None:
        """It runs; its first verdict is awaited by `running`."""
        life = Life(time.monotonic())
        self.lives.append(life)
        command = [sys.executable, "-m", "mtkd_edge", "watch", "--config", str(self._config), "--json"]
        process = subprocess.Popen(
            command,
            cwd=self._config.parent,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._process = process
        self._readers = [
            threading.Thread(target=self._verdicts, args=(process.stdout, life), daemon=True),
            threading.Thread(target=self._words, args=(process.stderr, life), daemon=True),
        ]
        self._readers.append(threading.Thread(target=self._look, args=(process, life), daemon=True))
        for reader in self._readers:
            reader.start()

    def running(self, sources: int) -> bool:
        """Whether every source has had a verdict in this life."""
        found = len({said.source for said in list(self.life.said)}) >= sources
        if found and not self.life.first:
            self.life.first = time.monotonic()
        return found

    def kill(self) -> None:
        """`kill -9` of the program itself: whatever it has started has to notice."""
        assert self._process is not None
        life, family = self.life, tree(self._process.pid)
        life.killed = True
        self._process.kill()
        self._over(life)
        until = time.monotonic() + NOTICED
        while (left := [pid for pid in family[1:] if alive(pid)]) and time.monotonic() < until:
            time.sleep(0.1)
        life.orphans = len(left)
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and what it says at the end."""
        assert self._process is not None
        life, began = self.life, time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        life.stopped_in = time.monotonic() - began
        self._over(life)
        life.totals = totals(life.words)

    def end(self) -> None:
        """Nothing of it is left, whatever has happened to the soak."""
        if self._process is not None:
            for pid in reversed(tree(self._process.pid)):
                with suppress(ProcessLookupError):  # it has ended by itself, which is told elsewhere
                    os.kill(pid, signal.SIGKILL)
            self._process = None

    def sample(self) -> None:
        """What it takes, and what it shows of its ledger, now."""
        if self._process is None or self._process.poll() is not None:
            return
        if sample := measure(self._process.pid):
            self.life.samples.append(sample)
        if lines := self.state().get("lines"):
            kept = ("source", "captured", "scored", "invalid", "waiting", "dropped")
            self.life.states.append({line["source"]: {key: line[key] for key in kept} for line in lines})

    def state(self) -> dict[str, Any]:
        """What the page shows; empty while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._page}/api/state", timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError, http.client.HTTPException):
            return {}

    def workers(self) -> list[int]:
        """The processes that the program has started."""
        return tree(self._process.pid)[1:] if self._process is not None else []

    def died(self) -> int | None:
        """The exit code where it has ended although nobody asked it to."""
        return None if self._process is None else self._process.poll()

    def _over(self, life: Life) -> None:
        assert self._process is not None
        life.code = self._process.wait()
        life.ended = time.monotonic()
        for reader in self._readers:
            reader.join(5)
        self._process = None

    def _verdicts(self, out: Any, life: Life) -> None:
        for line in out:
            try:
                verdict = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            if "state" not in verdict:
                continue
            total = verdict["latency_ms"].get("total", 0.0)
            name, state = verdict["source"], verdict["state"]
            life.said.append(Said(time.monotonic(), name, verdict["seq"], state, total, verdict["path"]))
            if verdict["path"]:
                self.judged.add(verdict["path"])

    def _look(self, process: subprocess.Popen[bytes], life: Life) -> None:
        """What the page says of the cameras: the log only counts what it has told shortly before."""
        were: set[str] = set()
        while process.poll() is None:
            if lines := self.state().get("lines"):
                are = {line["source"] for line in lines if AWAY.search(line["condition"])}
                life.away += [(time.monotonic(), f"{source}: away, by the page") for source in are - were]
                were = are
            time.sleep(LOOK)

    def _words(self, err: Any, life: Life) -> None:
        for line in err:
            text = told(line.decode(errors="replace").rstrip("\n"))
            if AWAY.search(text):
                life.away.append((time.monotonic(), text))
            life.words = [*life.words[-400:], text]


def tree(root: int) -> list[int]:
    """A process and all that descend from it, the root first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def measure(root: int) -> Sample | None:
    """Memory, descriptors and threads of the whole family; None where it has just ended."""
    rss = own = fds = threads = count = 0
    for pid in tree(root):
        try:
            rows = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in row)
            fds += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            resident = int(rows["VmRSS"].split()[0]) * 1024
            own = resident if pid == root else own
            rss += resident
            threads += int(rows["Threads"])
            count += 1
        except (OSError, KeyError):  # noqa: PERF203 - each process for itself
            continue  # it ended meanwhile
    return Sample(time.monotonic(), rss, fds, threads, count, stalled(), own) if count else None


def stalled() -> float:
    """Seconds that something here waited for a processor, by the kernel's own account (PSI); 0 where it keeps none."""
    try:
        words = pressure_file().read_text().split()
    except OSError:
        return 0.0
    return int(words[words.index("full") - 1].partition("=")[2]) / 1e6


@functools.cache
def pressure_file() -> Path:
    """That of this soak's own control group, where it is in one: idle work beside it waits, and says nothing of it."""
    group = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounts = [row.split() for row in Path("/proc/self/mounts").read_text().splitlines()]
    own = [Path(row[1]) / group[1] / "cpu.pressure" for row in mounts if group and row[2] == "cgroup2"]
    return next((file for file in own if file.exists()), Path("/proc/pressure/cpu"))
