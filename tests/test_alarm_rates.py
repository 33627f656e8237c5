"""`scripts/alarm_rates.py`: thresholds from held-out photos at several rates, and what they find."""

from __future__ import annotations

import sys
from pathlib import Path

import alarm_rates
import factory
import pytest
import tiny

from mtkd_edge import bundle, dataset
from mtkd_edge.places import BUNDLE_FOLDER, LISTING


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    factory.write(root / "data" / "train" / "good", tiny.normal_frames(200))
    factory.write(root / "data" / "test" / "good", tiny.normal_frames(40, seed=1))
    factory.write(root / "data" / "test" / "flaw", tiny.with_defects(tiny.normal_frames(10, seed=2)))
    tiny.make_bundle(root / "run" / BUNDLE_FOLDER)
    (root / "run" / LISTING).write_bytes(dataset.encode(dataset.scan(root / "data")))
    return root / "run"


def test_a_larger_rate_finds_more_and_the_rate_of_the_run_has_its_threshold(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = alarm_rates.rates(run, lambda *told: None)
    limits = [found[rate][0].score for rate in alarm_rates.RATES]
    assert limits == sorted(limits, reverse=True) and limits[0] > limits[-1]
    for column in (1, 2):
        shares = [found[rate][column] for rate in alarm_rates.RATES]
        assert shares == sorted(shares) and 0 <= shares[0] <= shares[-1] <= 1
    assert found[0.05][2] > 0.5, "the flaws of these parts are easy"
    assert found[0.05][0].method == "conformal" and found[0.001][0].method == "tail-fit"
    monkeypatch.setattr(sys, "argv", ["alarm_rates.py", str(run), str(run)])
    assert alarm_rates.main() == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| 5.0% | {found[0.05][0].photos} photos, guaranteed |") and row.count("± 0.0 %") == 2


def test_the_spread_is_over_the_runs() -> None:
    assert alarm_rates.spread([0.1, 0.2]) == "15.0 ± 7.1 %"
    assert alarm_rates.spread([0.5]) == "50.0 ± 0.0 %"


def test_what_is_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["alarm_rates.py", str(tmp_path)])
    assert alarm_rates.main() == 4
    assert bundle.BUNDLE in capsys.readouterr().err
