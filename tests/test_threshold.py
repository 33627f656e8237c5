"""The threshold: what it promises, that it keeps the promise, and that nobody changes it unnoticed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import factory
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import threshold
from mtkd_edge.cli import app
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.threshold import Threshold

SKEWED = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "heavy tail": lambda rng, size: rng.standard_t(2, size=size),
}


@pytest.mark.parametrize("name", SKEWED)
@pytest.mark.parametrize(("photos", "alpha"), [(39, 0.05), (99, 0.1), (250, 0.01)])
def test_the_false_alarm_rate_is_kept_whatever_the_distribution(name: str, photos: int, alpha: float) -> None:
    """Split conformal: over many calibrations the mean rate lies in (alpha - 1/(n+1), alpha]."""
    rng, trials = np.random.default_rng(1), 4000
    scores = SKEWED[name](rng, (trials, photos))
    following = SKEWED[name](rng, (trials, 50))
    cuts = np.array([threshold.fit(row, row, alpha).score for row in scores])
    rates = (following > cuts[:, None]).mean(1)
    error = rates.std() / math.sqrt(trials)
    assert rates.mean() <= alpha + 3 * error
    assert rates.mean() >= alpha - 1 / (photos + 1) - 3 * error


@given(st.integers(4, 300), st.floats(1e-4, 0.5))
def test_the_conformal_threshold_is_the_kth_smallest_score_and_needs_enough_photos(photos: int, alpha: float) -> None:
    scores = np.random.default_rng(photos).permutation(photos).astype(float)  # 0 ... n-1
    found = threshold.fit(scores, scores * 2, alpha, "engine-a")
    rank = math.ceil((photos + 1) * (1 - alpha) - 1e-9)
    assert (found.method == "conformal") == (rank <= photos)
    assert found.photos == photos
    assert found.engine == "engine-a"
    if found.method == "conformal":
        assert found.score == rank - 1
        assert found.map == 2 * (rank - 1)
        assert found.missing == 0
    else:
        assert found.missing > 0
        assert math.ceil((photos + found.missing + 1) * (1 - alpha) - 1e-9) <= photos + found.missing
        assert math.ceil((photos + found.missing) * (1 - alpha) - 1e-9) > photos + found.missing - 1, "not one too many"


def test_the_smallest_sufficient_number_of_photos_is_1_by_alpha_minus_1() -> None:
    scores = np.arange(19.0)
    enough = threshold.fit(scores, scores, 0.05)
    assert (enough.method, enough.missing, enough.score) == ("conformal", 0, 18.0)
    short = threshold.fit(scores[:18], scores[:18], 0.05)
    assert (short.method, short.missing) == ("tail-fit", 1)
    assert short.score >= 17


def test_a_tail_fit_says_that_it_is_no_guarantee_and_how_many_photos_would_make_it_one() -> None:
    scores = np.random.default_rng(0).exponential(size=100)
    found = threshold.fit(scores, scores, 1e-3)
    assert found.method == "tail-fit"
    assert found.missing == 899
    assert "aims at 0.001 false alarms" in found.describe()
    assert "tail fit on 100 photos; 899 more would make it a guarantee, 100 guarantee 0.01" in found.describe()
    assert "guaranteed by 100 photos" in threshold.fit(scores, scores, 0.05).describe()
    assert Threshold(2.5, 1, "manual", 0.01, 0).describe() == "2.5: set by hand"


def test_a_tail_fit_is_right_for_the_tail_it_assumes() -> None:
    """For exponential scores the rate aimed at is reached on average within a factor of two; one scale changes all."""
    rng = np.random.default_rng(2)
    cuts = [threshold.fit(row, row, 1e-3).score for row in rng.exponential(size=(500, 150))]
    assert 0.5e-3 < np.exp(-np.median(cuts)) < 2e-3
    scores = rng.exponential(size=150)
    one, other = (threshold.fit(scores * factor, scores, 1e-3).score for factor in (1.0, 1e6))
    assert other == pytest.approx(1e6 * one)


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60), st.floats(1e-6, 0.2))
def test_fewer_false_alarms_never_lower_the_threshold(scores: list[float], alpha: float) -> None:
    strict, loose = threshold.fit(scores, scores, alpha / 10), threshold.fit(scores, scores, alpha)
    assert strict.score >= loose.score
    assert math.isfinite(strict.score)
    if loose.method == "tail-fit":
        assert loose.score >= max(scores), "an extrapolation lies beyond what was seen"


def test_a_constant_score_has_itself_as_threshold() -> None:
    assert threshold.fit([3.0] * 20, [4.0] * 20, 1e-4).score == 3.0
    assert threshold.fit([3.0] * 20, [4.0] * 20, 1e-4).map == 4.0


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_rate_outside_0_and_1_is_a_wrong_argument(alpha: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold.fit([1.0] * 10, [1.0] * 10, alpha)


def test_too_few_photos_and_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="3 held-out photos of good parts, at least 4"):
        threshold.fit([1.0] * 3, [1.0] * 3, 0.1)
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="not finite"):
            threshold.fit([1.0, 2.0, 3.0, bad], [1.0] * 4, 0.1)
        with pytest.raises(DataError, match="not finite"):
            threshold.fit([1.0] * 4, [1.0, 2.0, 3.0, bad], 0.1)


STORED = Threshold(1.25, 0.1 + 0.2, "conformal", 1e-3, 1200, 0, "bottle-cpu int8")


def test_the_sidecar_comes_back_exactly() -> None:
    assert threshold.decode(threshold.encode(STORED), "t.json") == STORED


@pytest.mark.parametrize("field", ["score", "map", "method", "false_alarms", "photos", "missing", "engine"])
def test_changing_any_field_by_hand_is_noticed(field: str) -> None:
    body = json.loads(threshold.encode(STORED))
    body[field] = {"method": "manual", "engine": "x"}.get(
        field, body[field] + 1 if field not in ("method", "engine") else 0
    )
    with pytest.raises(BundleError, match=r"t\.json was changed by hand"):
        threshold.decode(json.dumps(body).encode(), "t.json")


MISSPELT = threshold.encode(STORED).replace(b"score", b"scorn")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"{}", b'{"score": "high"}', b"\xff\xfe", MISSPELT])
def test_what_is_no_threshold_is_refused_by_name(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"t\.json") as caught:
        threshold.decode(text, "t.json")
    assert "mtkd-edge threshold" in caught.value.hint


def test_a_missing_seal_is_not_a_valid_seal() -> None:
    body = json.loads(threshold.encode(STORED))
    del body["sha256"]
    with pytest.raises(BundleError, match="changed by hand"):
        threshold.decode(json.dumps(body).encode(), "t.json")


def test_a_sealed_threshold_that_is_not_a_number_is_refused() -> None:
    """JSON has no infinity: it is written as null and does not come back as a number."""
    with pytest.raises(BundleError):
        threshold.decode(threshold.encode(Threshold(math.inf, 1, "manual", 0.1, 4)), "t.json")


def failed(capfd: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert app.run([*map(str, words), "--json"]) != 0
    told: dict[str, object] = json.loads(capfd.readouterr().out.splitlines()[-1])
    return told


def test_a_damaged_one_is_fitted_again_by_the_command_of_its_hint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant = factory.build(tmp_path)
    path = plant.engine / "threshold.json"
    path.write_bytes(path.read_bytes().replace(b'"photos"', b'"fotos"'))
    told = failed(capfd, "watch", plant.bad, "--engine", plant.engine)
    assert told["exit_code"] == 4 and "--photos DIR --false-alarms 1e-3" in str(told["hint"])
    assert failed(capfd, "threshold", plant.engine, "--score", "3")["exit_code"] == 4
    assert app.run(["threshold", str(plant.engine), "--photos", str(plant.photos), "--false-alarms", "1e-3"]) == 0
    assert app.run(["threshold", str(plant.engine), "--score", "3"]) == 0


def test_it_is_not_fitted_to_what_was_learned_from_and_says_what_it_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant = factory.build(tmp_path)
    factory.write(tmp_path / "set" / "train" / "good", tiny.normal_frames(12))
    told = failed(capfd, "threshold", plant.engine, "--photos", tmp_path / "set")
    assert told["exit_code"] == 2 and "train/good, which the training has seen" in str(told["error"])
    photos = factory.write(tmp_path / "more", tiny.normal_frames(12))
    (photos / "999.png").write_bytes(b"")
    assert app.run(["threshold", str(plant.engine), "--photos", str(photos)]) == 0
    assert "999.png" in capfd.readouterr().err


@pytest.mark.parametrize("photos", [4, 12, 33, 99, 100, 105, 998])
def test_the_rate_that_is_said_to_be_guaranteed_is(photos: int) -> None:
    scores = np.arange(float(photos))
    said = float(threshold.fit(scores, scores, 1e-4).describe().rpartition("guarantee ")[2])
    assert threshold.fit(scores, scores, said).method == "conformal"
    assert threshold.fit(scores, scores, max(1e-4, said - 0.001)).method == "tail-fit"
