"""Events: in order whatever the clock does, with pictures on the disk before their rows, and never too many of them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import cv2
import line
import numpy as np
import pytest
import store
from hypothesis import given
from hypothesis import strategies as st
from store import Clocks, fill, recorder, settle, verdict

from mtkd_edge.device.events import clock as clocks
from mtkd_edge.device.events.clock import TRUST, Ids, decode, encode, seconds_of
from mtkd_edge.device.events.database import Database, Filter
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.events.recorder import EventStoreBehind, RecorderOptions
from mtkd_edge.device.events.retention import DAY, Limits
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.threshold import seal
from mtkd_edge.verdict import State, Verdict


def listed(root: Path, **wanted: object) -> list[Event]:
    database = Database(root, readonly=True)
    try:
        return database.find(Filter(newest=False, limit=10_000, **wanted))  # type: ignore[arg-type]
    finally:
        database.close()


def test_a_watch_keeps_anomalous_and_invalid_frames_with_all_that_proves_them(tmp_path: Path) -> None:
    keeper = recorder(tmp_path / "events", RecorderOptions(lossless=True))
    photos = [line.part(), line.part(defect=True), None, line.part()]
    verdicts, summary = line.run([line.Memory("folder", photos)], sinks=[keeper])
    found = listed(tmp_path / "events")
    assert [(event.seq, event.state) for event in found] == [(1, "anomalous"), (2, "invalid")]
    bad, unreadable = found
    assert (bad.score, bad.threshold, bad.regions) == (verdicts[1].score, 0.5, verdicts[1].regions)
    assert (bad.engine, bad.seal) == ("e" * 64, seal(line.THRESHOLD))
    assert bad.wall == verdicts[1].captured
    assert abs(bad.monotonic - time.monotonic()) < 5 and bad.boot == clocks.boot_id()
    image = cv2.imread(str(tmp_path / "events" / bad.image))
    assert image.shape == (64, 64, 3) and image[20, 44].min() > 200 > 50 > image[40, 10].max()
    heat = cv2.imread(str(tmp_path / "events" / bad.heat), cv2.IMREAD_UNCHANGED)
    # half of full scale is the map threshold, 0.5: the defect's map value, 1, is full scale
    assert (heat.dtype, heat.shape, heat[2, 5]) == (np.uint16, (8, 8), 65535)
    assert heat[0, 0] == round(20 / 255 * 65535)
    assert (unreadable.reason, unreadable.image, unreadable.heat, unreadable.score) == ("unreadable", "", "", None)
    assert summary.sinks[1].lost == {}


def test_all_verdicts_are_kept_where_that_is_asked(tmp_path: Path) -> None:
    keeper = recorder(tmp_path, RecorderOptions(keep="all", lossless=True))
    line.run([line.Memory("folder", [line.part()] * 300)], sinks=[keeper])
    assert [event.seq for event in listed(tmp_path)] == list(range(300))


def test_a_photo_that_cannot_be_coded_keeps_its_event_and_says_why(tmp_path: Path) -> None:
    keeper = recorder(tmp_path)
    keeper(verdict(1, State.INVALID, reason="odd"), np.zeros((4, 4), np.uint8), np.full((8, 8), np.nan, np.float32))
    keeper.close()
    (event,) = listed(tmp_path)
    assert (event.image, event.heat, event.reason) == ("", "", "odd")


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 1e5)), min_size=1, max_size=40))
def test_ids_grow_whatever_the_wall_clock_does(moves: list[tuple[float, float]]) -> None:
    time_ = Clocks()
    ids = Ids(time_.clock())
    found = []
    for step, passed in moves:
        time_.wall += step
        time_.monotonic += passed
        found += [ids.next(), ids.next()]
    assert found == sorted(found) and len(set(found)) == len(found)
    assert all(len(each) == 26 for each in found)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_ids_sort_as_text_like_their_numbers(one: int, other: int) -> None:
    assert decode(encode(one)) == one
    assert (encode(one) < encode(other)) == (one < other)
    with pytest.raises(ValueError, match="26 letters"):
        decode(encode(one)[:-1] + "I")


def test_order_holds_over_clock_steps_and_a_reboot_with_a_dead_clock(tmp_path: Path) -> None:
    time_ = Clocks()
    for boot, step in (("boot-1", 0.0), ("boot-2", -1.7e9), ("boot-3", 0.0)):  # 1973 after a flat battery
        time_.wall += step
        keeper = recorder(tmp_path, RecorderOptions(lossless=True), time_.clock(boot))
        for seq, jump in enumerate((0.0, 7200.0, -86400.0)):
            time_.pass_(1)
            time_.wall += jump
            keeper(verdict(seq), None, None)
            settle(keeper)
        keeper.close()
    found = listed(tmp_path)
    assert [(event.boot, event.seq) for event in found] == [(f"boot-{b}", s) for b in (1, 2, 3) for s in range(3)]
    assert [event.monotonic for event in found] == sorted(event.monotonic for event in found)
    assert min(seconds_of(event.id) for event in found) >= 1.8e9


def test_a_clock_that_was_set_is_believed_after_an_hour() -> None:
    time_ = Clocks()
    clock = time_.clock()
    time_.pass_(TRUST)
    assert clock.settled() and clock.believed() == time_.wall
    time_.wall += 1e8
    assert clock.believed() == time_.wall - 1e8 and not clock.settled() and clock.steps == 1
    time_.pass_(TRUST - 1)
    assert clock.believed() == time_.wall - 1e8
    time_.pass_(1)
    assert clock.believed() == time_.wall and clock.settled()
    for _ in range(1000):  # a clock that is slewed by 10 % is not one that was set
        time_.pass_(1)
        time_.wall += 0.1
        assert clock.settled() and clock.believed() == pytest.approx(time_.wall, abs=2)


def prunes(root: Path, time_: Clocks, limits: Limits, seqs: range) -> list[int]:
    """Sequence numbers that are left after events were added and the limits applied."""
    keeper = recorder(root, RecorderOptions(limits=limits, lossless=True), time_.clock())
    time_.pass_(TRUST)
    for seq in seqs:
        keeper(verdict(seq), line.part(defect=True), store.MAP)
        settle(keeper)
        time_.pass_(60)
    while keeper._store.prune():
        pass
    keeper.close()
    return [event.seq for event in listed(root)]


def test_the_oldest_go_beyond_the_bytes_with_their_pictures(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    size = Database(tmp_path, readonly=True).size().bytes
    left = prunes(tmp_path, Clocks(), Limits(bytes=int(size * 10.5)), range(1, 40))
    assert left == list(range(30, 40))
    pictures = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("pictures/*/*")}
    assert pictures == {name for event in listed(tmp_path) for name in (event.image, event.heat)}
    assert all(any(folder.iterdir()) for folder in tmp_path.glob("pictures/*"))


def test_age_deletes_by_a_clock_that_stands_and_never_by_one_that_was_just_set(tmp_path: Path) -> None:
    time_, limits = Clocks(), Limits(days=30)
    assert prunes(tmp_path, time_, limits, range(3)) == [0, 1, 2]
    keeper = recorder(tmp_path, RecorderOptions(limits=limits), time_.clock())
    time_.pass_(TRUST)
    time_.wall += 100 * 365 * DAY
    assert keeper._store.prune() == 0
    assert len(listed(tmp_path)) == 3, "a jump to the next century deletes nothing"
    time_.wall -= 100 * 365 * DAY
    time_.pass_(29.9 * DAY)
    keeper._store.prune()
    assert len(listed(tmp_path)) == 3
    time_.pass_(0.1 * DAY - TRUST - 3 * 60 + 90)
    keeper._store.prune()
    keeper.close()
    assert [event.seq for event in listed(tmp_path)] == [2]


def test_pictures_without_a_row_go_at_the_next_start_and_others_stay(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    orphan = tmp_path / "pictures" / "01ABCD" / f"01ABCD{'0' * 20}.jpg"
    orphan.parent.mkdir()
    orphan.write_bytes(b"left by a crash")
    recorder(tmp_path).close()
    assert not orphan.exists()
    assert all((tmp_path / name).stat().st_size for e in listed(tmp_path) for name in (e.image, e.heat))


def test_one_watch_at_a_time_writes_a_folder_and_hopeless_places_are_refused(tmp_path: Path) -> None:
    first = recorder(tmp_path / "a")
    with pytest.raises(UsageError, match="another watch"):
        recorder(tmp_path / "a")
    first.close()
    recorder(tmp_path / "a").close()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be kept in"):
        recorder(tmp_path / "file" / "events")
    with pytest.raises(DataError, match="holds no events"):
        Database(tmp_path / "nowhere", readonly=True)
    (tmp_path / "b").mkdir()
    database = Database(tmp_path / "b")
    database._connection.execute("pragma user_version=99")
    database.close()
    with pytest.raises(DataError, match="format 99"):
        Database(tmp_path / "b")


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "events", 1)
    (tmp_path / "events" / "events.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DataError, match="cannot be read"):
        listed(tmp_path / "events")


def test_a_disk_that_hangs_never_holds_up_the_scorer_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, sync, scored = threading.Event(), os.fsync, []
    monkeypatch.setattr("mtkd_edge.device.events.pictures.os.fsync", lambda handle: (go.wait(60), sync(handle)))
    keeper = recorder(tmp_path, RecorderOptions(room=20))

    def count(given: Verdict, photo: object, values: object) -> None:
        scored.append(go.is_set())
        if len(scored) == 190:
            go.set()
        if len(scored) == 200:
            settle(keeper)

    source = line.Memory("folder", [line.part(defect=True)] * 200)
    verdicts, summary = line.run([source], sinks=[keeper, count])
    lost = summary.sinks[1].lost
    assert scored[:190] == [False] * 190, "190 frames were scored while the disk hung"
    assert lost[EventStoreBehind.__name__] >= 190 - 20 - 64 - 1
    assert lost.keys() == {EventStoreBehind.__name__}
    assert len(listed(tmp_path)) == len(verdicts) - sum(lost.values()) >= 20


def test_events_are_grouped_while_the_disk_is_busy(tmp_path: Path) -> None:
    groups: list[int] = []
    keeper = recorder(tmp_path, RecorderOptions(lossless=True), listeners=(lambda e, s: groups.append(len(e)),))
    for seq in range(400):
        keeper(verdict(seq), None, None)
    keeper.close()
    assert sum(groups) == 400 == len(listed(tmp_path))
    assert len(groups) < 200, "one sync to the disk serves many events"
