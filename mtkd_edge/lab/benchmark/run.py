"""All cells of a benchmark, each run once: a finished one is taken from its file, a stopped one goes on.

<out>/settings.json                            what the cells have in common
<out>/results/<variant>/<category>-<seed>.json     one finished cell
<out>/unfinished/                              checkpoints of cells that are not finished
<out>/benchmark.json  benchmark.md             all of it, and the tables
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from mtkd_edge import __version__
from mtkd_edge.bundle import write_file
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.lab.benchmark import map_cell, paper_cell, tables
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Outcome
from mtkd_edge.lab.benchmark.settings import Settings, Variant
from mtkd_edge.lab.benchmark.suites import Suite, Task, choose, open_suite
from mtkd_edge.lab.train import pick_device
from mtkd_edge.progress import Progress, silent

SETTINGS, RESULTS, WORK = "settings.json", "results", "unfinished"


class Report(msgspec.Struct, frozen=True):
    """What `benchmark.json` holds. `device` is the processor the networks ran on."""

    settings: Settings
    version: str
    device: str
    torch: str
    outcomes: tuple[Outcome, ...]


def run(
    settings: Settings, variants: Sequence[Variant], categories: Sequence[str], seeds: int, out: Path,
    progress: Progress = silent,
) -> Report:  # fmt: skip
    """Run what is missing of variants x categories x seeds 0, 1, .. and write the tables.

    Raises UsageError where `out` holds a benchmark with other settings or a category is not there, DataError for data
    that cannot be had, and what the cells raise.
    """
    settings.check()
    if seeds < 1:
        raise UsageError(f"--seeds is at least 1, got {seeds}", "--seeds 3")
    device = torch.device(pick_device(settings.device))
    suite = open_suite(settings)
    names = choose(suite, categories)
    claim(out, settings)
    done, total = 0, len(names) * len(variants) * seeds
    outcomes = []
    for name in names:
        photos = _Photos(suite, name, settings, out, progress)
        for variant in variants:
            for seed in range(seeds):
                path = out / RESULTS / variant.name / f"{name}-{seed}.json"
                folder = out / WORK / variant.name / f"{name}-{seed}"
                outcomes.append(
                    load(path) or _cell(Job(settings, variant, name, seed, folder, device, progress), photos, path)
                )
                done += 1
                progress("benchmark", done, total, f"{name} {variant.name} seed {seed}: {outcomes[-1].image_auroc:.4f}")
    report = Report(settings, __version__, named(device), str(torch.__version__), tuple(outcomes))
    write_file(out / "benchmark.json", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    write_file(out / "benchmark.md", tables.markdown(settings, outcomes, report.device).encode())
    return report


class _Photos:
    """The photos of one category, read when the first cell needs them."""

    def __init__(self, suite: Suite, name: str, settings: Settings, out: Path, progress: Progress) -> None:
        self.suite, self.name, self.settings, self.progress = suite, name, settings, progress
        self.scratch = out / WORK / "photos"
        self._task: Task | None = None

    def task(self) -> Task:
        """As frames in memory."""
        if self._task is None:
            self._task = self.suite.task(self.name, self.settings, self.progress)
        return self._task

    def folder(self) -> Path:
        """As files."""
        return self.suite.folder(self.name, self.settings, self.scratch)


def _cell(job: Job, photos: _Photos, path: Path) -> Outcome:
    job.folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    outcome = map_cell.run(job, photos.folder()) if job.settings.method == "map" else paper_cell.run(job, photos.task())
    write_file(path, msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    shutil.rmtree(job.folder)
    return outcome


def load(path: Path) -> Outcome | None:
    """A finished cell, or None. Raises BundleError for a file that is not one."""
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BundleError(
            f"{path} is damaged or of another version: {error}", f"delete {path} to run it again"
        ) from error


def claim(out: Path, settings: Settings) -> None:
    """Make the folder, or check that what it holds was run with the same settings. Raises UsageError naming them."""
    path = out / SETTINGS
    if path.is_file():
        try:
            old = msgspec.json.decode(path.read_bytes(), type=Settings)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise BundleError(f"{path} is damaged or of another version: {error}", "another --out") from error
        changed = [name for name in Settings.__struct_fields__ if getattr(old, name) != getattr(settings, name)]
        if changed:
            raise UsageError(f"{out} was run with another {', '.join(changed)}", f"another --out than {out}")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(settings), indent=1) + b"\n")


def named(device: torch.device) -> str:
    """The GPU's name, or the processor's kind and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
