"""One decision a part: each trigger gets exactly one, whatever frames do, and none is good without proof."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import line
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store import until
from test_station import events, station

from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.device.decisions.parts import OUTSIDE, OVERLAP, REFUSED, Parts
from mtkd_edge.device.decisions.window import MOST, NO_FRAME, OWED, Decision, Shot, Trigger
from mtkd_edge.device.events.record import Event
from mtkd_edge.errors import UsageError
from mtkd_edge.verdict import State, Verdict

GOOD, BAD, NONE = State.NORMAL, State.ANOMALOUS, State.INVALID
STATES = {"g": GOOD, "b": BAD, "i": NONE}


class Line:
    """Parts of one line on a clock that the test sets."""

    def __init__(self, **spec: float) -> None:
        self.now, self.decided = 100.0, list[Decision]()
        trigger = Trigger(**{"ms": 100, "late_ms": 50, **spec})  # type: ignore[arg-type]
        self.parts = Parts(
            {"top": trigger}, lambda _, decision: self.decided.append(decision), self._name, lambda: self.now
        )
        self._named = 0

    def _name(self) -> str:
        self._named += 1
        return str(self._named)

    def frame(self, kind: str = "g", age_ms: float = 0.0, score: float | None = None) -> None:
        state = STATES[kind]
        score = {GOOD: 0.1, BAD: 0.9, NONE: None}[state] if score is None else score
        self.parts.frame(Shot(Verdict("top", 0, 0.0, state, score, 0.5, latency_ms={"total": age_ms})))

    def pass_(self, ms: float) -> None:
        self.now += ms / 1e3
        self.parts()

    def states(self) -> list[tuple[str, State]]:
        return [(decision.window.part, decision.state) for decision in self.decided]


@pytest.mark.parametrize(
    ("frames", "spec", "state", "reason"),
    [
        ("", {}, NONE, NO_FRAME),
        ("g", {}, GOOD, ""),
        ("ggbg", {}, BAD, "1 of 4 frames of the part are anomalous"),
        ("gbg", {"votes": 2}, GOOD, "1 of 3 frames of the part are anomalous"),
        ("gbb", {"votes": 2}, BAD, "2 of 3 frames of the part are anomalous"),
        ("gig", {}, NONE, "1 of 3 frames of the part could not be judged"),
        ("gib", {}, BAD, "1 of 2 frames of the part are anomalous"),
        ("i", {}, NONE, "1 of 1 frames of the part could not be judged"),
        ("gg", {"least": 3}, NONE, "2 frames of the part, 3 are wanted"),
        ("gg", {"frames": 3}, NONE, "2 frames of the part, 3 are wanted"),
        ("gg", {"frames": 3, "least": 2}, GOOD, ""),
        ("b", {"frames": 3}, BAD, "1 of 1 frames of the part are anomalous"),
    ],
)
def test_a_part_is_what_its_frames_say_and_never_good_without_them(
    frames: str, spec: dict[str, float], state: State, reason: str
) -> None:
    line = Line(**spec)
    assert line.parts.trigger("top", "4711") == "4711"
    for kind in frames:
        line.pass_(1)
        line.frame(kind)
    line.pass_(149 - len(frames) * 1)
    assert line.decided == [] or line.decided[0].window.frames == spec.get("frames")
    line.pass_(2)
    line.pass_(500)
    assert [(d.window.part, d.state, d.reason) for d in line.decided] == [("4711", state, reason)]


def test_enough_frames_decide_at_once_and_those_behind_belong_to_no_part() -> None:
    line = Line(frames=2)
    line.parts.trigger("top")
    line.frame()
    assert line.decided == []
    line.frame()
    assert line.states() == [("1", GOOD)]
    line.frame("b")
    assert line.states() == [("1", GOOD)] and line.parts.counted["top"][OUTSIDE] == 1


def test_a_frame_counts_by_when_it_was_captured_not_by_when_it_was_judged() -> None:
    line = Line()
    line.frame("b", age_ms=0)
    line.pass_(10)
    line.parts.trigger("top")
    line.pass_(5)
    line.frame("b", age_ms=20)  # seen before the trigger
    line.pass_(115)
    assert line.decided == [], "its frames may still be on their way"
    line.frame("g", age_ms=40)
    line.frame("b", age_ms=10)  # seen behind the window: nothing can come to it any more
    assert line.states() == [("1", GOOD)] and line.parts.counted["top"][OUTSIDE] == 3


def test_the_next_trigger_ends_a_window_and_is_counted() -> None:
    line = Line()
    line.parts.trigger("top", "a")
    line.pass_(10)
    line.frame("b")
    line.pass_(10)
    line.parts.trigger("top", "b")
    line.parts.trigger("top", "c")
    line.pass_(10)
    line.frame("g", age_ms=25)  # captured while a was there
    line.frame("g")
    line.pass_(300)
    assert line.states() == [("a", BAD), ("b", NONE), ("c", GOOD)]
    assert line.decided[1].reason == f"{NO_FRAME}, the next one came before its time was up"
    assert line.parts.counted["top"][OVERLAP] == 2 and line.decided[0].window.judged == 2


def test_a_part_is_not_good_while_a_captured_frame_still_waits_for_its_verdict() -> None:
    line = Line()
    line.parts.attach(lambda source: 2)
    line.parts.trigger("top", "slow")
    line.frame("g")
    line.pass_(151)
    line.parts.trigger("top", "fast")
    line.frame("g")
    line.pass_(151)
    assert [(d.window.part, d.state, d.reason) for d in line.decided] == [("slow", NONE, OWED), ("fast", GOOD, "")]


def test_a_storm_of_triggers_is_bounded_and_every_one_is_decided() -> None:
    line = Line()
    for _ in range(MOST + 10):
        line.parts.trigger("top")
    assert line.parts.waiting("top") == MOST
    line.pass_(500)
    assert Counter(state for _, state in line.states()) == {NONE: MOST + 10}
    assert line.parts.counted["top"][REFUSED] == 10


def test_what_waits_at_the_end_is_decided_with_what_it_has() -> None:
    line = Line()
    line.parts.trigger("top")
    line.frame()
    line.parts.trigger("top")
    line.parts.close()
    line.parts.close()
    assert line.states() == [("1", GOOD), ("2", NONE)]
    with pytest.raises(UsageError, match="the station ends"):
        line.parts.trigger("top")  # it would never be decided


@pytest.mark.parametrize(("source", "part"), [("side", ""), ("top", "x" * 101), ("top", "a\nb"), ("top", "\udcff")])
def test_a_trigger_that_makes_no_sense_is_refused(source: str, part: str) -> None:
    line = Line()
    with pytest.raises(UsageError):
        line.parts.trigger(source, part)
    assert line.parts.waiting("top") == 0


@given(
    st.lists(st.one_of(st.just("t"), st.sampled_from("gbi"), st.integers(0, 150)), max_size=60),
    st.integers(0, 3),
    st.integers(1, 2),
    st.integers(0, 80),
)
def test_every_trigger_has_exactly_one_decision_in_order_and_good_ones_have_proof(
    steps: list[str | int], frames: int, votes: int, age: int
) -> None:
    line = Line(frames=frames, votes=votes if not frames else min(votes, frames))
    triggered = []
    for step in steps:
        if step == "t":
            triggered.append(line.parts.trigger("top"))
        elif isinstance(step, int):
            line.pass_(step)
        else:
            line.frame(str(step), age_ms=age)
    line.pass_(1000)
    assert [part for part, _ in line.states()] == triggered and line.parts.waiting("top") == 0
    for decision in line.decided:
        window = decision.window
        assert decision.state is not GOOD or (window.judged >= max(1, frames) and not window.invalid)
        assert (decision.state is BAD) == (window.bad >= votes)


def decisions(tmp_path: Path) -> list[Event]:
    return [event for event in events(tmp_path) if event.part]


def triggered(**more: object) -> dict[str, object]:
    return {"source": [{"address": "top", "trigger": {"ms": 300, "late_ms": 200}, **more}]}


def test_on_a_station_a_part_is_one_event_and_the_rules_count_parts(tmp_path: Path) -> None:
    """Each trigger ends the part before: no time limit decides here, however slow the machine is."""
    rules, trigger = {"votes": 2, "of": 2, "latch": True}, {"ms": 600_000, "late_ms": 50}
    running = station(tmp_path, [line.Memory("top", [])], **triggered(rules=rules, trigger=trigger))
    try:
        for part, defects in (("a", [False, True]), ("b", [False]), ("c", [True]), ("d", [True, True]), ("e", [])):
            running.parts.trigger("top", part)
            source = line.Memory("top", [line.part(defect=defect) for defect in defects])
            line.run([source], sinks=[lambda *words: running.sink(*words)], attach=running.attach)  # type: ignore[arg-type]
        until(lambda: running.parts.waiting("top") == 1)
        status = running.board.status("top")
        assert (status.parts, status.part, status.latched, status.answer) == (4, "d", True, Answer.BAD)
    finally:
        running.close()
    found = decisions(tmp_path)
    assert [(event.part, event.kind.value, event.state) for event in found] == [
        ("a", "part", "anomalous"),
        ("b", "part", "normal"),
        ("c", "part", "anomalous"),
        ("d", "alarm", "anomalous"),
        ("e", "part", "invalid"),
    ]
    assert [bool(event.image) for event in found] == [True, False, True, True, False]
    assert found[3].latched and found[0].reason == "1 of 2 frames of the part are anomalous"
    assert len(events(tmp_path)) == 5, "frames of a triggered line are no events of their own"


def test_a_pause_between_parts_alarms_nobody_and_a_part_that_was_seen_grows_old(tmp_path: Path) -> None:
    source = line.Memory("top", [], live=True)
    running = station(tmp_path, [source], **triggered(rules={"fresh": 0.3}))
    try:
        running.parts.trigger("top", "a")
        running.sink(Verdict("top", 0, time.time(), GOOD, 0.1, 0.5), None, None)
        until(lambda: running.board.status("top").parts == 1)
        last = running.board.status("top").last
        assert last is not None and last.state is GOOD
        until(lambda: running.board.status("top").answer is Answer.INVALID)
        time.sleep(0.3)
    finally:
        running.close()
    assert [event.kind.value for event in events(tmp_path)] == ["part"]
