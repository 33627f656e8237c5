"""A row that a worn card has spoilt: told of, sent, acknowledged and deleted as any other, and in nobody's way."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
import store
from store import event, fill, recorder, verdict
from test_events import listed
from test_sender import Recording
from test_webhook import station

from mtkd_edge.cli import app
from mtkd_edge.device.events import clock as clocks
from mtkd_edge.device.events.acknowledge import acknowledge
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.database import FILE, Database
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.events.retention import DAY, Limits

ID = "01KAVQ6F7D3B1Y0X8M2T5N9CRE"
DAMAGED = "this event was damaged on the disk"


def spoil(root: Path, id_: str, body: bytes) -> None:
    connection = sqlite3.connect(root / FILE)
    connection.execute("update event set body=? where id=?", (body, id_))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff" * 40, b'{"id":"\xff"}', b"[" * 100_000, b'{"id":"x"}'],
    ids=["nothing", "noise", "no text", "deep", "half"],
)
def test_one_damaged_event_hides_no_other(body: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 3)
    before = listed(tmp_path)
    spoil(tmp_path, before[1].id, body)
    found = listed(tmp_path)
    assert [e.id for e in found] == [e.id for e in before] and [found[0], found[2]] == [before[0], before[2]]
    spoilt = found[1]
    assert spoilt.reason.startswith(DAMAGED) and (spoilt.image, spoilt.heat) == ("", "")
    assert (spoilt.kind, spoilt.source, spoilt.state, spoilt.wall) == (
        before[1].kind, before[1].source, before[1].state, before[1].wall,
    )  # fmt: skip
    capfd.readouterr()
    assert app.run(["events", "list", str(tmp_path), "--json"]) == 0
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [DAMAGED in row["reason"] for row in said] == [False, True, False]


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "pictures/../../a.jpg", "pictures/01/x.png", "a"])
def test_an_event_of_a_strange_store_names_no_other_file(image: str, tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.transaction():
        database.add([event(ID, image=image)])
    found = database.get(ID)
    database.close()
    assert found.image == "" and image in found.reason and "no picture of a store" in found.reason


def test_a_row_that_holds_another_event_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    first, second = listed(tmp_path)
    spoil(tmp_path, second.id, msgspec.json.encode(first))
    assert f"it calls itself '{first.id}'" in listed(tmp_path)[1].reason


def test_its_pictures_stay_at_a_start_and_go_with_it(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    first, second = listed(tmp_path)
    spoil(tmp_path, first.id, b"?")
    recorder(tmp_path).close()
    assert (tmp_path / first.image).is_file() and (tmp_path / first.heat).is_file()
    keeper = recorder(tmp_path, RecorderOptions(limits=Limits(bytes=second.bytes + 2000)))
    assert keeper._store.prune() == 1
    keeper.close()
    assert [e.id for e in listed(tmp_path)] == [second.id]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("pictures/*/*")}
    assert left == {second.image, second.heat}


def test_an_id_that_is_none_keeps_no_others_beyond_their_time(tmp_path: Path) -> None:
    outside = tmp_path / "kept.jpg"
    outside.touch()
    time_ = store.Clocks()
    root = tmp_path / "events"
    keeper = recorder(root, RecorderOptions(limits=Limits(days=1)), time_.clock())
    keeper(verdict(0), None, None)
    keeper.close()
    database = Database(root)
    with database.transaction():
        database.add([event("../../kept")])
    database.close()
    keeper = recorder(root, RecorderOptions(limits=Limits(days=1)), time_.clock())
    time_.pass_(3 * DAY)
    assert keeper._store.prune() == 2
    keeper.close()
    assert listed(root) == [] and outside.is_file()


def test_sinks_send_it_and_go_on(tmp_path: Path) -> None:
    channel = Recording(shut=True)
    keeper, sender = station(tmp_path, channel)
    for seq in range(1, 4):
        keeper(verdict(seq), None, None)
    keeper.close()
    spoil(tmp_path, listed(tmp_path)[1].id, b"?")
    channel.shut = False
    store.until(lambda: len(channel.got) == 3)
    sender.close()
    assert channel.got == [1, 0, 3], "what its columns do not say is 0"


def test_a_damaged_alarm_can_be_acknowledged(tmp_path: Path) -> None:
    keeper = recorder(tmp_path)
    keeper.offer(Draft(Kind.ALARM, verdict(2), None, None, Clock().stamp(), latched=True))
    keeper.close()
    (alarm,) = listed(tmp_path)
    spoil(tmp_path, alarm.id, b"?")
    answer = acknowledge(tmp_path, alarm.id, "anna", Clock())
    assert (answer.about, answer.source) == (alarm.id, alarm.source)
    assert listed(tmp_path, open=True) == []


def scribble(root: Path, column: str, id_: str) -> None:
    """One letter of a column becomes none of any text, as a worn card leaves it."""
    connection = sqlite3.connect(root / FILE)
    connection.text_factory = bytes
    (text,) = connection.execute(f"select {column} from event where id=?", (id_,)).fetchone()
    damaged = b"\xff" + text[1:]
    connection.execute(f"update event set {column}=cast(? as text) where id=?", (damaged, id_))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("column", ["id", "source", "kind", "state", "about"])
def test_a_letter_that_is_none_hides_no_event_and_stops_no_sink(
    column: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    channel = Recording(shut=True)
    keeper, sender = station(tmp_path, channel)
    for seq in range(1, 5):
        keeper(verdict(seq), None, None)
    keeper.close()
    scribble(tmp_path, column, listed(tmp_path)[1].id)
    channel.shut = False
    store.until(lambda: 4 in channel.got)
    store.until(lambda: sender.waiting() == 0)
    sender.close()
    # an id that is none may sort behind all that will ever come, and is not waited for
    assert channel.got == ([1, 3, 4] if column == "id" else [1, 2, 3, 4])
    assert sender.trouble() == ""
    assert len(listed(tmp_path)) == 4
    assert app.run(["events", "list", str(tmp_path), "--json"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 4


def test_an_id_with_a_letter_that_is_none_keeps_no_other_and_is_not_counted_on(tmp_path: Path) -> None:
    time_ = store.Clocks()
    options = RecorderOptions(limits=Limits(days=1), lossless=True)
    keeper = recorder(tmp_path, options, time_.clock())
    for seq in range(3):
        keeper(verdict(seq), None, None)
    keeper.close()
    scribble(tmp_path, "id", listed(tmp_path)[0].id)
    keeper = recorder(tmp_path, options, time_.clock())
    time_.pass_(2 * DAY)
    keeper(verdict(3), None, None)
    store.settle(keeper)
    while keeper._store.prune():
        continue
    keeper.close()
    newest, spoilt = listed(tmp_path)  # it sorts behind all others, and costs nothing but its place
    assert (newest.seq, spoilt.seq) == (3, 0)
    assert clocks.seconds_of(newest.id) == pytest.approx(time_.wall)


def test_a_sink_says_that_the_store_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Recording()
    keeper, sender = station(tmp_path, channel)

    def malformed(*given: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "find", malformed)
        keeper(verdict(1), None, None)
        store.until(lambda: sender.trouble() == "the store cannot be read: database disk image is malformed")
    store.until(lambda: sender.trouble() == "" and channel.got)
    keeper.close()
    sender.close()
    assert channel.got == [1]
