"""Reaches of scales: histograms that grow, percentiles, entropy, and a judge that prefers what costs the map least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import bundle
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.judge_ranges import judge
from mtkd_edge.lab.ranges import BINS, SUBSAMPLE, Histogram, clipped, least_divergence

RNG = np.random.default_rng(0)


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram()
    found.add(np.repeat(values.astype(np.float32), SUBSAMPLE))  # so that every value is sampled
    return found


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), st.floats(1.0, 300.0))
def test_a_histogram_counts_everything_wherever_its_top_has_to_go(values: list[float], factor: float) -> None:
    array = np.array(values, np.float32)
    found = histogram(array)
    found.add(np.repeat(array * np.float32(factor), SUBSAMPLE))
    largest = float(np.abs(array * np.float32(factor)).max())
    if largest == 0:
        assert found.reach("minmax") == 0
        return
    assert found.counts.sum() == 2 * len(values)
    assert largest * 0.999 <= found.reach("minmax") <= largest + 1.001 * found.top / BINS


def test_the_percentile_leaves_one_in_ten_thousand_behind() -> None:
    values = np.concatenate([np.linspace(0, 1, 100_000), [50.0] * 5])
    found = histogram(values)
    assert found.reach("minmax") == pytest.approx(50, rel=1e-3)
    assert found.reach("percentile") == pytest.approx(1, abs=0.05)


def test_entropy_gives_up_a_rare_outlier_and_keeps_a_flat_distribution() -> None:
    bell = np.concatenate([RNG.normal(0, 1, 200_000), [60.0]])
    assert histogram(bell).reach("entropy") < 10 < histogram(bell).reach("minmax")
    flat = RNG.uniform(-1, 1, 100_000)
    assert histogram(flat).reach("entropy") > 0.9


def test_entropy_is_not_drowned_by_the_zeros_of_a_relu() -> None:
    bell = np.maximum(RNG.normal(0, 1, 100_000), 0)
    with_zeros = np.concatenate([bell, np.zeros(1_000_000)])
    assert histogram(with_zeros).reach("entropy") == pytest.approx(histogram(bell).reach("entropy"), rel=0.1)
    assert histogram(with_zeros).reach("entropy") > 2


def test_few_counts_are_kept_whole() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[5] = 3
    assert least_divergence(counts) >= 6


def test_clipping_never_widens_and_keeps_signs() -> None:
    assert clipped((-3.0, 2.0), 1.0) == (-1.0, 1.0)
    assert clipped((0.0, 2.0), 5.0) == (0.0, 2.0)
    assert clipped((0.5, 2.0), 1.0) == (0.5, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(made)
    return made


def test_the_judge_measures_the_error_of_the_map(folder: Path) -> None:
    frames = tiny.normal_frames(4, seed=3)
    found = calibrate.calibrate(folder / bundle.FEATURES, frames, {str(i): "0" for i in range(4)}).ranges
    narrow = {name: (low / 20, high / 20) for name, (low, high) in found.items()}
    errors = judge(folder, tiny.with_defects(frames))({"minmax": found, "percentile": narrow})
    assert 0 < errors["minmax"] < 0.3 < errors["percentile"]
    assert list(onnx.load(folder / bundle.FEATURES).graph.input), "the bundle itself is left alone"
