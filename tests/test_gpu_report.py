"""`scripts/gpu_report.py` before it meets a GPU: on the host build, and its GPU half on the double of pycuda."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trt_double import Bindings, Cuda

from mtkd_edge.device.engines import _cuda, _cuda_graph
from mtkd_edge.device.kernel import compiler, host
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.errors import BackendError

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

import gpu_cases
import gpu_checks
import gpu_report
import gpu_speed
import gpu_written
from gpu_runners import CudaRunner, HostRunner, Results, compiler_for

ABOUT = {"gpu": "the double", "machine": "here"}


def test_a_section_that_is_repeated_keeps_the_others(tmp_path):
    gpu_written.Report(tmp_path, ABOUT).add({"copy_gb_per_s": 1.0, "checks": {"digest": {"state": "ok"}}})
    report = gpu_written.Report(tmp_path, ABOUT, again=True)
    report.check("leaks", {"state": "ok"})
    kept = json.loads((tmp_path / gpu_written.JSON).read_text())
    assert kept["copy_gb_per_s"] == 1.0 and list(kept["checks"]) == ["digest", "leaks"]
    gpu_written.Report(tmp_path, ABOUT).check("leaks", {"state": "ok"})
    assert "copy_gb_per_s" not in json.loads((tmp_path / gpu_written.JSON).read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def gpu(monkeypatch, built):
    """A device and a compiler of the double's machine code."""
    double = Cuda()
    bindings = Bindings(double)
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)
    monkeypatch.setattr(_cuda_graph, "import_bindings", lambda: bindings)
    return double, _cuda.Device(), lambda found: host.build(found, built).read_bytes()


@pytest.fixture
def small(monkeypatch):
    """Two cases of the four, few repetitions: the others only take longer."""
    monkeypatch.setattr(gpu_checks, "REPETITIONS", 2)
    monkeypatch.setattr(gpu_checks, "CASES", {name: gpu_cases.CASES[name] for name in ("odd", "large")})


def test_every_check_of_a_gpu_runs_and_frees_what_it_took(gpu, built, small, tmp_path):
    double, device, compile_kernel = gpu
    report = gpu_written.Report(tmp_path, ABOUT)
    gpu_report.checked(CudaRunner(device, compile_kernel), (device, compile_kernel), built, report)
    found = report.found["checks"]
    assert {name: row for name, row in found.items() if row["state"] != "ok"} == {}
    assert tuple(found) == gpu_report.CHECKS
    assert "2048" not in found["failed launch"]["found"]
    assert "was made for" in found["digest"]["found"]
    assert (double.alive, double.stack) == (0, [])


def test_speed_is_measured_at_every_batch_against_the_floor(gpu, tmp_path):
    double, device, compile_kernel = gpu
    report = gpu_written.Report(tmp_path, ABOUT)
    gpu_report.measured(device, compile_kernel, report, copy=1 << 16, batches=(1, 2), cold=1 << 18, times=1)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["copy_gb_per_s"] > 0
    for name, spec in (("default", gpu_cases.DEFAULT), ("paper", gpu_cases.PAPER)):
        rows = found[name]
        assert [(row["features"], row["batch"]) for row in rows] == [
            ("float32", 1), ("float32", 2), ("float16", 1), ("float16", 2)
        ]  # fmt: skip
        for row in rows:
            floor = layout(spec, row["features"]).traffic(row["batch"]) / found["copy_gb_per_s"] / 1e3
            assert row["floor_us"] == pytest.approx(floor)
            assert row["share_of_copy"] == pytest.approx(row["floor_us"] / row["graph_cold_us"])
            assert min(row[f"{name}_us"] for name in ("cold", "warm", "waited", "graph_cold", "graph_warm")) > 0
    assert [(row["batch"], row["block"]) for row in found["blocks"]] == [(b, t) for b in (1, 2) for t in (64, 128, 256)]
    assert (double.alive, double.stack) == (0, [])


def test_an_empty_launch_is_timed_and_unloaded(gpu, tmp_path):
    double, device, _ = gpu
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(tmp_path / "empty.so")]
    subprocess.run(command, input='extern "C" void empty() {}', text=True, check=True)
    found = gpu_speed.empty_launch(device, (tmp_path / "empty.so").read_bytes(), 5)
    assert found.keys() == {"queued_us", "waited_us", "graph_us"}
    assert min(found.values()) > 0
    assert double.alive == 0


def test_a_launch_in_a_graph_is_timed_without_the_host_and_where_there_is_none_the_rest_stands(gpu, monkeypatch):
    double, device, compile_kernel = gpu
    found = layout(gpu_cases.LARGE)
    bindings = _cuda_graph.import_bindings()
    row = gpu_speed.kernel_row(device, compile_kernel, found, 1, cold=1 << 16, times=3)
    launches = [name for name in double.log if name == "graph: score"]
    assert len(launches) == 2 * (1 + 3) * max(3, math.ceil((1 << 16) / (2 * sum(sizes(found)))))
    assert bindings.graphs == 0
    bindings.missing = "cuGraphInstantiate"
    bare = gpu_speed.kernel_row(device, compile_kernel, found, 1, cold=1 << 16, times=3)
    assert bare.keys() == row.keys() - {"graph_cold_us", "graph_warm_us"} | {"remark"}
    assert "cuGraphInstantiate cannot be called" in bare["remark"]
    assert (double.alive, double.stack) == (0, [])


def sizes(found) -> list[int]:
    return [4 * level.rows * level.entries for level in found.levels]


def test_the_first_compiler_that_fits_the_gpu_is_taken_and_else_each_ones_words(gpu, tmp_path, monkeypatch):
    double, device, _ = gpu

    def old(text: str, arch: str) -> bytes:
        raise BackendError(f"nvcc does not know {arch}")

    works = host.build(layout(gpu_cases.ODD), tmp_path).read_bytes()
    monkeypatch.setattr(compiler, "find_nvcc", lambda: compiler.Compiler("nvcc 11.5", old))
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: compiler.Compiler("NVRTC 13.0", lambda text, arch: works))
    assert compiler_for(device, "sm_90", gpu_speed.EMPTY).name == "NVRTC 13.0"
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: compiler.Compiler("NVRTC 14.0", lambda text, arch: b"newer"))
    with pytest.raises(BackendError, match=r"nvcc 11.5: nvcc does not know sm_90; NVRTC 14.0: .*image is invalid"):
        compiler_for(device, "sm_90", gpu_speed.EMPTY)
    assert (double.alive, double.stack) == (0, [])


class Broken:
    """A runner with one fault."""

    name = "broken"

    def __init__(self, folder: Path, fault: str) -> None:
        self.fault, self.right, self.calls = fault, HostRunner(folder), 0

    def run(self, found, student, reference, **options) -> Results:
        made = self.right.run(found, student, reference, **options)
        self.calls += 1
        if self.fault == "wrong by 2e-5":
            made.maps[...] += 2e-5 * np.abs(made.maps).max()
        elif self.fault == "NaN in a map":
            made.maps[0, 0, 0] = np.nan
        elif self.fault == "a race" and self.calls == 7:
            made.scores[0] = np.nextafter(made.scores[0], np.inf)
        elif self.fault == "NaN looks normal":
            made.verdicts[...] &= 1
        return made


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        ("wrong by 2e-5", {"exactness", "bits of the host build"}),
        ("NaN in a map", {"exactness", "bits of the host build"}),
        ("a race", {"launch shapes"}),
        ("NaN looks normal", {"verdict bits"}),
    ],
)
def test_each_check_fails_where_it_should(built, small, tmp_path, fault, caught):
    report = gpu_written.Report(tmp_path, ABOUT)
    for name in ("exactness", "launch shapes", "verdict bits", "bits of the host build"):
        gpu_report.checked(Broken(built, fault), None, built, report, name)
    assert caught <= {key for key, row in report.found["checks"].items() if row["state"] == "FAILED"}


def test_without_a_gpu_the_report_says_what_has_not_run(tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--host", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu_report, "ARCHES", ("sm_87",))
    gpu_report.main()
    report = json.loads((tmp_path / "report.json").read_text())
    states = {name: row["state"] for name, row in report["checks"].items()}
    assert states["exactness"] == states["launch shapes"] == states["verdict bits"] == "ok"
    assert {states[name] for name in ("threads", "leaks", "memcheck", "racecheck")} == {"not run"}
    assert report["default"] == report["rivals"] == {"state": "not run", "found": "no GPU"}
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert "| racecheck | not run | no GPU |" in text


def test_a_check_that_fails_ends_the_script_with_1(tmp_path, monkeypatch, small):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--host", "--only", "verdict bits", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu_report, "HostRunner", lambda folder, order=0: Broken(folder, "NaN looks normal"))
    with pytest.raises(SystemExit) as ended:
        gpu_report.main()
    assert ended.value.code == 1
    assert json.loads((tmp_path / "report.json").read_text())["checks"]["verdict bits"]["state"] == "FAILED"


def test_without_a_host_compiler_its_check_has_not_run(built, small, tmp_path, monkeypatch):
    report = gpu_written.Report(tmp_path, ABOUT)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    gpu_report.checked(HostRunner(built), None, built, report, "bits of the host build")
    row = report.found["checks"]["bits of the host build"]
    assert (row["state"], row["found"]) == ("not run", "g++ is not installed, which makes the host build")


def test_an_arch_that_nvcc_does_not_know_is_a_row_beside_the_others(monkeypatch):
    def taken(found, arch: str) -> compiler.Resources:
        if arch == "sm_110":
            raise BackendError("Unsupported gpu architecture")
        return compiler.Resources(96, 0, 0)

    monkeypatch.setattr(compiler, "resources", taken)
    rows = {row["arch"]: row for row in gpu_report.resources() if row["kernel"] == "paper"}
    assert tuple(rows) == gpu_report.ARCHES
    assert (rows["sm_90"]["registers"], rows["sm_110"]["found"]) == (96, "Unsupported gpu architecture")


def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch):
    def none(index: int = 0) -> None:
        raise BackendError("there is no NVIDIA driver")

    monkeypatch.setattr(gpu_report._trt_driver, "find", none)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no NVIDIA driver\n  without a GPU: --host"):
        gpu_report.main()
