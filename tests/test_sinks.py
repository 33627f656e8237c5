"""A sink that fails is counted and told of once; verdict lines are whole; nothing stops the scoring."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import line
import numpy as np
import pytest
from line import Memory, run

from mtkd_edge.device import sinks
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Event
from mtkd_edge.device.overlay_folder import OverlayFolder, file_name, source_folder
from mtkd_edge.device.sinks import Background, CsvTable, Guard, JsonLines
from mtkd_edge.device.sources import open_source
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.verdict import Region, State, Verdict

VERDICT = Verdict(
    "camera", 7, 1.8e9, State.ANOMALOUS, 0.75, 0.5, (Region((1, 2, 3, 4), 12, 0.9, (2, 3)),), {"total": 9}
)


def test_every_verdict_is_one_json_object_a_line_with_the_keys_users_rely_on() -> None:
    out = io.BytesIO()
    run([Memory("folder", [line.part(), line.part(defect=True), None])], sinks=[JsonLines(out)])
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    assert [row["state"] for row in rows] == ["normal", "anomalous", "invalid"]
    keys = "source seq captured state score threshold regions latency_ms reason path"
    assert all(list(row) == keys.split() for row in rows)
    assert list(rows[1]["regions"][0]) == ["box", "area", "peak", "peak_at"]
    assert rows[2]["score"] is None


def test_lines_are_on_disk_at_once_and_added_to_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "verdicts.jsonl"
    for _ in range(2):
        sink = JsonLines(path)
        sink(VERDICT, None, None)
        assert path.read_bytes().endswith(b"\n")
        sink.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_line_that_was_cut_off_does_not_spoil_the_next() -> None:
    class Full(io.RawIOBase):
        """A disk with room for a few bytes, later for all."""

        def __init__(self) -> None:
            self.data, self.room = b"", 20

        def write(self, data: bytes) -> int:  # type: ignore[override]
            written = data[: self.room]
            self.data += written
            return len(written)

    disk = Full()
    sink = JsonLines(disk)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="only 20 of"):
        sink(VERDICT, None, None)
    disk.room = 10_000
    sink(VERDICT, None, None)
    torn, whole = disk.data.splitlines()
    assert len(torn) == 20
    assert json.loads(whole)["seq"] == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_counted_and_told_once_and_scoring_goes_on() -> None:
    events: list[Event] = []
    verdicts, summary = run([Memory("folder", [line.part()] * 50)], sinks=[JsonLines(Path("/dev/full"))], events=events)
    assert len(verdicts) == 50
    assert summary.sinks[1].lost == {"OSError: No space left on device": 50}
    assert [event.subject for event in events if event.what == "failing"] == ["/dev/full"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_table_begins_on_a_full_disk_and_has_its_head_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    path.symlink_to("/dev/full")
    table = CsvTable(path)
    with pytest.raises(OSError, match="No space left"):
        table(VERDICT, None, None)
    table._out.close()
    table._out = (tmp_path / "room.csv").open("wb", buffering=0)
    table(VERDICT, None, None)
    table.close()
    rows = (tmp_path / "room.csv").read_text().split()
    assert [row.partition(",")[0] for row in rows][-2:] == ["source", VERDICT.source]


def test_a_reader_that_goes_away_does_not_stop_the_watch() -> None:
    """`mtkd-edge watch ... | head -1`: the rest is counted."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as out:
        _, summary = run([Memory("folder", [line.part()] * 5)], sinks=[JsonLines(out)])  # type: ignore[arg-type]
    assert summary.sinks[1].lost == {"BrokenPipeError: Broken pipe": 5}


def test_any_callable_is_a_sink_and_may_fail_in_any_way() -> None:
    events: list[Event] = []
    given: list[tuple[Verdict, object, object]] = []

    def mine(verdict: Verdict, photo: object, values: object) -> None:
        given.append((verdict, photo, values))
        raise (ValueError if verdict.seq % 2 else KeyError)(f"verdict {verdict.seq}")

    verdicts, summary = run([Memory("folder", [line.part(), None] * 10)], sinks=[mine], events=events)
    assert len(verdicts) == len(given) == 20
    assert summary.sinks[1] == sinks.SinkReport("mine", 0, {"KeyError": 10, "ValueError": 10})
    assert [event.reason for event in events if event.what == "failing"] == ["'verdict 0'", "verdict 1"]
    assert isinstance(given[0][1], np.ndarray) and isinstance(given[0][2], np.ndarray)
    assert given[1][1:] == (None, None)


def test_a_failure_while_closing_is_counted_too() -> None:
    class Sink:
        name = "plc"

        def __call__(self, verdict: Verdict, photo: object, values: object) -> None:
            pass

        def close(self) -> None:
            raise BundleError("cannot") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guard = Guard(Sink())
    guard(VERDICT, None, None)
    guard.close()
    assert guard.report() == sinks.SinkReport("plc", 1, {"OSError: No space left on device": 1})


class Slow:
    """A sink that waits for `go` before its first verdict."""

    slow = True
    name = "slow"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.got: list[int] = []

    def __call__(self, verdict: Verdict, photo: object, values: object) -> None:
        self.go.wait(5)
        self.got.append(verdict.seq)


def test_a_slow_sink_holds_up_files_and_loses_nothing() -> None:
    sink = Slow()
    threading.Timer(0.3, sink.go.set).start()
    _, summary = run([Memory("folder", [line.part()] * 200)], sinks=[sink])
    assert sink.got == list(range(200))
    assert summary.sinks[1] == sinks.SinkReport("slow", 200, {})


def test_a_slow_sink_never_holds_up_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "PATIENCE", 0.2)
    sink = Slow()
    verdicts, summary = run([Memory("camera", [line.part()] * 60, live=True, period=0.005)], FakeEngine(), sinks=[sink])
    report = summary.sinks[1]
    sink.go.set()
    assert sum(report.lost.values()) + report.delivered == len(verdicts)
    assert report.lost[sinks.SKIPPED] >= len(verdicts) - sinks.ROOM - 2
    assert max(v.latency_ms["total"] for v in verdicts) < 500


def test_a_sink_that_hangs_cannot_keep_the_watch_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "PATIENCE", 0.2)
    sink = Slow()
    background = Background(sink, lossless=False)
    for seq in range(5):
        background(Verdict("a", seq, 0.0, State.NORMAL, 0.1, 0.5), None, None)
    began = time.monotonic()
    background.close()
    assert time.monotonic() - began < 1
    sink.go.set()
    assert sum(background.report().lost.values()) == 5 - background.report().delivered


def test_the_table_is_csv_that_a_spreadsheet_reads(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    nasty = Verdict(
        "a,b", 1, 1.8e9 + 0.9999, State.INVALID, None, 0.5, reason='it said "no"\nand, well, no', path="=1+1"
    )
    for _ in range(2):  # a second run adds rows, not another header
        sink = CsvTable(path)
        sink(VERDICT, None, None)
        sink(nasty, None, None)
        sink.close()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert tuple(rows[0]) == sinks.COLUMNS
    assert rows[0]["captured"] == "2027-01-15T08:00:00.000+00:00"
    assert (rows[0]["state"], rows[0]["score"], rows[0]["regions"], rows[0]["total_ms"]) == (
        "anomalous",
        "0.75",
        "1",
        "9.000",
    )
    assert rows[1]["source"] == "a,b"
    assert rows[1]["reason"] == 'it said "no" and, well, no'
    assert rows[1]["path"] == "'=1+1"
    assert rows[1]["score"] == ""


def test_overlays_of_anomalous_frames_are_written_and_can_be_traced(tmp_path: Path) -> None:
    for n in range(12):
        line.write_photo(tmp_path / "photos" / f"{n:02d}.png", line.part(defect=n % 4 == 0))
    sink = OverlayFolder(tmp_path / "overlays", line.SPEC, line.THRESHOLD)
    source = open_source(str(tmp_path / "photos"))
    verdicts, summary = run([source], sinks=[sink])
    names = sorted(
        path.relative_to(tmp_path / "overlays").as_posix() for path in (tmp_path / "overlays").rglob("*.jpg")
    )
    assert names == [file_name(v) for v in verdicts if v.state is State.ANOMALOUS]
    assert len(names) == 3
    assert "0000004-" in names[1] and "-04-anomalous.jpg" in names[1]
    picture = cv2.imread(str(tmp_path / "overlays" / names[0]))
    assert picture is not None and picture.shape[1] >= 360
    assert summary.sinks[1].lost == {}


def test_all_overlays_show_normal_and_invalid_frames_too(tmp_path: Path) -> None:
    sink = OverlayFolder(tmp_path, line.SPEC, line.THRESHOLD, which="all")
    run([Memory("rtsp://***@cam/1", [line.part(), None, line.part(defect=True)])], sinks=[sink])
    names = sorted(path.name.rpartition("-")[2] for path in tmp_path.rglob("*.jpg"))
    assert names == ["anomalous.jpg", "invalid.jpg", "normal.jpg"]


def test_names_of_overlays_differ_for_sources_that_look_alike_and_stay_inside() -> None:
    names = ["a/b", "a-b", "../../etc", "", "rtsp://***@cam/1", "é" * 300]
    folders = [source_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and not folder.startswith(".") and len(folder) < 80 for folder in folders)
    again = Verdict("camera", 7, 1.8e9 + 1, State.ANOMALOUS, 0.75, 0.5)
    assert file_name(VERDICT) != file_name(again)  # the same number after a restart


def test_an_overlay_folder_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        OverlayFolder(tmp_path / "file" / "overlays", line.SPEC, line.THRESHOLD)
    with pytest.raises(UsageError, match="cannot be written"):
        JsonLines(tmp_path / "file" / "x.jsonl")


def test_overlays_on_a_full_disk_are_counted_and_nothing_half_is_left(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own."""
    script = """
import resource, signal, sys
from pathlib import Path
import line
from mtkd_edge.device.overlay_folder import OverlayFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = OverlayFolder(Path(sys.argv[1]), line.SPEC, line.THRESHOLD, which="all")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
verdicts, summary = line.run([line.Memory("a", [line.part()] * 9)], sinks=[sink])
print(len(verdicts), summary.sinks[1].lost)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        timeout=60,
    )
    assert done.stdout.strip() == "9 {'OSError: File too large': 9}", done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
