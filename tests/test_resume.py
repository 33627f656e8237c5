"""Files lose no frame and are not judged twice, whenever the watch over them is killed with `kill -9`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import factory
import line
import msgspec
import pytest
import tiny
from factory import Factory
from program import started
from store import until
from test_station import JUDGE

from mtkd_edge.cli import app
from mtkd_edge.device import health
from mtkd_edge.device.events.database import Database, Filter
from mtkd_edge.device.sinks import CsvTable, JsonLines, last_lines
from mtkd_edge.device.sources import SourceOptions, open_source, open_sources
from mtkd_edge.device.sources.photos import Photos
from mtkd_edge.device.station.config import Config
from mtkd_edge.device.station.station import Station
from mtkd_edge.verdict import State, Verdict

KILLS = int(os.environ.get("MTKD_RESUME_KILLS", "6"))
PHOTOS, FRAMES = 120, 150
KILLER = """
import os, random, signal, sys, threading, time
from pathlib import Path
import line, msgspec
from test_station import JUDGE
from mtkd_edge.device import health
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.sinks import CsvTable, JsonLines, last_lines
from mtkd_edge.device.sources import open_sources
from mtkd_edge.device.station.config import Config
from mtkd_edge.device.station.station import Station

root = Path(sys.argv[1])

def victim():
    sources = open_sources([str(root / "photos"), str(root / "a.avi")])
    given = {"source": [{"address": source.name} for source in sources], "events": {"folder": "out"}}
    station = Station(msgspec.convert(given, Config), root, JUDGE, sources, health.untold)
    lines, table = root / "out" / "verdicts.jsonl", root / "out" / "verdicts.csv"
    sinks = [JsonLines(lines, last_lines(lines)), CsvTable(table, last_lines(table)), station.sink]
    line.run(sources, FakeEngine(delay=0.004, batch=4), sinks=sinks, done=station.done)

chance = random.Random(3)
size = lambda: (root / "out" / "verdicts.jsonl").stat().st_size if (root / "out" / "verdicts.jsonl").exists() else 0
kills = 0
while True:
    # forked, not started anew: half a second of imports each time would be half of the test
    if not (child := os.fork()):
        victim()
        os._exit(0)
    before, wait = size(), chance.uniform(0.05, 0.5)
    while kills < int(sys.argv[2]) and size() <= before and not (over := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.002)
    if kills >= int(sys.argv[2]):
        assert os.waitpid(child, 0)[1] == 0
        break
    if over[0]:
        break
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
print(kills)
"""


def test_files_go_on_where_a_killed_watch_stopped_and_lose_nothing(tmp_path: Path) -> None:
    for n in range(PHOTOS):
        line.write_photo(tmp_path / "photos" / f"{n:03d}.png", line.part(20, defect=n % 7 == 0))
    line.write_video(tmp_path / "a.avi", [line.part(20, defect=n % 9 == 0) for n in range(FRAMES)], "MJPG")
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(KILLS)]
    done = subprocess.run(command, cwd=Path(__file__).parent, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2, "the test has to be killed in the middle of something"
    rows = [json.loads(row) for row in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    judged = Counter((row["source"], row["seq"], row["path"]) for row in rows)
    photos, video = str(tmp_path / "photos"), str(tmp_path / "a.avi")
    wanted = {(photos, n, f"{photos}/{n:03d}.png") for n in range(PHOTOS)}
    assert set(judged) == wanted | {(video, n, video) for n in range(FRAMES)}
    assert set(judged.values()) == {1}, "and none stands there twice"
    assert last_lines(tmp_path / "out" / "verdicts.csv") == set(judged)
    database = Database(tmp_path / "out", readonly=True)
    kept = Counter((event.source, event.seq) for event in database.find(Filter(limit=10**6)))
    database.close()
    bad = {(row["source"], row["seq"]) for row in rows if row["state"] == "anomalous"}
    assert len(bad) == len(range(0, PHOTOS, 7)) + len(range(0, FRAMES, 9))
    assert kept == Counter(bad), "one event a bad frame, whenever it was killed"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return factory.build(tmp_path_factory.mktemp("plant"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kill_9_leaves_no_process_and_resume_goes_on(plant: Factory, tmp_path: Path) -> None:
    frames = [frame for frame in tiny.normal_frames(40, seed=3) for _ in range(10)]
    line.write_video(tmp_path / "a.avi", frames, "MJPG")
    words = ("watch", "a.avi", "--engine", str(plant.engine), "--out", "out", "--save", "none", "--json")
    with started(tmp_path, *words) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        below = children(process.pid)
        assert len(below) == 2, "the engine's and the video's"
        process.kill()
        process.wait()
        until(lambda: not any(map(running, below)), 5)
    with started(tmp_path, *words, "--resume") as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    seqs = [json.loads(row)["seq"] for row in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert seqs == list(range(400))
    assert len(out.splitlines()) < 400, "it did not begin anew"


def test_without_resume_it_begins_anew_and_forgets(tmp_path: Path) -> None:
    photos = [line.write_photo(tmp_path / "photos" / f"{n}.png", line.part()) for n in range(5)]

    def judged(resume: bool) -> list[int]:
        sources = open_sources([str(tmp_path / "photos")])
        given = {"source": [{"address": source.name} for source in sources], "events": {"folder": "out"}}
        station = Station(msgspec.convert(given, Config), tmp_path, JUDGE, sources, health.untold, resume)
        verdicts, _ = line.run(sources, sinks=[station.sink], done=station.done)  # type: ignore[arg-type]
        return [verdict.seq for verdict in verdicts]

    assert judged(resume=True) == [0, 1, 2, 3, 4]
    assert judged(resume=True) == []
    line.write_photo(tmp_path / "photos" / "5.png", line.part())
    assert judged(resume=True) == [5]
    assert judged(resume=False) == [0, 1, 2, 3, 4, 5]
    photos[2].write_bytes(b"another")
    assert judged(resume=True) == [6]


def test_resume_wants_an_out(plant: Factory, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["watch", str(plant.photos), "--engine", str(plant.engine), "--resume"]) == 2
    assert "--out DIR" in capfd.readouterr().err


@pytest.mark.parametrize("signals", [1, 2], ids=["drains", "now"])
def test_signals_end_a_watch_with_its_processes(signals: int, plant: Factory, tmp_path: Path) -> None:
    frames = [frame for frame in tiny.normal_frames(40, seed=3) for _ in range(50)]
    line.write_video(tmp_path / "a.avi", frames, "MJPG")
    # a camera that is not there, too: its process is in the middle of trying
    words = ("watch", "a.avi", "rtsp://127.0.0.1:9/x", "--engine", str(plant.engine), "--json")
    with started(tmp_path, *words) as process:
        assert process.stdout is not None
        process.stdout.readline()
        below = children(process.pid)
        assert len(below) >= 2
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
        took = time.monotonic() - began
    # a second one may come when all is done and the interpreter itself is ending
    codes = (0,) if signals == 1 else (130, 0, -signal.SIGTERM)
    assert process.returncode in codes and took < 5, (process.returncode, err)
    until(lambda: not any(map(running, below)), 5)


def test_a_followed_folder_forgets_files_that_are_gone(tmp_path: Path) -> None:
    for n in range(3):
        line.write_photo(tmp_path / f"{n}.png", line.part())
    source = open_source(str(tmp_path), follow=True, options=SourceOptions(poll=0.02, settle=0.05))
    assert isinstance(source, Photos)
    frames = source.frames()
    marks = [captured.mark for captured in (next(frames), next(frames)) if captured.mark]
    frames.close()
    again = open_source(str(tmp_path), follow=True, options=SourceOptions(poll=0.02, settle=0.05))
    assert isinstance(again, Photos)
    gone: list[str] = []
    (tmp_path / "0.png").unlink()
    line.write_photo(tmp_path / "1.png", line.part(99, size=72))  # another photo under an old name
    again.resume(marks, 7, gone.extend)
    frames = again.frames()
    rest = [next(frames), next(frames)]
    frames.close()
    assert gone == [str(tmp_path / "0.png")]
    assert {captured.path.name for captured in rest if captured.path} == {"1.png", "2.png"}
    assert [captured.seq for captured in rest] == [7, 8]


def test_a_photo_that_changed_is_judged_again_and_another_video_from_its_start(tmp_path: Path) -> None:
    path = line.write_video(tmp_path / "a.avi", [line.part(n) for n in range(10)], "MJPG")
    source = open_source(str(path))
    marks = [captured.mark for captured in source.frames() if captured.mark]
    assert [mark.frames for mark in marks] == list(range(1, 11))
    same, other = open_source(str(path)), marks[4]
    same.resume([other], 5, print)  # type: ignore[attr-defined]
    assert [captured.seq for captured in same.frames()] == [5, 6, 7, 8, 9]
    whole = open_source(str(path))
    whole.resume([marks[9]], 10, print)  # type: ignore[attr-defined]
    assert list(whole.frames()) == []
    changed = open_source(str(path))
    changed.resume([msgspec.structs.replace(other, changed=1)], 5, print)  # type: ignore[attr-defined]
    # all of it, under numbers of its own: lines of the one before must not be taken for these
    assert [captured.seq for captured in changed.frames()] == list(range(5, 15))


def test_lines_that_stand_there_are_not_written_again_and_a_torn_one_is_ended(tmp_path: Path) -> None:
    def verdict(seq: int) -> Verdict:
        return Verdict("a", seq, 0.0, State.NORMAL, 0.1, 0.5, path=f"{seq}.png")

    lines, table = tmp_path / "v.jsonl", tmp_path / "v.csv"
    for sink in (JsonLines(lines), CsvTable(table)):
        for seq in range(3):
            sink(verdict(seq), None, None)
        sink.close()
    lines.write_bytes(lines.read_bytes() + b'{"source":"a","se')
    shutil.copy(lines, tmp_path / "copy.jsonl")
    for path, sink in ((lines, JsonLines(lines, last_lines(lines))), (table, CsvTable(table, last_lines(table)))):
        for seq in (1, 2, 3, 3):
            sink(verdict(seq), None, None)
        sink.close()
        assert last_lines(path) == {("a", seq, f"{seq}.png") for seq in range(4)}
    assert lines.read_text().splitlines()[3] == '{"source":"a","se'
    assert [json.loads(row)["seq"] for row in lines.read_text().splitlines()[4:]] == [3, 3]
    assert len(table.read_text().splitlines()) == 6


def test_a_line_that_was_damaged_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_bytes(b'{"source":"a","seq":1}\n{"source":"\xe1","seq":2}\n{"source":"a","seq":3}\n')
    assert last_lines(path) == {("a", 1, ""), ("a", 3, "")}
