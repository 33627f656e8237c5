"""A station as a whole: rules, events and ways out beside a real watch; silence, acknowledgement, an end in order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import line
import msgspec
import pytest
from store import event, fill, until
from test_webhook import Server

from mtkd_edge.device import health
from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.events.acknowledge import acknowledge
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.database import FILE, Database, Filter
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.sources import SourceOptions
from mtkd_edge.device.sources.photos import Photos
from mtkd_edge.device.station.config import Config
from mtkd_edge.device.station.pulse import Pulse, latched, newest
from mtkd_edge.device.station.station import Judge, Station, located, open_all
from mtkd_edge.device.watch import wanted_maps
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.verdict import State

JUDGE = Judge(line.MANIFEST, line.THRESHOLD, "e" * 64)


def station(tmp_path: Path, sources: list[line.Memory], told: list[health.Event] | None = None, **more: Any) -> Station:
    given = {"source": [{"address": source.name} for source in sources], "events": {"folder": "events"}, **more}
    tell = health.untold if told is None else told.append
    return Station(msgspec.convert(given, Config), tmp_path, JUDGE, sources, tell)


def events(tmp_path: Path, **wanted: Any) -> list[Event]:
    database = Database(tmp_path / "events", readonly=True)
    try:
        return database.find(Filter(newest=False, limit=10_000, **wanted))
    finally:
        database.close()


def test_two_of_three_frames_make_one_latched_alarm_with_picture_and_millimetres(tmp_path: Path) -> None:
    bad, good = line.part(defect=True), line.part()
    source = line.Memory("folder", [good, bad, good, bad, bad, good, None])
    wanted = {"address": "folder", "rules": {"votes": 2, "of": 3, "latch": True}, "focus": {"mm_per_pixel": 0.5}}
    running = station(tmp_path, [source], source=[wanted])
    line.run([source], sinks=[running.sink])
    found = events(tmp_path)
    assert [(event.kind.value, event.seq) for event in found] == [
        ("verdict", 1),
        ("alarm", 3),
        ("verdict", 4),
        ("verdict", 6),
    ]
    alarm = found[1]
    assert (alarm.reason, alarm.latched) == ("2 of the last 3 frames are anomalous", True)
    assert alarm.image and alarm.heat and alarm.mm[0][:4] == tuple(side / 2 for side in alarm.regions[0].box)
    assert running.board.status("folder").answer is Answer.BAD


def test_a_focus_is_part_of_the_watch(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True)])
    running = station(tmp_path, [source], source=[{"address": "folder", "focus": {"look": [[0, 0, 0.5, 1]]}}])
    verdicts, _ = line.run([source], sinks=[running.sink], focus=running.focus)  # type: ignore[arg-type]
    assert verdicts[0].state is State.NORMAL and events(tmp_path) == []


def test_a_camera_that_falls_silent_is_an_alarm_within_the_time_set(tmp_path: Path) -> None:
    class Pausing(line.Memory):
        def frames(self, lost: Any = None) -> Any:
            yield from super().frames()
            self._closed.wait(5)

    photo = line.part()[:-8]
    source, stop = Pausing("camera", [photo] * 5, live=True, period=0.01), threading.Event()
    running = station(tmp_path, [source], rules={"fresh": 0.3})
    thread = threading.Thread(target=line.run, args=([source], None, stop, [running.sink]))
    thread.start()
    until(lambda: running.board.status("camera").answer is Answer.GOOD)
    began = time.monotonic()
    until(lambda: running.board.status("camera").answer is Answer.INVALID)
    until(lambda: events(tmp_path, kind="alarm"))
    assert time.monotonic() - began < 1.5
    stop.set()
    thread.join(5)
    (alarm,) = events(tmp_path)
    assert (alarm.state, alarm.reason, alarm.score) == ("invalid", "no fresh verdict for 0.3 s", None)
    assert alarm.frame == (photo.shape[1], photo.shape[0]), "that of the last frame, which has gone"


def test_a_latch_outlives_the_process_and_opens_when_acknowledged_from_outside(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True), line.part(), line.part(defect=True), line.part()])
    running = station(tmp_path, [source], rules={"latch": True})
    line.run([source], sinks=[running.sink])
    first, second = events(tmp_path, open=True)
    again = station(tmp_path, [line.Memory("folder", [])], rules={"latch": True})
    try:
        again.board.step(line.run([line.Memory("folder", [line.part()])])[0][0])
        assert again.board.status("folder").answer is Answer.BAD, "nobody has seen it yet"
        acknowledge(tmp_path / "events", first.id, "Ada", Clock())
        time.sleep(0.8)
        assert again.board.status("folder").latched, "the later one still waits"
        acknowledge(tmp_path / "events", second.id, "Ada", Clock())
        until(lambda: again.board.status("folder").answer is Answer.GOOD, 3)
    finally:
        again.close()


def test_a_latch_is_remembered_whatever_has_happened_on_other_lines_since(tmp_path: Path) -> None:
    fill(tmp_path / "events", 0)
    database = Database(tmp_path / "events")
    alarms = [event(f"{n:026}", kind=Kind.ALARM, source="top" if n else "bottom", latched=True) for n in range(1500)]
    with database.transaction():
        database.add(alarms)
    database.close()
    assert latched(tmp_path / "events") == {"top", "bottom"}
    acknowledge(tmp_path / "events", alarms[-1].id, "Ada", Clock())
    assert latched(tmp_path / "events") == {"bottom"}


def test_an_acknowledgement_given_while_the_station_starts_is_heard(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True), line.part()])
    line.run([source], sinks=[station(tmp_path, [source], rules={"latch": True}).sink])
    seen = newest(tmp_path / "events")
    board = Board({"folder": Rules(latch=True)}, latched(tmp_path / "events"))
    acknowledge(tmp_path / "events", events(tmp_path, open=True)[0].id, "Ada", Clock())
    assert board.status("folder").latched
    pulse = Pulse(board, lambda source, alarm: None, (), tmp_path / "events", seen)
    until(lambda: not board.status("folder").latched)
    pulse.close()


def test_a_disk_that_hangs_does_not_stop_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, asked, beats = threading.Event(), threading.Event(), []

    def hangs(root: Path) -> bool:
        asked.set()
        return go.wait(20)

    monkeypatch.setattr("mtkd_edge.device.station.pulse.exists", hangs)
    pulse = Pulse(Board({"a": Rules()}), lambda *words: None, (lambda statuses: beats.append(1),), tmp_path)
    assert asked.wait(5)
    so_far = len(beats)
    until(lambda: len(beats) > so_far + 5)
    go.set()
    pulse.close()


def test_acknowledging_an_alarm_acknowledges_those_before_it(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True), line.part()] * 3)
    running = station(tmp_path, [source], rules={"latch": True})
    line.run([source], sinks=[running.sink])
    acknowledge(tmp_path / "events", events(tmp_path, open=True)[1].id, "Ada", Clock())
    assert [event.seq for event in events(tmp_path, open=True)] == [4]


def test_an_alarm_raised_after_the_acknowledgement_keeps_the_latch(tmp_path: Path) -> None:
    running = station(tmp_path, [line.Memory("folder", [])], rules={"latch": True})
    try:
        bad = line.run([line.Memory("folder", [line.part(defect=True)])])[0][0]
        seen = time.monotonic()
        time.sleep(0.01)
        assert running.board.step(bad) is not None
        running.board.acknowledge("folder", seen)
        assert running.board.status("folder").latched
        running.board.acknowledge("folder", time.monotonic())
        assert not running.board.status("folder").latched
    finally:
        running.close()


def test_events_leave_by_every_way_and_what_is_lost_is_reported(tmp_path: Path) -> None:
    server, told = Server(), []
    server.reply = lambda number: (422, {}) if number == 0 else (200, {})
    source = line.Memory("folder", [line.part(defect=True)] * 3)
    hooks = [{"name": "mes", "url": server.url}, {"name": "calls", "url": server.url, "what": "alarms"}]
    running = station(tmp_path, [source], told, webhook=hooks)
    summary = line.run([source], sinks=[running.sink])[1]
    server.stop()
    report = next(sink for sink in summary.sinks if sink.name == "events")
    assert sum(report.lost.values()) == 1 and next(iter(report.lost)).endswith("refused: HTTP 422")
    assert len(server.got) == 3, "three events to one and the alarm, which is the first, to the other; one was refused"


def test_it_ends_in_time_although_nothing_gets_through(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True)] * 20)
    running = station(tmp_path, [source], webhook=[{"url": "http://127.0.0.1:9/"}])
    line.run([source])
    for verdict in line.run([line.Memory("folder", [line.part(defect=True)] * 20)])[0]:
        running.sink(verdict, None, None)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 3.5
    assert len(events(tmp_path)) == 20


def test_an_output_that_fails_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    told: list[health.Event] = []
    heard: list[int] = []

    def broken(statuses: object) -> None:
        raise ZeroDivisionError("no")

    def alarm(source: str, alarm: object) -> None:
        raise KeyError(source)

    now = [0.0]
    board = Board({"a": Rules(fresh=2.0)}, monotonic=lambda: now[0])
    now[0] = 60.0  # nothing has come for a minute: that is an alarm
    pulse = Pulse(board, alarm, (broken, lambda statuses: heard.append(1)), None, tell=told.append)
    until(lambda: len(heard) > 5)
    pulse.close()
    assert [(event.subject, event.reason) for event in told] == [
        ("alarms", "KeyError: 'a'"),
        ("function", "ZeroDivisionError: no"),
    ]
    assert pulse.failures["function"] >= 5


def test_the_rules_must_fit_the_threshold_and_nothing_runs_where_they_do_not(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(UsageError, match=r"release is 0\.6"):
        station(tmp_path, [line.Memory("a", [])], rules={"release": 0.6})
    with pytest.raises(UsageError, match="NOBODY"):
        station(tmp_path, [line.Memory("a", [])], webhook=[{"url_env": "NOBODY_SET_THIS"}])
    until(lambda: threading.active_count() <= threads, 3)
    station(tmp_path, [line.Memory("a", [])], rules=msgspec.to_builtins(Rules(release=0.4))).close()


def test_sources_are_named_and_found_beside_the_file(tmp_path: Path) -> None:
    line.write_photo(tmp_path / "photos" / "a.png", line.part())
    wanted = {"source": [{"address": "photos", "name": "top"}, {"address": str(tmp_path / "photos")}]}
    sources = open_all(msgspec.convert(wanted, Config), tmp_path)
    assert [source.name for source in sources] == ["top", str(tmp_path / "photos")]
    with pytest.raises(UsageError, match="names that differ"):
        open_all(msgspec.convert({"source": [{"address": "photos", "name": "a"}] * 2}, Config), tmp_path)
    elsewhere = ["0", "rtsp://c/1", "/dev/video0", "gst:nvarguscamerasrc ! nvvidconv"]
    assert [located(address, Path("/etc")) for address in elsewhere] == elsewhere
    assert located("in/*.png", Path("/etc")) == "/etc/in/*.png"


def test_only_lines_with_triggers_want_the_maps_of_all_frames(tmp_path: Path) -> None:
    source = line.Memory("folder", [])
    plain = station(tmp_path, [source])
    plain.close()
    assert wanted_maps(line.THRESHOLD, [plain.sink], {}) is not None
    triggered = station(tmp_path, [source], source=[{"address": "folder", "trigger": {}}])
    triggered.close()
    assert wanted_maps(line.THRESHOLD, [triggered.sink], {}) is None


def test_a_store_that_makes_no_sense_stops_no_watch_but_one_whose_latches_it_knows(tmp_path: Path) -> None:
    fill(tmp_path / "events", 3)
    (tmp_path / "events" / FILE).write_bytes(b"noise" * 5000)
    camera = line.Memory("cam", [line.part(defect=True)] * 3, live=True)
    running = station(tmp_path, [camera])
    verdicts, _ = line.run([camera], sinks=[running.sink])
    assert verdicts
    assert "not a database" in (running.recorder.failing if running.recorder else "")
    with pytest.raises(DataError, match="nobody knows which lines are latched"):
        station(tmp_path, [camera], source=[{"address": "cam", "rules": {"latch": True}}])
    with pytest.raises(DataError, match="nobody knows how far"):
        station(tmp_path, [Photos("p", list, SourceOptions())])  # type: ignore[list-item]
