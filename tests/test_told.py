"""A camera that flaps for weeks must not fill the disk with its log."""

from __future__ import annotations

import errno
import json
import time

from store import until

from mtkd_edge.cli.told import LINES, Told
from mtkd_edge.device.health import Event


def event(reason: str, subject: str = "cam", what: str = "reconnecting") -> Event:
    return Event(subject, what, reason, 1.8e9)


def test_a_line_is_told_once_and_then_how_often_it_came_again() -> None:
    said: list[str] = []
    with Told(as_json=False, note=said.append, pause=0.4) as told:
        for number in range(50):
            told(event(f"no frame for {number} s"))
            told(event("", what="running"))
        assert said == ["cam: reconnecting: no frame for 0 s", "cam: running"]
        until(lambda: len(said) == 4, 5)
        assert said[2:] == ["cam: reconnecting: no frame for 49 s (49 times more)", "cam: running (49 times more)"]
        told(event("no frame for 3 s"))
        time.sleep(0.2)
        assert len(said) == 4, "the pause has doubled"
    assert said[4] == "cam: reconnecting: no frame for 3 s (1 time more)", "what was counted is told at the end"


def test_other_lines_are_told_at_once_and_one_that_comes_late_again() -> None:
    said: list[str] = []
    with Told(as_json=False, note=said.append, pause=0.1) as told:
        told(event("it stopped sending"))
        told(event("it stopped sending", subject="cam 2"))
        told(event("no connection"))
        time.sleep(0.3)
        told(event("it stopped sending"))
    assert len(said) == 4


def test_what_is_remembered_is_bounded_and_nothing_counted_is_lost() -> None:
    said: list[str] = []
    with Told(as_json=False, note=said.append, pause=60) as told:
        told(event("first"))
        told(event("first"))
        for number in range(3 * LINES):
            told(event("", subject=f"source {number}"))
        assert len(told._lines) == LINES
        assert "cam: reconnecting: first (1 time more)" in said


def test_as_json_each_line_is_an_object() -> None:
    said: list[str] = []
    with Told(as_json=True, note=said.append, pause=60) as told:
        told(event("no connection"))
        told(event("no connection"))
    one, more = map(json.loads, said)
    assert one == {"subject": "cam", "what": "reconnecting", "reason": "no connection", "at": 1.8e9}
    assert more == {**one, "more": 1}


def test_every_repetition_is_told_however_the_pauses_fall() -> None:
    said: list[str] = []
    with Told(as_json=True, note=said.append, pause=0.1) as told:
        for _ in range(300):
            told(event("it stopped sending"))
            time.sleep(0.003)
    assert sum(json.loads(line).get("more", 1) for line in said) == 300
    assert len(said) < 12, "the pauses have grown"


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Told(as_json=False, note=full, pause=0.05) as told:
        for _ in range(10):
            told(event("it stopped sending"))
            time.sleep(0.02)
        assert told._thread.is_alive()
