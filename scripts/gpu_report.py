"""Everything that is to be known of the scoring kernel on a GPU, in one run: exactness, races, contexts, speed.

    python scripts/gpu_report.py --out measured/kernel          on a machine with a GPU, pycuda, and nvcc or NVRTC
    python scripts/gpu_report.py --engine engines/bottle-h100 --out measured/kernel          its engine, not a stand-in
    python scripts/gpu_report.py --only rivals --out measured/rivals          one section, or one check
    python scripts/gpu_report.py --host --out measured/kernel   without one: the host build, and what compilers say

Writes report.json and report.md again after everything that it finds, prints the Markdown, and ends with 1 where
something fails. Each section runs in a process of its own: what breaks one is in the report with its reason, and the
others go on. So is what could not run, never left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_child
import gpu_frame
import gpu_pipeline
import gpu_rivals
import gpu_speed
from gpu_cases import CASES, DEFAULT, PAPER
from gpu_rows import NotHereError, Row, any_failed, attempt, failed, skipped
from gpu_runners import Compile, CudaRunner, HostRunner, Runner, compiler_for
from gpu_written import Report, markdown

from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.kernel import compiler
from mtkd_edge.device.kernel.layout import Layout, layout
from mtkd_edge.device.workers.main import die_with
from mtkd_edge.errors import BackendError, MtkdError, UsageError

ARCHES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110")
PIPELINE = "two batches", "CUDA graph"
TOOLS = "memcheck", "racecheck"
CHECKS = (
    "exactness", "launch shapes", "verdict bits", "digest", "failed launch", "threads", "leaks",
    "bits of the host build",
)  # fmt: skip
SECTIONS = "checks", "speed", "rivals", "frame", "pipeline"
LIMIT = 240.0


@dataclass(frozen=True)
class Machine:
    """The GPU of a section; compiled kernels are kept in `scratch`. `engine`: a folder, or None for the stand-in."""

    device: _cuda.Device
    gpu: _trt_driver.Gpu
    scratch: Path
    engine: Path | None

    @property
    def arch(self) -> str:
        """As "sm_90"."""
        return compiler.arch_of(self.gpu.capability)

    @cached_property
    def compiler(self) -> compiler.Compiler:
        """Whoever compiles for it. Raises BackendError where nobody does."""
        return compiler_for(self.device, self.arch, gpu_speed.EMPTY)

    def compile(self, wanted: Layout) -> bytes:
        """A cubin. Raises BackendError."""
        return compiler.cubin(wanted, self.arch, self.compiler, self.scratch)


def run_check(check: gpu_checks.Check) -> Row:
    """What a check found, or what is wrong; one that fails does not keep the others from running."""
    return attempt(lambda: {"state": "ok", "found": check()})


def resources() -> list[Row]:
    """Registers, stack and spills of the kernel for every arch, by ptxas; empty without nvcc."""
    rows = []
    for name, arch in ((name, arch) for name in ("default", "paper") for arch in ARCHES):
        found = layout(CASES[name])
        row = {"kernel": name, "arch": arch, "shared_bytes": found.shared_bytes}
        try:
            taken = compiler.resources(found, arch)
        except BackendError as error:  # an older nvcc does not know the newest
            rows.append(row | skipped(error.message))
            continue
        if taken is not None:
            rows.append(row | {"registers": taken.registers, "stack": taken.stack, "spilled": taken.spilled})
    return rows


def sanitizer(tool: str, command: list[str], limit: float) -> Row:
    """compute-sanitizer over the exactness check in a process of its own."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return skipped("compute-sanitizer is not installed")
    ended = once([program, "--tool", tool, "--error-exitcode", "9", *command, "--only", "exactness"], limit)
    lines = ended.said.strip().splitlines()
    last = next((line for line in reversed(lines) if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line), "")
    # without a summary nothing was looked at, whatever the exit code
    return {"state": "ok", "found": last} if ended.code == 0 and last else failed(f"{ended.reason()}; {last}")


def clean_exit(command: list[str], limit: float) -> Row:
    """A process that used the GPU ends with 0: a context left on a stack would abort it."""
    ended = once([*command, "--only", "threads"], limit)
    return {"state": "ok", "found": "the process ended with 0"} if ended.code == 0 else failed(ended.reason())


def once(command: list[str], limit: float) -> gpu_child.Ended:
    """A run of this script whose report nobody wants."""
    with tempfile.TemporaryDirectory() as folder:
        return gpu_child.run([*command, "--out", folder], limit)


def everything(report: Report, command: list[str], engine: Path | None, limit: float) -> None:
    """All sections of a GPU, the slowest last. `command` runs this script, for one of them with `--only`."""
    mine = [*command, "--parent", str(os.getpid())]
    if engine is not None:
        gpu_child.section("engine", mine, report, limit)
        if any_failed(report.found):
            return  # it was asked for, and minutes of other figures would only hide that it does not open
    for name in SECTIONS:
        gpu_child.section(name, mine, report, limit)
    last = {"clean exit": partial(clean_exit, command, limit)}
    last |= {tool: partial(sanitizer, tool, command, limit) for tool in TOOLS}
    for name, check in last.items():
        began = time.monotonic()
        report.check(name, attempt(check))
        report.took(name, began)
    report.add({"resources": attempt(resources) or skipped("no nvcc")})


def here(machine: Machine, report: Report, only: str) -> None:
    """One section, or one check, in this process."""
    trouble = attempt(partial(section, machine, report, only))
    if trouble is not None:
        report.check(f"section {only}", trouble)


def section(machine: Machine, report: Report, only: str) -> None:
    """As `here`, but whatever is wrong with the whole of it is raised."""
    device, compile_kernel = machine.device, machine.compile
    if only == "engine" and machine.engine is not None:
        report.check(only, run_check(partial(gpu_pipeline.try_out, *gpu_pipeline.folder_engines(machine.engine))))
    elif only == "pipeline":
        pipelined(device, compile_kernel, machine.engine, report)
    elif only in ("rivals", "frame"):
        reason = gpu_rivals.missing()
        work = partial(gpu_rivals.compare, spec=DEFAULT) if only == "rivals" else gpu_frame.frame_rows
        if reason:
            report.add({only: skipped(reason)})
        else:
            report.grow(only, work(device, compile_kernel))
    else:
        report.add({"compiler": machine.compiler.name})
        if only == "speed":
            empty = machine.compiler.compile(gpu_speed.EMPTY, machine.arch)
            report.add({"empty_launch": attempt(partial(gpu_speed.empty_launch, device, empty))})
            measured(device, compile_kernel, report)
        else:
            checked(CudaRunner(device, compile_kernel), (device, compile_kernel), machine.scratch, report, only)


def pipelined(device: _cuda.Device, compile_kernel: Compile, folder: Path | None, report: Report, **given: Any) -> None:
    """The engine as it runs on a line, of `folder` or with the stand-in."""
    reason = "" if folder else gpu_rivals.missing()
    if reason:
        report.add({"checks": {name: skipped(reason) for name in PIPELINE}, "pipeline": skipped(reason)})
        return
    if folder:
        opened, shape = gpu_pipeline.folder_engines(folder)
    else:
        opened, shape = gpu_pipeline.torch_engines(device, compile_kernel), (gpu_pipeline.SIDE, gpu_pipeline.SIDE, 3)
    for name, check in zip(PIPELINE, (gpu_pipeline.two_batches, gpu_pipeline.graphs), strict=True):
        report.check(name, run_check(partial(check, opened, shape)))
    report.grow("pipeline", gpu_pipeline.pipeline_rows(opened, shape, **given))


def measured(device: _cuda.Device, compile_kernel: Compile, report: Report, **options: Any) -> None:
    """Copy bandwidth, the table of batches for both methods, and block sizes."""
    bandwidth = gpu_speed.copy_bandwidth(device, options.pop("copy", gpu_speed.COPY))
    report.add({"copy_gb_per_s": bandwidth / 1e9})
    for name, spec in (("default", DEFAULT), ("paper", PAPER)):
        report.grow(name, gpu_speed.bandwidth_table(device, compile_kernel, spec, bandwidth, **options))
    batches = options.pop("batches", (1, 32))
    row = partial(gpu_speed.kernel_row, device, compile_kernel, layout(DEFAULT), **options)
    blocks = [(batch, block) for batch in batches[:2] for block in (64, 128, 256)]
    rows = ({"batch": batch, "block": block, **attempt(partial(row, batch, block=block))} for batch, block in blocks)
    report.grow("blocks", rows)


def checked(runner: Runner, gpu: tuple[Any, Compile] | None, folder: Path, report: Report, only: str = "") -> None:
    """The checks of a runner, and the comparison with the host build, bit by bit."""
    found = gpu_checks.checks(runner, gpu)
    other = HostRunner(folder, order=1)

    def host_bits() -> str:
        if shutil.which("g++") is None:
            raise NotHereError("g++ is not installed, which makes the host build")
        return gpu_checks.same_bits(runner, other)

    found["bits of the host build"] = host_bits
    for name in CHECKS:
        if only in ("", "checks", name):
            report.check(name, run_check(found[name]) if name in found else skipped("no GPU"))


def on_host(report: Report, folder: Path, only: str) -> None:
    """What can be known without a GPU; the rest is listed with the reason."""
    checked(HostRunner(folder), None, folder, report, only)
    if only:
        return
    names = "clean exit", *TOOLS, *PIPELINE
    measurements = "empty_launch", "default", "paper", "blocks", "rivals", "frame", "pipeline"
    absent = {name: skipped("no GPU") for name in measurements}
    report.add({"checks": {name: skipped("no GPU") for name in names}, **absent})
    report.add({"resources": attempt(resources) or skipped("no nvcc")})


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--host", action="store_true", help="the host build, no GPU")
    parser.add_argument("--only", default="", choices=("engine", *SECTIONS, *CHECKS), help="one section, or one check")
    parser.add_argument("--engine", type=Path, help="an engine folder built here, to run instead of torch")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one section [default: %(default)g]")
    parser.add_argument("--scratch", type=Path, help="where compiled kernels are kept [default: a temporary folder]")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(given: argparse.Namespace, scratch: Path) -> Report:
    """The report. Raises MtkdError, before anything has run, for what is asked for and cannot be."""
    about = {"machine": f"{platform.machine()}, Python {platform.python_version()}"}
    if given.host:
        if given.only not in ("", "checks", *CHECKS):
            raise UsageError(f"--only {given.only} needs a GPU", "leave out --host")
        report = Report(given.out, {"gpu": "none", **about}, bool(given.only))
        on_host(report, scratch, given.only)
        return report
    if given.engine is not None:
        gpu_pipeline.folder_engines(given.engine)
    elif given.only == "engine":
        raise UsageError("no engine was named", "--engine FOLDER")
    gpu = _trt_driver.find()
    _cuda.import_driver()
    report = Report(given.out, {"gpu": str(gpu), **about}, bool(given.only))
    if given.only:
        here(Machine(_cuda.Device(), gpu, scratch, given.engine), report, given.only)
    else:
        # ended by the system too it ends its children first
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        command = [sys.executable, "-X", "faulthandler", str(Path(sys.argv[0]).resolve()), "--scratch", str(scratch)]
        command += [] if given.engine is None else ["--engine", str(given.engine)]
        everything(report, command, given.engine, given.limit)
    return report


def main() -> None:
    """Run everything that this machine can run."""
    given = arguments()
    if given.parent is not None:
        die_with(given.parent)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            scratch: Path = given.scratch or Path(folder)
            scratch.mkdir(parents=True, exist_ok=True)
            report = run(given, scratch)
        except MtkdError as error:
            sys.exit(f"error: {error}" if given.host else f"error: {error}\n  without a GPU: --host")
    print(markdown(report.found))
    if any_failed(report.found):
        sys.exit(1)


if __name__ == "__main__":
    main()
