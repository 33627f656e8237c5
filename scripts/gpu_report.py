"""Everything that is to be known of the scoring kernel on a GPU, in one run: exactness, races, contexts, speed.

    python scripts/gpu_report.py --out measured/kernel          on a machine with a GPU, pycuda, and nvcc or NVRTC
    python scripts/gpu_report.py --engine engines/bottle-h100 --out measured/kernel          its engine, not a stand-in
    python scripts/gpu_report.py --host --out measured/kernel   without one: the host build, and what compilers say

Writes report.json and report.md, prints the Markdown, and ends with 1 where a check fails. What could not run is in the
report with its reason, never left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_frame
import gpu_pipeline
import gpu_rivals
import gpu_speed
from gpu_cases import CASES, DEFAULT, PAPER
from gpu_rows import attempt, skipped
from gpu_runners import Compile, CudaRunner, HostRunner, Runner

from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.kernel import compiler
from mtkd_edge.device.kernel.layout import Layout, layout
from mtkd_edge.errors import BackendError, MtkdError

ARCHES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110")
PIPELINE = "two batches", "CUDA graph"
Report = dict[str, Any]


def run_check(check: gpu_checks.Check) -> dict[str, str]:
    """What a check found, or what is wrong; one that fails does not keep the others from running."""
    return attempt(lambda: {"state": "ok", "found": check()})


def resources() -> list[dict[str, Any]]:
    """Registers, stack and spills of the kernel for every arch, by ptxas; empty without nvcc."""
    rows = []
    for name in ("default", "paper"):
        for arch in ARCHES:
            found = layout(CASES[name])
            try:
                taken = compiler.resources(found, arch)
            except BackendError as error:  # an older nvcc does not know the newest
                print(f"{name} for {arch} is not compiled: {error.message}", file=sys.stderr)
                continue
            if taken is not None:
                rows.append({
                    "kernel": name, "arch": arch, "registers": taken.registers, "stack": taken.stack,
                    "spilled": taken.spilled, "shared_bytes": found.shared_bytes,
                })  # fmt: skip
    return rows


def sanitizer(tool: str) -> dict[str, str]:
    """compute-sanitizer over the exactness check in a process of its own."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return skipped("compute-sanitizer is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__]
        done = subprocess.run([*command, "--only", "exactness", "--out", folder], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    last = next((line for line in reversed(lines) if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line), "")
    return {"state": "ok" if done.returncode == 0 else "FAILED", "found": last or f"ended with {done.returncode}"}


def clean_exit() -> dict[str, str]:
    """A process that used the GPU ends with 0: a context left on a stack would abort it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--only", "threads", "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    found = f"the process ended with {done.returncode}"
    return {"state": "ok" if done.returncode == 0 else "FAILED", "found": found}


def on_gpu(device: _cuda.Device, gpu: _trt_driver.Gpu, folder: Path, only: str, engine: Path | None) -> Report:
    """All checks and measurements of a GPU."""
    found = next(compiler.candidates(), None)
    if found is None:
        raise SystemExit("neither nvcc nor NVRTC is here: the kernel cannot be compiled")
    arch = compiler.arch_of(gpu.capability)

    def compile_kernel(wanted: Layout) -> bytes:
        return compiler.cubin(wanted, arch, found, folder)

    report: Report = {"gpu": str(gpu), "compiler": found.name}
    report["checks"] = checked(CudaRunner(device, compile_kernel), (device, compile_kernel), folder, only)
    if only:
        return report
    report["checks"] |= {tool: sanitizer(tool) for tool in ("memcheck", "racecheck")}
    report["checks"]["clean exit"] = clean_exit()
    report["empty_launch"] = gpu_speed.empty_launch(device, found.compile(gpu_speed.EMPTY, arch))
    return report | measured(device, compile_kernel) | pipelined(device, compile_kernel, engine, report["checks"])


def pipelined(
    device: _cuda.Device, compile_kernel: Compile, folder: Path | None, checks: dict[str, dict[str, str]], **given: Any
) -> Report:
    """The engine as it runs on a line, of `folder` or with the stand-in; its checks are added to `checks`."""
    reason = "" if folder else gpu_rivals.missing()
    if reason:
        checks |= {name: skipped(reason) for name in PIPELINE}
        return {"pipeline": skipped(reason)}
    if folder:
        opened, shape = gpu_pipeline.folder_engines(folder)
    else:
        opened, shape = gpu_pipeline.torch_engines(device, compile_kernel), (gpu_pipeline.SIDE, gpu_pipeline.SIDE, 3)
    for name, check in zip(PIPELINE, (gpu_pipeline.two_batches, gpu_pipeline.graphs), strict=True):
        checks[name] = run_check(partial(check, opened, shape))
    return {"pipeline": gpu_pipeline.pipeline_rows(opened, shape, **given)}


def measured(device: _cuda.Device, compile_kernel: Compile, **options: Any) -> Report:
    """Copy bandwidth, the table of batches for both methods, block sizes, and the rivals."""
    bandwidth = gpu_speed.copy_bandwidth(device, options.pop("copy", gpu_speed.COPY))
    report: Report = {"copy_gb_per_s": bandwidth / 1e9}
    report["default"] = gpu_speed.bandwidth_table(device, compile_kernel, DEFAULT, bandwidth, **options)
    report["paper"] = gpu_speed.bandwidth_table(device, compile_kernel, PAPER, bandwidth, **options)
    batches = options.pop("batches", (1, 32))
    report["blocks"] = [
        gpu_speed.kernel_row(device, compile_kernel, layout(DEFAULT), batch, block=block, **options)
        for batch in batches[:2]
        for block in (64, 128, 256)
    ]
    reason = gpu_rivals.missing()
    report["rivals"] = skipped(reason) if reason else gpu_rivals.compare(device, compile_kernel, DEFAULT)
    report["frame"] = skipped(reason) if reason else gpu_frame.frame_rows(device, compile_kernel)
    return report


def checked(runner: Runner, gpu: tuple[Any, Compile] | None, folder: Path, only: str = "") -> dict[str, dict[str, str]]:
    """The checks of a runner, and the comparison with the host build, bit by bit."""
    found = gpu_checks.checks(runner, gpu)
    other = HostRunner(folder, order=1)
    found["bits of the host build"] = lambda: gpu_checks.same_bits(runner, other)
    return {name: run_check(check) for name, check in found.items() if only in ("", name)}


def on_host(folder: Path, only: str) -> Report:
    """What can be known without a GPU; the rest is listed with the reason."""
    report: Report = {"gpu": "none", "checks": checked(HostRunner(folder), None, folder, only)}
    for name in ("digest", "failed launch", "threads", "leaks", "memcheck", "racecheck", "clean exit", *PIPELINE):
        report["checks"][name] = skipped("no GPU")
    measurements = "empty_launch", "default", "paper", "blocks", "rivals", "frame", "pipeline"
    return report | {name: skipped("no GPU") for name in measurements}


def markdown(report: Report) -> str:
    """The report for people."""
    lines = [f"# Scoring kernel on {report['gpu']}", "", f"{report['machine']}, compiler {report.get('compiler')}", ""]
    lines += table([{"check": name, **row} for name, row in report["checks"].items()])
    titles: dict[str, str] = {
        "empty_launch": "An empty launch", "default": "Default method", "paper": "Paper's method",
        "blocks": "Block sizes", "rivals": "The same score by others",
        "frame": "A whole frame, a network in torch standing in", "pipeline": "Two batches under way, and CUDA graphs",
        "resources": "What a thread takes",
    }  # fmt: skip
    if "copy_gb_per_s" in report:
        lines += ["", f"Copy bandwidth {report['copy_gb_per_s']:.0f} GB/s, read and written counted."]
    for key, title in titles.items():
        if key in report:
            value = report[key]
            lines += ["", f"## {title}", "", *(table(value) if isinstance(value, list) else table([value]))]
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a Markdown table; nothing for none."""
    if not rows:
        return ["none"]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    show: Callable[[Any], str] = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    body = [f"| {' | '.join(show(row.get(key, '')) for key in keys)} |" for row in rows]
    return [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}", *body]


def main() -> None:
    """Run everything that this machine can run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--host", action="store_true", help="the host build, no GPU")
    parser.add_argument("--only", default="", help="one check by its name, and no measurement")
    parser.add_argument("--engine", type=Path, help="an engine folder built here, to run instead of torch")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.host:
            report = on_host(Path(folder), given.only)
        else:
            try:
                gpu, device = _trt_driver.find(), _cuda.Device()
            except MtkdError as error:
                sys.exit(f"error: {error}\n  without a GPU: --host")
            report = on_gpu(device, gpu, Path(folder), given.only, given.engine)
    report["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    if not given.only:
        report["resources"] = resources() or skipped("no nvcc")
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.out / "report.md").write_text(markdown(report))
    print(markdown(report))
    if any(check["state"] == "FAILED" for check in report["checks"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
