"""All cells of a benchmark, each run once: a finished one is taken from its file, a stopped one goes on.

<out>/settings.json                            what the cells have in common, and what ran them
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

from mtkd_edge.bundle import write_file
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.lab.benchmark import map_cell, paper_cell, tables
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Maker, Outcome
from mtkd_edge.lab.benchmark.settings import Settings, Variant
from mtkd_edge.lab.benchmark.suites import Suite, Task, choose, open_suite
from mtkd_edge.lab.config import PROGRAM
from mtkd_edge.lab.train import pick_device
from mtkd_edge.progress import Progress, silent

SETTINGS, RESULTS, WORK = "settings.json", "results", "unfinished"


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all cells of a folder have in common, finished or not."""

    settings: Settings
    made_by: Maker


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

    Raises UsageError where `out` holds a benchmark with other settings, of another version or another device, or a
    category is not there, DataError for data that cannot be had, and what the cells raise.
    """
    settings.check()
    if seeds < 1:
        raise UsageError(f"--seeds is at least 1, got {seeds}", "--seeds 3")
    device = torch.device(pick_device(settings.device))
    suite = open_suite(settings)
    names = choose(suite, categories)
    maker = Maker(PROGRAM, str(torch.__version__), named(device))
    claim(out, Claim(settings, maker))
    done, total = 0, len(names) * len(variants) * seeds
    outcomes = []
    for name in names:
        photos = _Photos(suite, name, settings, out, progress)
        for variant in variants:
            for seed in range(seeds):
                path = out / RESULTS / variant.name / f"{name}-{seed}.json"
                folder = out / WORK / variant.name / f"{name}-{seed}"
                job = Job(settings, variant, name, seed, folder, device, progress)
                outcomes.append(load(path, maker) or _cell(job, photos, path, maker))
                done += 1
                progress("benchmark", done, total, f"{name} {variant.name} seed {seed}: {outcomes[-1].image_auroc:.4f}")
    report = Report(settings, maker.version, maker.device, maker.torch, tuple(outcomes))
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


def _cell(job: Job, photos: _Photos, path: Path, maker: Maker) -> Outcome:
    job.folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    outcome = map_cell.run(job, photos.folder()) if job.settings.method == "map" else paper_cell.run(job, photos.task())
    outcome = msgspec.structs.replace(outcome, made_by=maker)
    write_file(path, msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    shutil.rmtree(job.folder)
    return outcome


def load(path: Path, maker: Maker) -> Outcome | None:
    """A finished cell, or None.

    Raises BundleError for a file that is not one, UsageError for a cell that was put there from another folder.
    """
    if not path.is_file():
        return None
    try:
        outcome = msgspec.json.decode(path.read_bytes(), type=Outcome)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is damaged or of another version: {error}", f"delete {path} to run it again"
        ) from error
    if outcome.made_by != maker:
        raise UsageError(f"{path} was run by {told(outcome.made_by)}, the others by {told(maker)}", f"delete {path}")
    return outcome


def claim(out: Path, wanted: Claim) -> None:
    """Make the folder, or check that what it holds was run with the same settings by the same program.

    Raises UsageError naming what differs, BundleError for a file that is none of ours.
    """
    path = out / SETTINGS
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_file(path, msgspec.json.format(msgspec.json.encode(wanted), indent=1) + b"\n")
        return
    try:
        old = msgspec.json.decode(path.read_bytes(), type=Claim)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is damaged or of another version: {error}", "--out FOLDER, one that does not exist yet"
        ) from error
    fields = Settings.__struct_fields__
    if changed := [name for name in fields if getattr(old.settings, name) != getattr(wanted.settings, name)]:
        raise UsageError(f"{out} was run with another {', '.join(changed)}", f"another --out than {out}")
    if old.made_by != wanted.made_by:
        raise UsageError(
            f"{out} was run by {told(old.made_by)}, this is {told(wanted.made_by)}: one table would hold both",
            f"another --out than {out}, one that does not exist yet",
        )


def told(maker: Maker | None) -> str:
    """In words."""
    if maker is None:
        return "a version that did not say which it was"
    return f"version {maker.version} with torch {maker.torch} on {maker.device}"


def named(device: torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
