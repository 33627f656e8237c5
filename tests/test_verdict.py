"""From score to verdict: invalid is never normal."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge.verdict import Region, State, Verdict, decide

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite)
def test_above_the_threshold_is_anomalous_and_at_it_is_normal(score: float, threshold: float) -> None:
    assert decide(score, threshold) is (State.ANOMALOUS if score > threshold else State.NORMAL)
    assert decide(threshold, threshold) is State.NORMAL


@given(finite)
@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_a_score_that_is_missing_or_not_finite_is_invalid(score: float | None, threshold: float) -> None:
    assert decide(score, threshold) is State.INVALID


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_without_a_finite_threshold_there_is_no_verdict(threshold: float) -> None:
    for score in (1.0, None, math.nan):
        with pytest.raises(ValueError, match="threshold must be finite"):
            decide(score, threshold)


def test_a_verdict_is_one_json_object_with_the_keys_users_rely_on() -> None:
    region = Region((10, 20, 30, 40), 900, 3.5, (25, 33))
    verdict = Verdict("line.mp4", 7, 1700000000.5, State.ANOMALOUS, 2.0, 1.5, (region,), {"total": 8.0})
    line = msgspec.json.encode(verdict)
    assert b"\n" not in line
    keys = {"source", "seq", "captured", "state", "score", "threshold", "regions", "latency_ms"}
    assert keys <= set(msgspec.json.decode(line))
    assert msgspec.json.decode(line)["state"] == "anomalous"
    assert msgspec.json.decode(line, type=Verdict) == verdict


def test_a_verdict_with_an_unknown_key_or_state_is_not_a_verdict() -> None:
    plain = msgspec.to_builtins(Verdict("a", 0, 0.0, State.INVALID, None, 1.0, reason="unreadable"))
    for change in ({"sate": "normal"}, {"state": "fine"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**plain, **change}, Verdict)
