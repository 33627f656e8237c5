"""`mtkd-edge events`: what a watch has kept, on the command line."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import cv2
import line
import pytest
import store
from store import recorder, verdict

from mtkd_edge.cli import app, events
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.verdict import State


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """Three anomalous frames, an invalid one of another camera, and a latched alarm."""
    keeper = recorder(tmp_path / "shift", RecorderOptions(lossless=True))
    for seq in range(3):
        keeper(verdict(seq), line.part(defect=True), store.MAP)
    keeper(verdict(3, State.INVALID, "=cmd()", reason="torn, quite"), None, None)
    keeper.offer(Draft(Kind.ALARM, verdict(2), None, None, keeper._clock.stamp(), reason="3 of 5", latched=True))
    keeper.close()
    return tmp_path / "shift"


def run(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capfd.readouterr()
    found = app.run(["events", *words])
    out, err = capfd.readouterr()
    assert found == code, err
    return out if code == 0 else err


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in text.splitlines()]


def test_a_list_has_one_line_an_event_newest_first(shift: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = run(capfd, "list", str(shift)).splitlines()
    assert len(lines) == 5
    assert "alarm (latched)" in lines[0] and "3 of 5" in lines[0]
    assert "invalid" in lines[1] and "=cmd() #3" in lines[1] and "torn, quite" in lines[1]
    assert "anomalous" in lines[2] and "0.9 of 0.5" in lines[2] and "1 regions" in lines[2]
    rows = objects(run(capfd, "list", str(shift), "--json", "--limit", "2"))
    assert [row["kind"] for row in rows] == ["alarm", "verdict"]
    assert [row["seq"] for row in objects(run(capfd, "list", str(shift), "--json", "--state", "invalid"))] == [3]
    assert run(capfd, "list", str(shift), "--source", "nobody") == ""
    assert len(run(capfd, "list", str(shift), "--since", "2027-01-15T00:00", "--until", "2027-01-16").splitlines()) == 5
    assert run(capfd, "list", str(shift), "--until", "2h") == ""  # these events are of the year 2027


def test_one_event_is_shown_with_its_pictures_and_how_to_acknowledge_it(
    shift: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alarm, _, bad = objects(run(capfd, "list", str(shift), "--json", "--limit", "3"))
    text = run(capfd, "show", str(shift), bad["id"])
    assert "e" * 64 in text and bad["seal"] in text
    image = next(row.split()[-1] for row in text.splitlines() if row.startswith("image"))
    assert cv2.imread(image).shape == (64, 64, 3)
    assert json.loads(run(capfd, "show", str(shift), bad["id"], "--json")) == bad
    assert f"events acknowledge {shift} {alarm['id']}" in run(capfd, "show", str(shift), alarm["id"])
    assert "no event 0" in run(capfd, "show", str(shift), "0" * 26, code=3)


def test_an_alarm_is_acknowledged_once(shift: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (alarm,) = objects(run(capfd, "list", str(shift), "--open", "--json"))
    written = json.loads(run(capfd, "acknowledge", str(shift), alarm["id"], "--by", "Ada", "--json"))
    assert (written["kind"], written["about"], written["reason"]) == ("acknowledged", alarm["id"], "by Ada")
    assert written["id"] > alarm["id"]
    assert run(capfd, "list", str(shift), "--open") == ""
    assert "acknowledged  yes" in run(capfd, "show", str(shift), alarm["id"])
    assert "waits for no" in run(capfd, "acknowledge", str(shift), alarm["id"], code=2)
    (other,) = objects(run(capfd, "list", str(shift), "--state", "invalid", "--json"))
    assert "waits for no" in run(capfd, "acknowledge", str(shift), other["id"], code=2)


def test_a_table_is_safe_in_a_spreadsheet(shift: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "export", str(shift), "--out", str(tmp_path / "week.csv"))
    with (tmp_path / "week.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seq"] for row in rows] == ["0", "1", "2", "3", "2"], "oldest first"
    assert rows[0]["time"] == "2027-01-15T08:00:00.000+00:00"
    assert (rows[3]["source"], rows[3]["reason"], rows[3]["score"]) == ("'=cmd()", "torn, quite", "")
    assert run(capfd, "export", str(shift)) == (tmp_path / "week.csv").read_text()


def test_lines_and_pictures_are_exported(shift: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(objects(run(capfd, "export", str(shift), "--format", "jsonl"))) == 5
    assert len(objects(run(capfd, "export", str(shift), "--json", "--state", "invalid"))) == 1
    out = tmp_path / "pictures"
    done = json.loads(run(capfd, "export", str(shift), "--format", "images", "--out", str(out), "--json"))
    ids = [row["id"] for row in objects(run(capfd, "list", str(shift), "--json")) if row["image"]]
    assert done["pictures"] == 6
    assert {path.name for path in out.iterdir()} == {f"{each}{end}" for each in ids for end in (".jpg", "-heat.png")}
    (tmp_path / "file").touch()
    run(capfd, "export", str(shift), "--format", "images", "--out", str(tmp_path / "file"), code=3)


@pytest.mark.parametrize(
    ("words", "code"), [(["list", "{}/nowhere"], 3), (["list", "{}/shift", "--since", "soon"], 2), (["fly"], 2)]
)
def test_what_makes_no_sense_is_refused(
    words: list[str], code: int, shift: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "error:" in run(capfd, *(word.format(shift.parent) for word in words), code=code)


def test_times_are_spans_or_dates() -> None:
    assert events.moment("") is None
    assert events.moment("2h") == pytest.approx(time.time() - 7200, abs=2)
    assert events.moment("7d") == pytest.approx(time.time() - 7 * 86400, abs=2)  # whatever the clocks did meanwhile
    assert events.moment("999999d") == pytest.approx(time.time() - 999999 * 86400, abs=2)
    assert events.moment("2026-01-31T08:00+00:00") == 1769846400.0


def test_events_are_frozen_and_strict() -> None:
    event = store.event("0" * 26)
    with pytest.raises(AttributeError):
        event.seq = 1  # type: ignore[misc]
    assert isinstance(event, Event)
