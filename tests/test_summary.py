"""The summary says what happened to every frame, and its percentiles are right whatever the number of frames."""

from __future__ import annotations

from collections import Counter

import line
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from line import Memory, run

from mtkd_edge.device import health, summary
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Condition, Event, Health
from mtkd_edge.verdict import State, Verdict


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_percentiles_are_right_to_two_percent(values: list[float]) -> None:
    tally = summary.Tally()
    for value in values:
        tally.add(Verdict("a", 0, 0.0, State.NORMAL, 0.0, 1.0, (), {"infer": value}), 0.0)
    found = tally.latency()["infer"]
    for share, number in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = np.sort(values)[int(np.ceil(share * len(values))) - 1]
        assert number == pytest.approx(exact, rel=0.011)


def test_a_million_frames_need_no_more_memory_than_their_spread() -> None:
    classes = Counter({summary._class(value): 1 for value in np.geomspace(0.001, 1e6, 100_000)})
    assert len(classes) < 1100


def test_throughput_and_counts_add_up() -> None:
    photos = [line.part(defect=n % 4 == 0) if n % 10 else None for n in range(100)]
    _, found = run([Memory("folder", photos)], FakeEngine(delay=0.002))
    (source,) = found.sources
    assert source.captured == 100 == source.normal + source.anomalous + source.invalid
    assert (source.scored, source.invalid, source.anomalous) == (90, 10, 20)
    assert found.seconds >= 0.18  # 90 frames of 2 ms
    assert 100 / found.seconds <= found.throughput <= 100 / 0.18
    assert msgspec.json.decode(msgspec.json.encode(found), type=summary.Summary) == found


def test_the_text_for_people_names_what_was_lost() -> None:
    def disk(verdict: Verdict, photo: object, values: object) -> None:
        raise OSError(28, "No space left on device")

    _, found = run([Memory("cam", [line.part()] * 20, live=True, period=0.002)], FakeEngine(delay=0.02), sinks=[disk])
    text = summary.text(found)
    assert "cam: 20 frames captured, ended" in text
    assert f"{found.sources[0].dropped['overwritten by a newer frame']} dropped (overwritten by a newer frame)" in text
    assert "lost (OSError: No space left on device)" in text
    assert "p99" in text and "infer" in text


def test_a_watch_without_any_frame_has_a_summary_too() -> None:
    _, found = run([Memory("folder", [])])
    assert (found.throughput, found.latency_ms) == (0.0, {})
    assert summary.text(found) == "folder: 0 frames captured, ended\n  0 normal, 0 anomalous, 0 invalid"


def test_an_outage_lasts_from_the_last_frame_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(health.time, "time", lambda: now[0] + 1e9)
    events: list[Event] = []
    record = Health({"cam": True, "folder": False}, silence=1.0, tell=events.append)
    record.frame("cam")
    record.frame("folder")
    for now[0], act in (
        (100.5, record.check),
        (101.5, record.check),
        (101.6, record.check),
        (102.0, lambda: record.lost("cam", "it stopped sending")),
        (103.0, lambda: record.lost("cam", "no connection")),
        (104.0, lambda: record.lost("cam", "no connection")),
    ):
        act()
    assert [(event.subject, event.what, event.reason) for event in events] == [
        ("cam", "running", ""),
        ("folder", "running", ""),
        ("cam", "stalled", "no frame for 1 s"),
        ("cam", "reconnecting", "it stopped sending"),
        ("cam", "reconnecting", "no connection"),
    ]
    (outage,) = record.record("cam").outages
    assert (outage.began, outage.seconds, outage.over) == (1e9 + 100, 4.0, False)
    now[0] = 106.0
    record.frame("cam")
    found = record.record("cam")
    assert (found.condition, found.outage_count, found.outage_seconds) == (Condition.RUNNING, 1, 6.0)
    assert found.outages[0].over
    record.ended("cam", "")
    record.lost("cam", "late news")
    assert record.record("cam").condition is Condition.ENDED


def test_weeks_of_outages_stay_bounded() -> None:
    record = Health({"cam": True}, silence=1.0)
    for _ in range(health.KEPT + 50):
        record.lost("cam", "it stopped sending")
        record.frame("cam")
    found = record.record("cam")
    assert len(found.outages) == health.KEPT
    assert found.outage_count == health.KEPT + 50
