"""A CUDA graph of the whole batch gives the same bits as its steps one by one, or says why there is none."""

from __future__ import annotations

import gc
import shutil
import sys

import pytest
from trt_double import Bindings, Tensorrt
from two_batches import FRAMES, assert_same_bits, bindings, cuda, made, overlapped, start  # noqa: F401 - fixtures too

from mtkd_edge.device import bench
from mtkd_edge.device.engine import STEADY
from mtkd_edge.device.engines import _cuda_graph
from mtkd_edge.device.engines._trt_run import TensorrtEngine

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)


def steady(engine: TensorrtEngine, count: int = 2) -> None:
    for _ in range(STEADY):
        engine.infer(FRAMES[0][:count])


def test_a_graph_of_the_whole_batch_has_the_same_bits(made, cuda, bindings, monkeypatch):
    with start(monkeypatch, cuda, made, bindings=bindings, graph=True) as engine:
        steady(engine)
        assert bindings.launches == 0
        cuda.log.clear()
        found = overlapped(engine, FRAMES)
        assert_same_bits(found, made[2])
        assert bindings.launches == len(FRAMES)
        steps = [name for name in cuda.log if name]  # events have no name
        assert {name.partition(": ")[0] for name in steps} == {"graph"}
        work = [name.removeprefix("graph: ").split()[0] for name in steps[:6]]
        assert work == ["upload", "features", "score", "download", "download", "download"]
        assert all(list(one.stages) == ["graph"] and one.stages["graph"] >= 0 for one in found)
        assert engine.remark == ""
    gc.collect()
    assert (bindings.graphs, cuda.alive, cuda.stack) == (0, 0, [])


def test_what_bench_measures_is_the_graph_and_not_its_capture(made, cuda, bindings, monkeypatch):
    with start(monkeypatch, cuda, made, bindings=bindings, graph=True) as engine:
        for frames in (FRAMES[0], FRAMES[0][:1]):
            row = bench.measure(engine, frames, 0.0)
            assert list(row.stages) == ["graph"]
            assert bindings.launches > row.calls, "the first launch comes right after the capture"
            bindings.launches = 0


def test_another_batch_size_or_other_bounds_are_captured_again_when_they_are_steady(made, cuda, bindings, monkeypatch):
    with start(monkeypatch, cuda, made, bindings=bindings, graph=True) as engine:
        steady(engine)
        engine.infer(FRAMES[0])
        assert (bindings.launches, bindings.graphs) == (1, 1)
        alone = engine.infer(FRAMES[0][:1])
        assert (bindings.launches, bindings.graphs) == (1, 0), "TensorRT's context is another now"
        assert alone.scores.tobytes() == made[2][0].scores[:1].tobytes()
        steady(engine, 1)
        assert bindings.launches == 2
        assert engine.infer(FRAMES[1][1:]).scores.tobytes() == made[2][1].scores[1:].tobytes()
        engine.features(FRAMES[0])  # changes the context as well
        assert bindings.graphs == 0
        overlapped(engine, [FRAMES[0]] * (STEADY + 3), made[3])
        assert bindings.launches == 3 + 3
        engine.infer(FRAMES[0])
        assert bindings.graphs == 0, "bounds are arguments of the kernel, and part of the graph"
        assert engine.remark == ""


@pytest.mark.parametrize(
    ("capture", "missing", "reason"),
    [
        ("refused", "", "this engine cannot be captured"),
        ("broken", "", "cuStreamEndCapture gave CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("works", "cuStreamBeginCapture", 'Function "cuStreamBeginCapture" not found'),
        ("works", "cuGraphInstantiate", "cuGraphInstantiate cannot be called"),
        ("works", "cuGraphLaunch", "cuGraphLaunch cannot be called"),
    ],
)
def test_where_no_graph_can_be_had_the_steps_are_launched_and_the_reason_is_told(
    made, cuda, bindings, monkeypatch, capture, missing, reason
):
    bindings.missing = missing
    trt = Tensorrt(cuda, capture)
    with start(monkeypatch, cuda, made, trt=trt, bindings=bindings, graph=True) as engine:
        steady(engine)
        assert engine.remark == ""
        assert_same_bits(overlapped(engine, FRAMES), made[2])
        assert engine.remark.startswith("no CUDA graph, each step is launched on its own: ")
        assert reason in engine.remark
        assert list(engine.infer(FRAMES[0]).stages) == ["upload", "features", "score", "download"]
        assert (bindings.launches, bindings.graphs) == (0, 0)
    gc.collect()
    assert (cuda.alive, cuda.stack) == (0, [])


def test_a_call_that_no_capture_allows_breaks_it_and_nothing_else(made, cuda, bindings, monkeypatch):
    """Memory that is allocated between begin and end, as a library might."""
    with start(monkeypatch, cuda, made, bindings=bindings, graph=True) as engine:
        steady(engine)
        queue = engine._scorer.queue

        def allocates(*given) -> None:
            queue(*given)
            if engine._stream.captured is not None:
                cuda.mem_alloc(4)

        monkeypatch.setattr(engine._scorer, "queue", allocates)
        assert_same_bits(overlapped(engine, FRAMES), made[2])
        assert "CUDA reports: cuMemAlloc failed: operation not permitted" in engine.remark
        assert engine._stream.captured is None


def test_without_cuda_bindings_or_kernel_there_is_no_graph_and_the_engine_says_so_at_once(made, cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with start(monkeypatch, cuda, made, graph=True) as engine:
        assert "needs the package 'cuda-bindings'" in engine.remark
        assert "pip install 'mtkd-edge[graph]'" in engine.remark
        assert_same_bits(overlapped(engine, FRAMES), made[2])
    with start(monkeypatch, cuda, made, graph=True, fused=False) as engine:
        assert "the plan of the head scores" in engine.remark


def test_every_name_that_is_used_is_in_the_real_cuda_bindings():
    driver = pytest.importorskip("cuda.bindings.driver", reason="the extra `graph`")
    assert _cuda_graph.import_bindings() is driver
    for name in ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch",
                 "cuGraphDestroy", "cuGraphExecDestroy"):  # fmt: skip
        assert getattr(driver, name).__doc__.startswith(f"{name}("), name
        assert hasattr(Bindings, name)
    assert int(driver.CUstream(7)) == 7
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL.name
    assert driver.CUresult.CUDA_SUCCESS == 0
