"""The rules of a line: votes, hysteresis, latch, rate of alarms, and an answer never good without a fresh frame."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge.device.decisions import line
from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.line import Alarm, Answer, Memory, acknowledge, answer, step, tick, valid
from mtkd_edge.device.decisions.rules import FRESH, Rules, settled
from mtkd_edge.errors import UsageError
from mtkd_edge.verdict import State, Verdict, decide

THRESHOLD = 1.0
SCORES = st.one_of(st.none(), st.floats(0, 2))
MOVES = st.lists(st.tuples(SCORES, st.floats(0, 3), st.booleans()), max_size=60)
"""Score (None is invalid), seconds since the frame before, whether somebody acknowledges."""


@st.composite
def some_rules(draw: st.DrawFn) -> Rules:
    of = draw(st.integers(1, 6))
    return Rules(
        votes=draw(st.integers(1, of)),
        of=of,
        release=draw(st.one_of(st.none(), st.floats(0, THRESHOLD))),
        latch=draw(st.booleans()),
        alarm_every=draw(st.sampled_from([0.0, 1.0, 5.0])),
        fresh=draw(st.sampled_from([None, 0.5, 2.0])),
    )


def feed(memory: Memory, rules: Rules, score: float | None, now: float) -> tuple[Memory, Alarm | None]:
    return step(memory, rules, decide(score, THRESHOLD), score, now, now)


@given(st.lists(st.floats(0, 2), max_size=40), some_rules())
def test_bad_is_m_of_the_last_n_votes(scores: list[float], rules: Rules) -> None:
    memory, votes = Memory(), []
    for now, score in enumerate(scores):
        memory, _ = feed(memory, rules, score, float(now))
        held = bool(votes) and votes[-1] and rules.release is not None and score > rules.release
        votes.append(score > THRESHOLD or held)
        assert memory.bad == (sum(votes[-rules.of :]) >= rules.votes)


@given(MOVES, some_rules())
def test_never_good_without_a_fresh_judged_frame_nor_while_latched(
    moves: list[tuple[float | None, float, bool]], rules: Rules
) -> None:
    memory, now, judged, latched = Memory(), 0.0, None, False
    for score, pause, seen in moves:
        now += pause
        memory, _ = tick(memory, rules, now)
        if rules.fresh is not None and (judged is None or now - judged > rules.fresh):
            assert answer(memory, rules, now) is not Answer.GOOD
        if seen:
            memory, latched = acknowledge(memory), False
        was_bad = memory.bad
        memory, _ = feed(memory, rules, score, now)
        judged = now if score is not None else judged
        latched = latched or (rules.latch and memory.bad and not was_bad)
        found = answer(memory, rules, now)
        assert (found is Answer.BAD) == (memory.bad or latched)
        if score is None:
            assert found is not Answer.GOOD and not valid(memory, rules, now)


@given(MOVES, some_rules())
def test_alarms_keep_their_distance_and_none_is_lost_uncounted(
    moves: list[tuple[float | None, float, bool]], rules: Rules
) -> None:
    memory, now, edges, raised = Memory(), 0.0, 0, []
    for score, pause, _ in moves:
        now += pause
        before = memory
        memory, alarm = tick(memory, rules, now)
        edges += memory.silent and not before.silent
        raised += [(now, alarm)] if alarm else []
        before = memory
        memory, alarm = feed(memory, rules, score, now)
        edges += memory.bad and not before.bad
        raised += [(now, alarm)] if alarm else []
        if memory.pending:
            assert memory.bad or memory.latched or memory.silent
    times = [at for at, _ in raised]
    assert all(later - earlier >= rules.alarm_every for earlier, later in itertools.pairwise(times))
    assert edges == sum(1 + alarm.skipped for _, alarm in raised) + memory.skipped + bool(memory.pending)
    if memory.pending:  # something that lasts is told as soon as it may be
        _, alarm = tick(memory, rules, now + rules.alarm_every)
        assert alarm is not None


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30))
def test_without_rules_every_frame_decides_for_itself(scores: list[float]) -> None:
    memory = Memory()
    for now, score in enumerate(scores):
        memory, _ = feed(memory, Rules(), score, float(now))
        assert answer(memory, Rules(), float(now)) is (Answer.BAD if score > THRESHOLD else Answer.GOOD)


def test_two_of_three_frames_raise_one_alarm_with_its_reason() -> None:
    rules, memory, raised = Rules(votes=2, of=3), Memory(), []
    for now, score in enumerate((0.1, 1.5, 0.2, 1.6, 1.7, 0.1, 0.1, 1.5)):
        memory, alarm = feed(memory, rules, score, float(now))
        raised += [(now, alarm)] if alarm else []
    assert raised == [(3, Alarm(Answer.BAD, "2 of the last 3 frames are anomalous", 0))]


def test_hysteresis_keeps_a_score_at_the_threshold_from_flickering() -> None:
    rules, memory, answers = Rules(release=0.8), Memory(), []
    for now, score in enumerate((0.9, 1.1, 0.95, 0.85, 0.8, 0.9)):
        memory, _ = feed(memory, rules, score, float(now))
        answers.append(answer(memory, rules, float(now)).value)
    assert answers == ["good", "bad", "bad", "bad", "good", "good"]


def test_a_latch_holds_until_it_is_acknowledged_and_then_follows_the_votes() -> None:
    rules, memory = Rules(latch=True), Memory()
    memory, _ = feed(memory, rules, 1.5, 0.0)
    assert answer(acknowledge(memory), rules, 0.0) is Answer.BAD, "acknowledged, and still bad"
    memory, _ = feed(memory, rules, 0.1, 1.0)
    assert answer(memory, rules, 1.0) is Answer.BAD
    memory = acknowledge(memory)
    assert answer(memory, rules, 1.0) is Answer.GOOD


def test_silence_is_invalid_at_once_and_told_once() -> None:
    rules, memory = Rules(fresh=2.0), Memory()
    memory, _ = feed(memory, rules, 0.1, 0.0)
    assert answer(memory, rules, 2.0) is Answer.GOOD
    assert answer(memory, rules, 2.001) is Answer.INVALID, "no tick is needed"
    memory, alarm = tick(memory, rules, 2.1)
    assert alarm == Alarm(Answer.INVALID, "no fresh verdict for 2 s", 0)
    assert tick(memory, rules, 60.0)[1] is None
    memory, _ = feed(memory, rules, 0.1, 61.0)
    assert answer(memory, rules, 61.0) is Answer.GOOD and not memory.silent
    assert tick(memory, rules, 64.0)[1] is not None


def test_frames_that_were_captured_long_ago_do_not_make_the_answer_fresh() -> None:
    rules = Rules(fresh=2.0)
    memory, _ = step(Memory(), rules, State.NORMAL, 0.1, captured=0.0, now=5.0)
    assert answer(memory, rules, 5.0) is Answer.INVALID


def test_a_source_that_never_comes_is_invalid_and_told() -> None:
    rules, memory = Rules(fresh=2.0), Memory(since=100.0)
    assert answer(memory, rules, 100.0) is Answer.INVALID
    assert tick(memory, rules, 100.0 + line.START)[1] is None
    assert tick(memory, rules, 100.1 + line.START)[1] is not None


@pytest.mark.parametrize(
    "wrong",
    [{"votes": 0}, {"votes": 3, "of": 2}, {"alarm_every": -1}, {"fresh": 0}, {"release": float("nan")}, {"vote": 1}],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        msgspec.convert(wrong, Rules)


def test_a_release_above_the_threshold_is_refused() -> None:
    settled(Rules(release=1.0), True, THRESHOLD)
    with pytest.raises(UsageError, match=r"release is 1\.1, above the threshold 1"):
        settled(Rules(release=1.1), True, THRESHOLD)


def test_an_answer_ages_unless_it_is_a_folders_and_nothing_else_was_asked_for() -> None:
    assert settled(Rules(), True, THRESHOLD).fresh == FRESH
    assert settled(Rules(), False, THRESHOLD).fresh is None
    assert settled(Rules(fresh=30.0), False, THRESHOLD).fresh == settled(Rules(fresh=30.0), True, THRESHOLD).fresh == 30


def test_the_board_answers_for_every_line_by_its_own_rules_and_remembers_a_latch() -> None:
    now = [100.0]
    rules = {"a": Rules(latch=True, fresh=2.0), "b": Rules(votes=2, of=2)}
    board = Board(rules, frozenset({"a"}), lambda: now[0])
    assert [board.status(name).answer for name in board.sources] == [Answer.BAD, Answer.INVALID]
    board.acknowledge("a")
    verdict = Verdict("a", 0, 0.0, State.NORMAL, 0.1, 1.0, latency_ms={"total": 500.0, "decode": 100.0})
    assert board.step(verdict) is None
    status = board.status("a")
    assert (status.answer, status.valid, status.sequence, status.voted) == (Answer.GOOD, True, 1, 1)
    assert status.age == pytest.approx(0.4) and status.last is verdict
    now[0] += 1.7
    assert [(name, alarm.answer) for name, alarm in board.tick()] == [("a", Answer.INVALID)]
    assert board.status("a").valid is False
    with pytest.raises(KeyError):
        board.status("c")
