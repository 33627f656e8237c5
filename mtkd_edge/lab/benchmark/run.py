"""All cells of a benchmark, each run once: a finished one is taken from its file, a stopped one goes on.

<out>/settings.json                            what the cells have in common, and what ran them
<out>/results/<variant>/<category>-<seed>.json     one finished cell
<out>/unfinished/<variant>/<category>-<seed>/      checkpoint of a cell that is not finished, photos.sha256
<out>/benchmark.json  benchmark.md             all of it, and the tables
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from mtkd_edge.bundle import make_folder, write_file
from mtkd_edge.errors import BundleError, DataError, MtkdError, UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.lab.benchmark import map_cell, paper_cell, tables
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Maker, Outcome
from mtkd_edge.lab.benchmark.settings import Settings, Variant
from mtkd_edge.lab.benchmark.suites import Suite, Task, choose, open_suite
from mtkd_edge.lab.config import PROGRAM
from mtkd_edge.lab.paper_method import check_students
from mtkd_edge.lab.train import CHECKPOINT, pick_device
from mtkd_edge.progress import Progress, silent

SETTINGS, RESULTS, WORK, PHOTOS = "settings.json", "results", "unfinished", "photos.sha256"


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
    category is not there, DataError for data that cannot be had or are others than a cell was begun with, and what the
    cells raise. A benchmark that ends so before anything was learned leaves `out` to other settings.
    """
    check(settings)
    if seeds < 1:
        raise UsageError(f"--seeds is at least 1, got {seeds}", "--seeds 3")
    device = torch.device(pick_device(settings.device))
    suite = open_suite(settings)
    names = choose(suite, categories)
    maker = Maker(PROGRAM, str(torch.__version__), named(device))
    fresh = claim(out, Claim(settings, maker))
    try:
        photos = {name: suite.digest(name, settings, progress) for name in names}
        begun = out / WORK
        jobs = [
            Job(settings, row, name, seed, begun / row.name / f"{name}-{seed}", photos[name], device, progress)
            for name in names
            for row in variants
            for seed in range(seeds)
        ]
        outcomes = _outcomes(jobs, _Photos(suite, begun / "photos"), out / RESULTS, maker)
        shutil.rmtree(begun / "photos", ignore_errors=True)  # as files, of suites that keep them otherwise
    except MtkdError:
        if fresh:
            _let_go(out)
        raise
    report = Report(settings, maker.version, maker.device, maker.torch, tuple(outcomes))
    write_file(out / "benchmark.json", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    write_file(out / "benchmark.md", tables.markdown(settings, outcomes, report.device).encode())
    return report


def check(settings: Settings) -> None:
    """Raises UsageError for settings that make no sense, and for a student that is not known."""
    settings.check()
    if settings.method == "paper":
        check_students(settings.teachers, settings.student)


def _outcomes(jobs: Sequence[Job], photos: _Photos, results: Path, maker: Maker) -> list[Outcome]:
    paths = [results / job.variant.name / f"{job.category}-{job.seed}.json" for job in jobs]
    # all of them before the first is run: what is refused should not be refused after hours
    finished = [load(path, job, maker) for path, job in zip(paths, jobs, strict=True)]
    outcomes: list[Outcome] = []
    for path, job, known in zip(paths, jobs, finished, strict=True):
        outcomes.append(found := known or _cell(job, photos, path, maker))
        said = f"{job.category} {job.variant.name} seed {job.seed}: {found.image_auroc:.4f}"
        job.progress("benchmark", len(outcomes), len(jobs), said)
    return outcomes


class _Photos:
    """The photos of the cells, read when the first cell of a category needs them."""

    def __init__(self, suite: Suite, scratch: Path) -> None:
        self.suite, self.scratch = suite, scratch
        self._task: Task | None = None

    def task(self, job: Job) -> Task:
        """As frames in memory, of one category at a time."""
        if self._task is None or self._task.name != job.category:
            self._task = None  # two categories may not fit into memory
            self._task = self.suite.task(job.category, job.settings, job.progress)
        return self._task

    def folder(self, job: Job) -> Path:
        """As files."""
        return self.suite.folder(job.category, job.settings, self.scratch / job.photos[:16])


def _cell(job: Job, photos: _Photos, path: Path, maker: Maker) -> Outcome:
    if not _learned(job.folder):
        shutil.rmtree(job.folder, ignore_errors=True)  # it may list photos that were replaced since
    job.folder.mkdir(parents=True, exist_ok=True)
    write_file(job.folder / PHOTOS, job.photos.encode())
    try:
        if job.settings.method == "map":
            found = map_cell.run(job, photos.folder(job))
        else:
            found = paper_cell.run(job, photos.task(job))
    except MtkdError:
        if not _learned(job.folder):
            shutil.rmtree(job.folder)
        raise
    outcome = msgspec.structs.replace(found, made_by=maker, digest=job.photos)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    shutil.rmtree(job.folder)
    return outcome


def _learned(folder: Path) -> bool:
    return any(folder.rglob(CHECKPOINT))


def _let_go(out: Path) -> None:
    """What was refused before it had learned anything does not hold the folder to its settings."""
    if _learned(out / WORK) or any((out / RESULTS).rglob("*.json")):
        return
    (out / SETTINGS).unlink(missing_ok=True)
    for folder in (*(out / WORK).glob("*"), out / WORK, out):
        with contextlib.suppress(OSError):  # there is something else in it
            folder.rmdir()


def load(path: Path, job: Job, maker: Maker) -> Outcome | None:
    """A finished cell, or None.

    Raises BundleError for a file that is not one, UsageError for a cell that was put there from another folder,
    DataError for a cell, finished or stopped, of other photos.
    """
    if not path.is_file():
        if _learned(job.folder):
            listed = job.folder / PHOTOS
            _same_photos(job.folder, listed.read_text(errors="replace") if listed.is_file() else "", job)
        return None
    try:
        outcome = msgspec.json.decode(path.read_bytes(), type=Outcome)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is damaged or of another version: {error}", f"delete {path} to run it again"
        ) from error
    if outcome.made_by != maker:
        raise UsageError(f"{path} was run by {told(outcome.made_by)}, the others by {told(maker)}", f"delete {path}")
    _same_photos(path, outcome.digest, job)
    return outcome


def _same_photos(where: Path, before: str, job: Job) -> None:
    if before != job.photos:
        what = f"was run with other photos of {job.category}" if before else "does not say with which photos it was run"
        raise DataError(f"{where} {what}", f"another --out, or delete {where} to run this cell again")


def claim(out: Path, wanted: Claim) -> bool:
    """Make the folder, or check that what it holds was run with the same settings by the same program.

    Returns whether the settings were written. Raises UsageError naming what differs, BundleError for a file that is
    none of ours.
    """
    path = out / SETTINGS
    if not path.is_file():
        make_folder(out)
        write_file(path, msgspec.json.format(msgspec.json.encode(wanted), indent=1) + b"\n")
        return True
    try:
        old = msgspec.json.decode(path.read_bytes(), type=Claim)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is damaged or of another version: {error}", "--out FOLDER, one that does not exist yet"
        ) from error
    same = Path(old.settings.root).resolve() == Path(wanted.settings.root).resolve()  # however it was spelt
    fields = [name for name in Settings.__struct_fields__ if not (same and name == "root")]
    if changed := [name for name in fields if getattr(old.settings, name) != getattr(wanted.settings, name)]:
        raise UsageError(f"{out} was run with another {', '.join(changed)}", f"another --out than {out}")
    if old.made_by != wanted.made_by:
        raise UsageError(
            f"{out} was run by {told(old.made_by)}, this is {told(wanted.made_by)}: one table would hold both",
            f"another --out than {out}, one that does not exist yet",
        )
    return False


def told(maker: Maker | None) -> str:
    """In words."""
    if maker is None:
        return "a version that did not say which it was"
    return f"version {maker.version} with torch {maker.torch} on {maker.device}"


def named(device: torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
