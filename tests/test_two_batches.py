"""Two batches under way in a TensorRT engine: no memory is touched early, and only the maps that are wanted are copied.

The double of CUDA runs everything as late as it may and refuses any two uses of one memory that nothing orders.
"""

from __future__ import annotations

import gc
import shutil

import numpy as np
import pytest
from trt_double import Cuda
from two_batches import FRAMES, assert_same_bits, bindings, cuda, made, overlapped, start  # noqa: F401 - fixtures too

from mtkd_edge.device.engine import Bounds, Pipelined
from mtkd_edge.device.engines import _cuda
from mtkd_edge.errors import BackendError

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)


def test_an_engine_of_tensorrt_can_be_given_the_next_batch(made, cuda, monkeypatch):
    with start(monkeypatch, cuda, made) as engine:
        assert isinstance(engine, Pipelined)
        assert engine.remark == ""


@pytest.mark.parametrize("late", [True, False])
def test_overlapped_batches_have_the_bits_of_single_ones(made, late, monkeypatch):
    cuda = Cuda(late)
    with start(monkeypatch, cuda, made) as engine:
        assert_same_bits(overlapped(engine, FRAMES), made[2])
    gc.collect()
    assert (cuda.alive, cuda.stack) == (0, [])


def test_the_next_frames_go_up_while_the_first_are_not_computed(made, cuda, monkeypatch):
    with start(monkeypatch, cuda, made) as engine:
        first, second = engine.submit(FRAMES[0]), engine.submit(FRAMES[1])
        with engine._device.current():
            engine._slots[second].events["uploaded"].synchronize()  # it and what it needs, nothing else
        assert not engine._slots[first].events["features"].op.ran
        assert_same_bits([engine.collect(first), engine.collect(second)], made[2][:2])


def test_a_third_batch_and_a_ticket_that_is_not_out_are_errors(made, cuda, monkeypatch):
    with start(monkeypatch, cuda, made) as engine:
        first, second = engine.submit(FRAMES[0]), engine.submit(FRAMES[1])
        with pytest.raises(BackendError, match="has 2 batches under way"):
            engine.submit(FRAMES[2])
        with pytest.raises(BackendError, match="has a batch under way"):
            engine.features(FRAMES[2])
        assert_same_bits([engine.collect(second)], made[2][1:2])
        for ticket in (second, 2, -1):
            with pytest.raises(BackendError, match=f"no batch number {ticket} under way"):
                engine.collect(ticket)
        assert_same_bits([engine.collect(first)], made[2][:1])


@pytest.mark.parametrize(
    ("what", "said"),
    [("early", "the host touches memory that is in use"), ("unordered", "meets work that may not be done")],
)
def test_the_double_notices_memory_that_is_used_early(made, cuda, monkeypatch, what, said):
    """The proof above can fail: a slot that is free too soon, and work that does not wait for its upload."""
    engine = start(monkeypatch, cuda, made)
    ticket = engine.submit(FRAMES[0])
    if what == "early":
        engine._slots[ticket].count = 0
    else:
        monkeypatch.setattr(type(engine._stream), "wait_for_event", lambda stream, event: None)
    with pytest.raises(AssertionError, match=said):
        engine.submit(FRAMES[1])
    monkeypatch.undo()
    monkeypatch.setattr(_cuda, "import_driver", lambda: cuda)
    engine.close()


def test_closing_waits_for_what_is_under_way(made, cuda, monkeypatch):
    engine = start(monkeypatch, cuda, made)
    engine.submit(FRAMES[0])
    engine.submit(FRAMES[1])
    engine.close()
    gc.collect()
    assert (cuda.alive, cuda.stack) == (0, [])


def test_a_batch_that_fails_leaves_the_other_and_the_engine_usable(made, cuda, monkeypatch):
    with start(monkeypatch, cuda, made) as engine:
        first, plan = engine.submit(FRAMES[0]), engine._features
        monkeypatch.setattr(type(plan), "run", lambda *given: (_ for _ in ()).throw(BackendError("no luck")))
        with pytest.raises(BackendError, match="no luck"):
            engine.submit(FRAMES[1])
        monkeypatch.undo()
        monkeypatch.setattr(_cuda, "import_driver", lambda: cuda)
        again = engine.submit(FRAMES[1])
        assert_same_bits([engine.collect(first), engine.collect(again)], made[2][:2])


# ---- maps


@pytest.mark.parametrize("graph", [False, True])
def test_only_maps_above_their_bounds_are_copied(made, cuda, bindings, monkeypatch, graph):
    _, _, wanted, middle = made
    with start(monkeypatch, cuda, made, bindings=bindings, graph=graph) as engine:
        batches = [*FRAMES, *FRAMES]
        found = overlapped(engine, batches, middle)
        for ours, theirs in zip(found, [*wanted, *wanted], strict=True):
            assert ours.has_map.tolist() == [False, True]
            assert np.isnan(ours.maps[0]).all(), "what was not copied must not look like a map"
            assert ours.maps[1].tobytes() == theirs.maps[1].tobytes()
            assert ours.scores.tobytes() == theirs.scores.tobytes()
        one = wanted[0].maps[0].nbytes
        copied = sum(int(name.split()[-1]) for name in cuda.log if "download" in name)
        assert copied == len(batches) * (one + 2 * 2 * 4), "one map, two scores and two verdicts each"
        assert (bindings.launches > 0) == graph


def test_a_map_with_a_region_comes_back_though_its_score_is_below_the_threshold(made, cuda, monkeypatch):
    _, _, wanted, middle = made
    with start(monkeypatch, cuda, made) as engine:
        for bounds, known in (
            (Bounds(np.inf, middle.map), [False, True]),
            (Bounds(middle.score, np.inf), [False, True]),
            (Bounds(np.inf, np.inf), [False, False]),
            (Bounds(-np.inf, np.inf), [True, True]),
        ):
            found = engine.collect(engine.submit(FRAMES[0], bounds))
            assert found.has_map.tolist() == known
            assert found.scores.tobytes() == wanted[0].scores.tobytes()


def test_without_the_kernel_there_are_no_bits_and_all_maps_are_copied(made, cuda, monkeypatch):
    with start(monkeypatch, cuda, made, fused=False) as engine:
        found = overlapped(engine, FRAMES, made[3])
    for ours, theirs in zip(found, made[2], strict=True):
        assert ours.has_map is None
        np.testing.assert_allclose(ours.maps, theirs.maps, rtol=1e-4, atol=1e-4)


# ---- graphs
