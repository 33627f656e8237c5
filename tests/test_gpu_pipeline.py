"""The part of `scripts/gpu_report.py` that runs the engine: torch in TensorRT's place, on the double of CUDA."""

from __future__ import annotations

import ctypes
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from cuda_double import Cuda
from graph_double import Bindings
from kernel_cases import level

from mtkd_edge.device.engines import _cuda, _cuda_graph
from mtkd_edge.device.kernel import host
from mtkd_edge.errors import BackendError, MissingExtraError

torch = pytest.importorskip("torch")
if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

import gpu_cases  # noqa: E402 - after what may skip
import gpu_pipeline  # noqa: E402
import gpu_report  # noqa: E402
from gpu_rows import CheckError, NotHereError  # noqa: E402
from gpu_written import Report  # noqa: E402

SHAPE = (64, 64, 3)
LEVELS = (level("distance", 16, 8, 8, 0.5, 1), level("distance", 8, 8, 8, 0.5, 2))
SMALL = msgspec.structs.replace(gpu_cases.DEFAULT, levels=LEVELS, height=16, width=16)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def opened(built, monkeypatch):
    """Engines on the double, small; what torch is asked to do there is queued, as on a GPU."""
    double = Cuda(late=True)
    bindings = Bindings(double)
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)
    monkeypatch.setattr(_cuda_graph, "import_bindings", lambda: bindings)
    monkeypatch.setattr(gpu_pipeline, "SIDE", 64)
    monkeypatch.setattr(gpu_pipeline, "DEFAULT", SMALL)
    monkeypatch.setattr("gpu_frame.DEFAULT", SMALL)
    monkeypatch.setattr(gpu_pipeline, "tensor_at", tensor_at)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    fake = SimpleNamespace(stream=lambda _: nullcontext(), ExternalStream=lambda handle: handle)
    monkeypatch.setattr(gpu_pipeline, "cuda_of_torch", lambda: fake)
    execute = gpu_pipeline.TorchPlan.execute_async_v3

    def queued(plan: gpu_pipeline.TorchPlan, handle: int) -> bool:
        given = plan._count, dict(plan._addresses)  # a launch has its arguments from now, not from when it runs

        def work() -> None:
            kept = plan._count, plan._addresses
            plan._count, plan._addresses = given
            execute(plan, handle)
            plan._count, plan._addresses = kept

        double.queue(double.streams[handle], work, name="features")
        return True

    monkeypatch.setattr(gpu_pipeline.TorchPlan, "execute_async_v3", queued)
    yield gpu_pipeline.torch_engines(_cuda.Device(), lambda found: host.build(found, built).read_bytes(), 2)
    assert (double.alive, double.stack, bindings.graphs) == (0, [], 0)


def tensor_at(address: int, shape: tuple[int, ...], kind: np.dtype):
    size = int(np.prod(shape)) * kind.itemsize
    return torch.from_numpy(np.frombuffer((ctypes.c_uint8 * size).from_address(address), kind).reshape(shape))


def test_both_checks_hold_on_the_double(opened):
    assert "20 batches of 2: the same bits" in gpu_pipeline.two_batches(opened, SHAPE)
    assert "20 graphs, overlapped: the same bits" in gpu_pipeline.graphs(opened, SHAPE)


def test_an_engine_that_takes_one_frame_at_a_time_is_checked_with_one(opened, built):
    alone = gpu_pipeline.torch_engines(_cuda.Device(), lambda found: host.build(found, built).read_bytes(), 1)
    assert "20 batches of 1: the same bits" in gpu_pipeline.two_batches(alone, SHAPE)
    assert "batches of 1 to 1, in upload, features, score, download" in gpu_pipeline.try_out(alone, SHAPE)


def test_wrong_bits_and_a_missing_graph_are_told_apart(opened, monkeypatch):
    def missing() -> None:
        raise MissingExtraError("cuda-bindings", "graph", "CUDA graphs")

    with monkeypatch.context() as patch:
        patch.setattr(_cuda_graph, "import_bindings", missing)
        with pytest.raises(NotHereError, match="cuda-bindings"):
            gpu_pipeline.graphs(opened, SHAPE)
        assert gpu_report.run_check(lambda: gpu_pipeline.graphs(opened, SHAPE))["state"] == "not run"
    fetch = gpu_pipeline.TensorrtEngine._fetch_maps
    with monkeypatch.context() as patch:
        patch.setattr(gpu_pipeline.TensorrtEngine, "_fetch_maps", lambda *given: np.zeros_like(fetch(*given)))
        with pytest.raises(CheckError, match="a map that is wanted was not copied"):
            gpu_pipeline.two_batches(opened, SHAPE)
    monkeypatch.setattr(gpu_pipeline, "overlapped", lambda engine, given: (engine.infer(given[0]) for _ in given))
    with pytest.raises(CheckError, match="batch 1 has other bits overlapped"):
        gpu_pipeline.two_batches(opened, SHAPE)


def test_the_report_names_what_it_cannot_run_and_runs_and_times_the_rest(opened, monkeypatch, tmp_path):
    report = Report(tmp_path, {"gpu": "the double", "machine": "here"})
    monkeypatch.setattr(gpu_pipeline, "torch_engines", lambda device, compile_kernel: opened)
    monkeypatch.setattr(gpu_report.gpu_rivals, "missing", lambda: "torch sees no GPU")
    gpu_report.pipelined(None, None, None, report)
    assert report.found["pipeline"]["state"] == "not run"
    assert states(report) == {"two batches": "not run", "CUDA graph": "not run"}
    monkeypatch.setattr(gpu_report.gpu_rivals, "missing", lambda: "")
    gpu_report.pipelined(None, None, None, report, sizes=(1, 2), times=4)
    assert states(report) == {"two batches": "ok", "CUDA graph": "ok"}
    rows = report.found["pipeline"]
    assert [(row["graph"], row["batch"]) for row in rows[::3]] == [("no", 1), ("no", 2), ("yes", 1), ("yes", 2)]
    assert {row["batches"] for row in rows} == {"alone", "overlapped", "overlapped, scores only"}
    for row in rows:
        assert row["frames_per_s"] == pytest.approx(row["batch"] / row["ms"] * 1e3)
        assert row["remark"] == ""


def test_a_graph_that_was_refused_is_no_row_of_a_graph_and_an_engine_that_fails_no_end(opened, monkeypatch):
    def refused(_: object, name: str, *given: object) -> object:
        raise BackendError(f"{name} gave CUDA_ERROR_NOT_SUPPORTED")

    monkeypatch.setattr(_cuda_graph, "call", refused)
    rows = list(gpu_pipeline.engine_rows(opened, True, SHAPE, (1,), 4))
    assert {row["graph"] for row in rows} == {"refused"}
    assert all("CUDA_ERROR_NOT_SUPPORTED" in row["remark"] for row in rows)

    def opens(graph: bool) -> object:
        if not graph:
            raise RuntimeError("out of memory")
        return opened(False)

    first, *others = gpu_pipeline.pipeline_rows(opens, SHAPE, (1,), 4)
    assert first == {"graph": "no", "state": "FAILED", "found": "RuntimeError: out of memory"}
    assert [row["batches"] for row in others] == list(gpu_pipeline.WAYS)


def states(report: Report) -> dict[str, str]:
    return {name: row["state"] for name, row in report.found["checks"].items()}
