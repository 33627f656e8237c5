"""The power is cut after every single thing that a recorder does to the disk: no acknowledged event is ever lost.

A real recorder writes while every call that reaches the disk is logged; then, for each point of the log, the disk is
put together as a power cut may have left it, and opened by the program. What this does not prove: that a disk and a
file system keep their own promise about fsync.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import disk_replay
import pytest
import store
from disk_replay import Disk, Entry

from mtkd_edge.device.events.database import Database, Filter, exists
from mtkd_edge.errors import MtkdError

VICTIM = """
import os, sys
from pathlib import Path
import line, store
from mtkd_edge.device.events import pictures, database
from mtkd_edge.device.events.recorder import RecorderOptions

root, how = Path(sys.argv[1]), sys.argv[2]
told = os.open(root / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

def heard(events, stored):
    os.write(told, b"".join(event.id.encode() + b"\\n" for event in events if stored))

if how == "pictures not synced":
    real = pictures.sync
    pictures.sync = lambda paths, folders: real([], [] if paths else folders)
for life in range(3):
    keeper = store.recorder(root / "line" / "events", RecorderOptions(lossless=True), listeners=(heard,))
    if how == "synchronous=normal":
        keeper._store._database._connection.execute("pragma synchronous=normal")
    for seq in range(8):
        keeper(store.verdict(seq), line.part(defect=True), store.MAP if seq % 2 else None)
        if seq % 3:
            store.settle(keeper)
    keeper.close()
"""


@dataclass(frozen=True)
class Log:
    """What a recorder did to the disk below `root`, which still holds all of it."""

    root: Path
    entries: list[Entry]

    @property
    def events(self) -> Path:
        return self.root / "line" / "events"


def record(folder: Path, how: str = "as it is") -> Log:
    library, root = folder / "recorder.so", folder / "disk"
    if (compiler := shutil.which("g++")) is None:
        pytest.skip("no g++ here to compile the recorder of the disk with")
    source = Path(__file__).with_name("disk_recorder.cpp")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    root.mkdir()
    variables = {"LD_PRELOAD": str(library), "MTKD_DISK_ROOT": str(root), "MTKD_DISK_LOG": str(folder / "log")}
    command = [sys.executable, "-c", VICTIM, str(root), how]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, env={**os.environ, **variables}, timeout=120)
    return Log(root, disk_replay.read(folder / "log"))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that is fast to write thousands of disks to."""
    shm = Path("/dev/shm")
    folder = (shm if os.access(shm, os.W_OK) else tmp_path) / f"mtkd-power-cut-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def cuts(log: Log, seeds: int) -> Iterator[tuple[int, dict[str, bytes | None], list[str]]]:
    """(entry, disk, acknowledged ids) for every point, each different disk once."""
    disk, told, seen = Disk(log.root), b"", set()
    for number, entry in enumerate(log.entries):
        disk.step(entry)
        if entry.op == "write" and entry.path.endswith("/acknowledged"):
            told += entry.data
        for kept, seed in [("nothing", 0), ("all", 0), *(("some", seed) for seed in range(seeds))]:
            found = disk.after_cut(kept, random.Random(f"{number} {seed}"))
            found = {name: content for name, content in found.items() if not name.endswith(("-shm", "/acknowledged"))}
            digest = hashlib.sha256(repr(sorted(found.items(), key=str)).encode() + told).digest()
            if digest not in seen:
                seen.add(digest)
                yield number, found, told.decode().split()


def harm(log: Log, place: Path, found: dict[str, bytes | None], told: list[str]) -> str:
    """What is lost or broken on this disk, "" where nothing is."""
    disk_replay.write(log.root, place, found)
    root = place / "line" / "events"
    if not exists(root):
        return f"{len(told)} acknowledged events and no database" if told else ""
    try:
        store.recorder(root).close()  # as the next start does
        database = Database(root, readonly=True)
        whole = database._connection.execute("pragma integrity_check").fetchone()
        kept = {event.id: event for event in database.find(Filter(limit=10**6))}
        database.close()
    except MtkdError as error:
        return str(error)
    if whole != ("ok",) or (lost := [event for event in told if event not in kept]):
        return f"{whole}, {len(lost)} acknowledged events lost"
    for event in kept.values():
        for name in filter(None, (event.image, event.heat)):
            path = root / name
            if not path.is_file() or path.read_bytes() != (log.events / name).read_bytes():
                return f"{name} of event {event.id} is gone or torn"
    return ""


def first_harm(log: Log, memory: Path, seeds: int) -> tuple[int, str]:
    """(disks tried, the first harm)."""
    tried = 0
    for number, found, told in cuts(log, seeds):
        tried += 1
        place = memory / str(tried)
        place.mkdir()
        if trouble := harm(log, place, found, told):
            return tried, f"after {number} of {len(log.entries)}, {log.entries[number].op}: {trouble}"
        shutil.rmtree(place)
    return tried, ""


def test_no_acknowledged_event_is_lost_wherever_the_power_is_cut(tmp_path: Path, memory: Path) -> None:
    log = record(tmp_path)
    disk = Disk(log.root)
    for entry in log.entries:
        disk.step(entry)
    # the log is complete: replayed as a whole it gives the very files that are there
    there = {str(path): path.read_bytes() for path in log.root.rglob("*") if path.is_file()}
    replayed = disk.after_cut("all", random.Random(0))
    assert {name: content for name, content in replayed.items() if content is not None} == there
    assert len((log.root / "acknowledged").read_text().split()) == 24
    tried, trouble = first_harm(log, memory, seeds=int(os.environ.get("MTKD_CUTS", "1")))
    assert trouble == ""
    assert tried > 300


@pytest.mark.parametrize("how", ["synchronous=normal", "pictures not synced"])
def test_a_recorder_that_syncs_less_is_caught(how: str, tmp_path: Path, memory: Path) -> None:
    _, trouble = first_harm(record(tmp_path, how), memory, seeds=0)
    assert ("lost" in trouble) if how.startswith("synchronous") else ("gone or torn" in trouble)
