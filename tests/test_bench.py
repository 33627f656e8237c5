"""Speed figures: percentiles of real calls, a throughput that follows from them, and a floor below them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from mtkd_edge import bundle
from mtkd_edge.device import bench
from mtkd_edge.device.engine import Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import UsageError


class Timed(FakeEngine):
    """An engine whose call number n takes n ms on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.calls = 0.0, 0

    def infer(self, frames: np.ndarray) -> Inference:
        self.calls += 1
        self.now += self.calls * 1e-3
        return Inference(np.zeros((len(frames), 8, 8), np.float32), np.zeros(len(frames), np.float32), {"gpu": 0.5})


def test_percentiles_and_throughput_are_those_of_the_calls_after_the_warm_up():
    engine = Timed()
    row = bench.measure(engine, np.zeros((2, 64, 64, 3), np.uint8), seconds=0.0, clock=lambda: engine.now)
    assert (row.batch, row.calls, engine.calls) == (2, 10, 10 + bench.WARM_UP)
    durations = [bench.WARM_UP + i for i in range(1, 11)]
    assert row.call.p50 == pytest.approx(np.percentile(durations, 50, method="higher"))
    assert row.call.p99 == pytest.approx(max(durations))
    assert row.frames_per_second == pytest.approx(2 * 10 / (sum(durations) * 1e-3))
    assert row.stages == {"gpu": bench.Percentiles(0.5, 0.5, 0.5)}


def test_it_runs_as_long_as_asked_and_every_batch():
    steps = []
    rows = bench.bench(FakeEngine(delay=0.002), (64, 64, 3), (1, 4), 0.1, lambda *step: steps.append(step))
    assert [row.batch for row in rows] == [1, 4]
    assert [step[1:] for step in steps] == [(1, 2, "batch 1"), (2, 2, "batch 4")]
    for row in rows:
        assert row.call.p50 <= row.call.p90 <= row.call.p99
        assert row.call.p50 >= 2 * row.batch
        assert row.stages["infer"].p50 <= row.call.p99
    assert 3 <= rows[0].calls <= 50, "as many as there is time for, which on a busy machine are few"


@pytest.mark.parametrize("batch", [0, 9])
def test_a_batch_the_engine_does_not_take_is_refused_before_anything_runs(batch):
    with pytest.raises(UsageError, match=f"batches of 1 to 8, got {batch}"):
        bench.bench(FakeEngine(), (64, 64, 3), (1, batch))


def test_no_engine_is_faster_than_the_floor(tmp_path):
    """At FP32, where the floor's rate is the engine's own kind of arithmetic."""
    manifest = tiny.make_bundle(tmp_path, size=128)
    frame = manifest.frame
    with OpenvinoEngine(tmp_path / bundle.FEATURES, tmp_path / bundle.HEAD) as engine:
        row = bench.bench(engine, (frame.height, frame.width, 3), (1,), 0.2)[0]
        floor = bench.floor(engine.macs(), (tmp_path / bundle.FEATURES).stat().st_size)
    assert 0 < floor.milliseconds < row.call.p50


def test_the_floor_is_the_larger_of_computing_and_moving():
    heavy, wide = bench.floor(10**9, 1), bench.floor(1, 10**9)
    assert heavy.milliseconds == pytest.approx(1e12 / heavy.macs_per_second)
    assert wide.milliseconds == pytest.approx(1e12 / wide.bytes_per_second)
    assert 1e8 < wide.bytes_per_second < 1e13
    assert 1e8 < heavy.macs_per_second < 1e15
