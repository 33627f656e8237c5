"""`scripts/measure.py`: the table where the photos allow all figures, and where they do not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import measure
import pytest


def result(image: float, pixel: float | None) -> dict[str, Any]:
    figures = {"image_auroc": image, "pixel_auroc": pixel, "aupro": pixel, "p50_ms": 10.0}
    figures |= {"false_alarm_rate": 0.0, "detection_rate": 1.0}
    return dict.fromkeys(measure.PRECISIONS, figures)


def test_figures_that_the_photos_do_not_allow_are_dashes() -> None:
    rows = measure.table([result(0.9, None), result(0.8, None)]).splitlines()
    assert rows[2] == "| image_auroc | 0.8500 ± 0.0707 | 0.8500 ± 0.0707 |"
    assert rows[3] == "| pixel_auroc | – | – |"
    assert "| pixel_auroc | 0.7000 ± 0.0000 | 0.7000 ± 0.0000 |" in measure.table([result(0.9, 0.7)])


def test_data_without_test_photos_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure.py", str(tmp_path), "--out", str(tmp_path / "out")])
    monkeypatch.setattr(measure, "measure", lambda *arguments: pytest.fail("trained"))
    with pytest.raises(SystemExit, match="has no test/: wanted"):
        measure.main()
