"""The parts of `scripts/gpu_report.py` that need torch, on the double of pycuda: rivals, and a whole frame."""

from __future__ import annotations

import shutil
import sys
import time
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gpu_cases
import gpu_frame
import gpu_rivals
import pytest
from cuda_double import Cuda
from gpu_rows import CheckError, demand
from gpu_runners import Session

from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel import host

torch = pytest.importorskip("torch")
if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def test_rivals_that_cannot_run_are_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: scripts/gpu_report.py compares for real")
    assert "sees no GPU" in gpu_rivals.missing()


@pytest.fixture
def torch_on_the_double(built, monkeypatch):
    """torch's tensors stay on this CPU, and the kernel takes their addresses as it would on a GPU."""
    double = Cuda()
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            self.at = time.perf_counter()

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: Event) -> float:
            return (other.at - self.at) * 1e3

    class Anywhere(dict):
        def __contains__(self, address: object) -> bool:
            return True

    fake = SimpleNamespace(
        Event=Event, stream=lambda _: nullcontext(), ExternalStream=lambda handle: handle, current_stream=lambda: None
    )
    for module in (gpu_rivals, gpu_frame):
        monkeypatch.setattr(module, "cuda_of_torch", lambda: fake)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    double.memory = Anywhere(double.memory)
    return double, _cuda.Device(), lambda found: host.build(found, built).read_bytes()


def test_rivals_are_timed_on_the_same_tensors_and_must_agree(torch_on_the_double, monkeypatch):
    _, device, compile_kernel = torch_on_the_double
    both = list(gpu_rivals.compare(device, compile_kernel, gpu_cases.ODD, (1, 2)))
    assert [(row["by"], row["batch"]) for row in both] == [(name, size) for name in gpu_rivals.NAMES for size in (1, 2)]
    rows = {row["by"]: row for row in both[1::2]}
    assert all(rows[name]["us"] > 0 for name in ("kernel", "eager", "compiled"))
    assert rows["eager"]["times_the_kernel"] == pytest.approx(rows["eager"]["us"] / rows["kernel"]["us"])
    assert (rows["onnx"]["state"], rows["onnx"]["found"]) == ("not run", "this ONNX Runtime has no CUDA provider")
    monkeypatch.setattr("torch.compile", lambda module, **_: lambda *maps: (None, module(*maps)[1] + 0.1))
    assert "another score" in rivals(device, compile_kernel)["compiled"]["found"]


@pytest.mark.parametrize("broken", ["kernel", "eager", "compiled"])
def test_a_rival_that_fails_is_a_row_and_the_others_go_on(torch_on_the_double, monkeypatch, broken):
    _, device, compile_kernel = torch_on_the_double

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    place = {
        "kernel": "gpu_rivals.loaded",
        "eager": "mtkd_edge.lab.graph.ScoreHead.forward",
        "compiled": "torch.compile",
    }
    monkeypatch.setattr(place[broken], fails)
    rows = rivals(device, compile_kernel)
    lost = {"eager", "compiled"} if broken == "eager" else {broken}
    assert {name for name, row in rows.items() if row.get("state") == "FAILED"} == lost
    assert rows[broken]["found"] == "RuntimeError: Failed to find C compiler"
    assert {name for name, row in rows.items() if "us" in row} == {"kernel", "eager", "compiled"} - lost
    assert ("times_the_kernel" in rows["onnx" if broken == "eager" else "eager"]) == (broken == "compiled")


def test_what_a_rival_needs_and_this_machine_has_not_is_named(torch_on_the_double, monkeypatch):
    _, device, compile_kernel = torch_on_the_double
    asleep = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    fake = SimpleNamespace(
        get_available_providers=lambda: [gpu_rivals.PROVIDER], InferenceSession=lambda path, providers: asleep
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else name)
    rows = rivals(device, compile_kernel)
    assert {rows[name]["state"] for name in ("compiled", "onnx")} == {"not run"}
    assert "Triton is not installed" in rows["compiled"]["found"]
    assert "would compute on the CPU" in rows["onnx"]["found"]


def rivals(device, compile_kernel) -> dict[str, dict]:
    rows = list(gpu_rivals.compare(device, compile_kernel, gpu_cases.ODD, (2,)))
    assert [row["by"] for row in rows] == ["kernel", "eager", "compiled", "onnx"]
    return {row["by"]: row for row in rows}


@pytest.mark.parametrize("fails", [False, True])
def test_pinned_memory_goes_before_the_stream_that_has_read_it(torch_on_the_double, monkeypatch, fails):
    _, device, compile_kernel = torch_on_the_double
    order: list[str] = []

    def pinned(tensor):
        made = tensor.clone()
        weakref.finalize(made, order.append, "pixels")
        return made

    close = Session.close
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, **how: tensor.clone())
    monkeypatch.setattr(Session, "close", lambda session: (order.append("stream"), close(session)))
    monkeypatch.setattr(gpu_frame, "demand", lambda _, complaint: demand(not fails, complaint))
    with pytest.raises(CheckError) if fails else nullcontext():
        gpu_frame.frame_row(device, compile_kernel, 1, "kernel", 1)
    assert order == ["pixels", "stream"]


def test_a_whole_frame_is_timed_by_stage_with_both_scorers(torch_on_the_double, monkeypatch):
    double, device, compile_kernel = torch_on_the_double
    for scorer in ("kernel", "torch head"):
        row = gpu_frame.frame_row(device, compile_kernel, 1, scorer, 2)
        assert list(row) == ["batch", "scorer", "upload_ms", "features_ms", "score_ms", "download_ms", "call_ms"]
        assert row["call_ms"] >= row["features_ms"] > 0
    assert double.alive == 0
    nets = gpu_frame.stand_in()
    assert all(one.is_contiguous() for one in nets(torch.zeros(2, 256, 256, 3, dtype=torch.uint8)))
    last = {"memory_format": torch.channels_last}
    monkeypatch.setattr(gpu_frame, "stand_in", lambda: lambda given: [one.contiguous(**last) for one in nets(given)])
    with pytest.raises(CheckError, match=r"the kernel scores .*, torch"):
        gpu_frame.frame_row(device, compile_kernel, 1, "kernel", 2)
