"""No acknowledged event is lost: not to `kill -9`, not to a disk that is really full or read-only."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import line
import pytest
import store
from store import fill, recorder, settle, until, verdict

from mtkd_edge.device import health
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.database import Database, Filter
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.events.recorder import GROUP, RecorderOptions

KILLS = int(os.environ.get("MTKD_KILLS", "30"))
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import line, store
from mtkd_edge.device.events.recorder import RecorderOptions

def victim(root, acknowledged):
    def heard(events, stored):
        os.write(acknowledged, b"".join(event.id.encode() + b"\\n" for event in events if stored))
    keeper = store.recorder(root, RecorderOptions(lossless=True, room=32), listeners=(heard,))
    photo, seq, parent = line.part(defect=True), 0, os.getppid()
    while os.getppid() == parent:  # a killer that is killed itself takes its victim along
        keeper(store.verdict(seq), photo if seq % 4 == 0 else None, store.MAP)
        seq += 1

def size():
    return os.path.getsize(sys.argv[2]) if os.path.exists(sys.argv[2]) else 0

chance = random.Random(5)
for _ in range(int(sys.argv[3])):
    # forked, not started anew: a kill then costs the time until it, and not half a second of imports
    if not (child := os.fork()):
        victim(Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    before, deadline = size(), time.monotonic() + 5
    while size() <= before and time.monotonic() < deadline:  # a slow disk must not make the test idle
        time.sleep(0.002)
    time.sleep(chance.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_no_acknowledged_event_and_none_of_its_pictures_is_lost_to_kill_9(tmp_path: Path) -> None:
    root, acknowledged = tmp_path / "events", tmp_path / "acknowledged"
    command = [sys.executable, "-c", KILLER, str(root), str(acknowledged), str(KILLS)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, timeout=60 + KILLS)
    told = acknowledged.read_text().split()
    database = Database(root, readonly=True)
    kept = {event.id: event for event in database.find(Filter(limit=10**6))}
    assert database._connection.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    assert len(told) >= 2 * KILLS, "the test has to have something to lose"
    assert [event for event in told if event not in kept] == []
    assert told == sorted(told)
    pictures = [root / name for event in kept.values() for name in (event.image, event.heat) if name]
    assert all(path.stat().st_size for path in pictures)
    recorder(root).close()
    assert set(root.glob("pictures/*/*")) == set(pictures), "what a kill left without a row is gone"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; mounting it takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system of 1 MB takes root")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place)]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def everything(root: Path) -> list[Event]:
    database = Database(root, readonly=True)
    try:
        return database.find(Filter(newest=False, limit=10**6))
    finally:
        database.close()


def block(disk: Path) -> Path:
    """Fill the disk to its last byte."""
    ballast = disk / "somebody-elses-file"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return ballast


def test_a_full_disk_is_told_alarms_are_heard_and_writing_goes_on_by_itself(tiny_disk: Path) -> None:
    told: list[health.Event] = []
    heard: list[tuple[str, bool]] = []
    listen = (lambda events, stored: heard.extend((event.id, stored) for event in events),)
    root = tiny_disk / "events"
    keeper = recorder(root, RecorderOptions(), told=told, listeners=listen)
    keeper(verdict(0), line.part(defect=True), store.MAP)
    settle(keeper)
    ballast = block(tiny_disk)
    began = time.monotonic()
    for seq in range(1, 30):
        keeper(verdict(seq), line.part(defect=True), store.MAP)
    assert time.monotonic() - began < 1, "the scorer does not wait for the disk"
    until(lambda: len([each for each, stored in heard if not stored]) == 29)
    assert time.monotonic() - began < 5, "nor does an alarm"
    assert [event.what for event in told] == ["failing"] and "No space left" in told[0].reason
    assert (keeper.waiting(), len(everything(root))) == (29, 1)
    ballast.unlink()
    settle(keeper)
    keeper.close()
    assert [event.what for event in told] == ["failing", "recovered"]
    kept = everything(root)
    assert [event.seq for event in kept] == list(range(30)) and keeper.lost == {}
    assert [each for each, stored in heard if stored] == [event.id for event in kept]
    assert {each for each, stored in heard if not stored} == {event.id for event in kept[1:]}, "one id, stored or not"
    assert all((root / name).stat().st_size for event in kept for name in (event.image, event.heat))


def test_on_a_full_disk_memory_is_bounded_and_what_is_lost_is_counted(tiny_disk: Path) -> None:
    root = tiny_disk / "events"
    fill(root, 1)
    block(tiny_disk)
    keeper = recorder(root, RecorderOptions(held=3, held_bytes=5000, lossless=True))  # the disk is full
    verdicts, summary = line.run([line.Memory("folder", [line.part(defect=True)] * 60)], sinks=[keeper])
    assert len(verdicts) == 60, "scoring goes on"
    lost = summary.sinks[1].lost
    assert sum(lost.values()) == 60 and {reason.partition(":")[0] for reason in lost} == {
        "beyond what is held in memory",
        "not written when the watch ended",
    }
    assert len(everything(root)) == 1


def test_an_alarm_on_a_full_disk_gives_up_its_picture_and_takes_the_place_of_a_frame(tiny_disk: Path) -> None:
    root = tiny_disk / "events"
    fill(root, 1)
    ballast = block(tiny_disk)
    keeper = recorder(root, RecorderOptions(held=3, held_bytes=1))
    for seq in range(1, 4):
        keeper.offer(draft(Kind.VERDICT, seq))
    until(lambda: keeper.failing)
    for seq in range(4, 9):
        keeper.offer(draft(Kind.ALARM if seq < 7 else Kind.VERDICT, seq))
    until(lambda: sum(keeper.lost.values()) == 5)
    ballast.unlink()
    settle(keeper)
    keeper.close()
    kept = everything(root)[1:]
    assert [(event.kind, event.seq) for event in kept] == [(Kind.ALARM, seq) for seq in (4, 5, 6)]
    assert all(event.latched and not event.image for event in kept)
    tall, wide = line.part(defect=True).shape[:2]
    assert all(event.frame == (wide, tall) for event in kept), "the pixels of the regions are known all the same"
    assert all(event.reason.endswith("no picture: too many wait for the disk") for event in kept)
    assert all(why.startswith("beyond what is held in memory: ") for why in keeper.lost)


def draft(kind: Kind, seq: int) -> Draft:
    return Draft(kind, verdict(seq), line.part(defect=True), store.MAP, Clock().stamp(), latched=kind is Kind.ALARM)


def test_events_without_pictures_are_bounded_too(tiny_disk: Path) -> None:
    fill(tiny_disk / "events", 1)
    block(tiny_disk)
    keeper = recorder(tiny_disk / "events", RecorderOptions(held=20, lossless=True))
    for seq in range(200):
        keeper(verdict(seq), None, None)
    # what was taken before the first failure is held as well: one group
    until(lambda: keeper.failing and keeper.waiting() <= 20 + GROUP)
    keeper.close()
    assert sum(keeper.lost.values()) == 200


def test_a_disk_that_becomes_read_only_is_survived(tiny_disk: Path) -> None:
    told: list[health.Event] = []
    keeper = recorder(tiny_disk / "events", told=told)
    keeper(verdict(0), None, None)
    settle(keeper)
    keeper.close()
    remount = ["mount", "-o", "remount,{}", str(tiny_disk)]
    subprocess.run([word.format("ro") for word in remount], check=True)
    assert len(everything(tiny_disk / "events")) == 1, "what is there can be read"
    keeper = recorder(tiny_disk / "events", told=told)
    keeper(verdict(1), line.part(), store.MAP)
    until(lambda: keeper.failing)
    assert "read" in keeper.failing.lower()
    subprocess.run([word.format("rw") for word in remount], check=True)
    settle(keeper)
    keeper.close()
    assert [event.seq for event in everything(tiny_disk / "events")] == [0, 1]
    assert [event.what for event in told] == ["failing", "recovered"]


def test_sigterm_writes_what_is_in_hand(tmp_path: Path) -> None:
    """Through `close`, as a watch ends: whatever was offered before is on the disk afterwards."""
    script = "import store, sys, signal\nfrom pathlib import Path\nkeeper = store.recorder(Path(sys.argv[1]))\n"
    script += "signal.signal(signal.SIGTERM, lambda *a: (keeper.close(), sys.exit(0)))\n"
    script += (
        "[keeper(store.verdict(seq), None, None) for seq in range(200)]\nprint('ready', flush=True)\nsignal.pause()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent)
    assert victim.stdout is not None and victim.stdout.readline() == b"ready\n"
    victim.send_signal(signal.SIGTERM)
    assert victim.wait(5) == 0
    victim.stdout.close()
    assert [event.seq for event in everything(tmp_path)] == list(range(200))
