"""anomalib's methods beside ours: the same photos, ResNet-18 weights, seeds and definitions, in one table.

    python scripts/compare_rivals.py BOTTLE TILES --weights WEIGHTS --out measured/rivals [--seeds 0,1,2]
    python scripts/compare_rivals.py ... --predict     says what each would cost, and runs nothing
    python scripts/compare_rivals.py ... --speed       times the exported models in turn; on a quiet machine

WEIGHTS holds the folders resnet18, mobilenetv2_100 and mobilenetv1_100 in timm's hub format. anomalib lives in an
environment of its own: --anomalib-python names one that has anomalib, onnx and onnxscript, else OUT/anomalib is made.

Rivals get photos squashed to 256 x 256 pixels, "ours" the frames of its defaults and "ours-squashed" those of the
rivals. Rivals learn from all good photos, ours from three quarters of them (the rest is for its threshold). Test
photos go to anomalib without labels or masks; all figures are by `mtkd_edge.device.evaluate` from raw scores, last
step. --max-minutes is processor time for each method and seed: the largest setting that is predicted to fit is run,
and what needs twice as much is stopped, and named so in the table. A second run continues: a cell is one JSON file,
and one that was stopped is tried again with a larger budget (name its method and data alone: for those that train by
steps a budget is a setting). Where photos, weights or settings are other ones than those of the cells that are there,
nothing is run, and what differs is named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import rivals_costs as costs
import rivals_speed
import rivals_table as tables
from rivals_photos import Photos, prepare
from rivals_table import Cell
from rivals_work import OverBudgetError, environment, spend, version

from mtkd_edge import __version__
from mtkd_edge.bundle import FEATURES, HEAD, sha256
from mtkd_edge.device import evaluate
from mtkd_edge.device.evaluate import Evaluation, Seen
from mtkd_edge.lab.config import PROGRAM

CHILD = Path(__file__).with_name("rivals_child.py")
BACKBONE = "resnet18"
THREE = (BACKBONE, "mobilenetv2_100", "mobilenetv1_100")


@dataclass(frozen=True)
class Own:
    """One of ours: its teachers, what `--fit` is, and the precision of the engine."""

    teachers: tuple[str, ...] = THREE
    fit: str = "auto"
    precision: str = "fp32"


OURS = {
    "ours": Own(),
    "ours-int8": Own(precision="int8"),
    "ours-squashed": Own(fit="squash"),
    "ours-resnet18": Own((BACKBONE,)),
}
METHODS = ("padim", "ours", "stfpm", "patchcore", "rd", "ours-resnet18", "ours-squashed", "ours-int8")
GRACE = 2
"""A cell is stopped after so many times its budget: predictions are right within a factor of two."""


@dataclass(frozen=True)
class Setup:
    """What all cells have in common. `budget` is in processor minutes, `rate` in GMAC a second of one thread.

    `anomalib` is a Python that has it, `version` what it says it has.
    """

    out: Path
    weights: Path
    anomalib: Path
    version: str
    budget: float
    rate: float
    batch: int
    threads: int


def wanted(path: Path, base: Cell) -> bool:
    """Whether a cell must be run: it has not been, or was stopped with a smaller budget or other settings."""
    if not path.exists():
        return True
    cell = msgspec.json.decode(path.read_bytes(), type=Cell)
    same = (cell.setting, cell.asked) == (base.setting, base.asked)
    return bool(cell.stopped) and (base.budget > cell.budget or not same)


def planned(method: str, seed: int, photos: Photos, setup: Setup) -> Cell:
    """A cell before it is run."""
    weights = [
        sha256(setup.weights / name / "model.safetensors")[:16]
        for name in (OURS[method].teachers if method in OURS else (BACKBONE,))
    ]
    asked = {"photos": photos.digest[:16], "weights": " ".join(weights), "threads": str(setup.threads)}
    asked["program"] = PROGRAM if method in OURS else f"{setup.version}, judged by {__version__}"
    setting = plan(method, photos, setup).setting
    return Cell(data=photos.name, method=method, seed=seed, setting=setting, asked=asked, budget=setup.budget)


def run_cell(method: str, seed: int, photos: Photos, setup: Setup) -> None:
    """Run one method with one seed and write its cell, unless it is there."""
    path = photos.folder / f"{method}-seed{seed}.json"
    base = planned(method, seed, photos, setup)
    if not wanted(path, base):
        return
    found = plan(method, photos, setup)
    print(f"{photos.name} {method} seed {seed}: {found.setting}; {foretold(found)}", file=sys.stderr, flush=True)
    try:
        cell = ours(base, photos, setup) if method in OURS else rival(base, found.options, photos, setup)
    except OverBudgetError as error:
        cell = msgspec.structs.replace(base, stopped=str(error))
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(cell), indent=1) + b"\n")
    scratch.replace(path)


def plan(method: str, photos: Photos, setup: Setup) -> costs.Plan:
    """What would be run."""
    if method in OURS:
        own = OURS[method]
        return costs.Plan(f"{', '.join(own.teachers)}; --fit {own.fit}; {own.precision.upper()} by OpenVINO", (), 0, 0)
    counts = len(photos.listing.photos), len(photos.listing.test)
    return costs.plan(method, *counts, setup.budget, setup.rate, setup.batch)


def foretold(found: costs.Plan) -> str:
    """The prediction in words."""
    if not found.gmac:
        return "its defaults, not predicted"
    return f"{found.gmac / 1e3:.2g} TMAC, about {found.minutes:.2g} processor minutes"


def rival(base: Cell, options: tuple[str, ...], photos: Photos, setup: Setup) -> Cell:
    """Train and run it in anomalib's environment, and say here what its maps and scores are worth."""
    graph = photos.folder / f"{base.method}.onnx"
    with tempfile.TemporaryDirectory(dir=photos.folder) as scratch:
        command = [str(setup.anomalib), str(CHILD), base.method, str(photos.folder), scratch, *options]
        command += ["--weights", str(setup.weights / BACKBONE), "--seed", str(base.seed)]
        command += ["--threads", str(setup.threads), "--onnx", str(graph)]
        spend(command, GRACE * setup.budget, setup.threads)
        told = json.loads(Path(scratch, "child.json").read_text())
        found = judged(base.method, photos, Path(scratch))
    return filled(base, found, **told, model_mb=graph.stat().st_size / 1e6)


def judged(name: str, photos: Photos, answers: Path) -> Evaluation:
    """Maps [n, H, W] and scores [n] of the test photos, in order -> figures. Raises ValueError for another number."""
    maps, scores = np.load(answers / "maps.npy", mmap_mode="r"), np.load(answers / "scores.npy")
    test, shape = photos.listing.test, (photos.frame.height, photos.frame.width)
    if maps.shape != (len(test), *shape) or scores.shape != (len(test),):
        raise ValueError(f"{name}: maps of {len(test)} photos of {shape} wanted, got {maps.shape} and {scores.shape}")
    seen = [Seen(photo, float(score), values) for photo, score, values in zip(test, scores, maps, strict=True)]
    return evaluate.figures(name, 0.0, photos.listing, photos.frame, seen, [])


def ours(base: Cell, photos: Photos, setup: Setup) -> Cell:
    """`train`, `build-engine` and `evaluate` as a user types them; INT8 is built from the run of "ours"."""
    own = OURS[base.method]
    precision, name = own.precision, base.method.removesuffix("-int8")
    folder = photos.folder / f"{name}-seed{base.seed}"
    program, minutes = [sys.executable, "-m", "mtkd_edge"], GRACE * setup.budget
    engine, took = folder / precision, {}
    if precision == "fp32":
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted cell left
        if base.method == "ours":  # its INT8 engine was built from the run that goes now
            (photos.folder / f"ours-int8-seed{base.seed}.json").unlink(missing_ok=True)
        teachers = ",".join(f"local-dir:{setup.weights / name}" for name in own.teachers)
        train = ["train", photos.listing.root, "--out", str(folder / "run"), "--seed", str(base.seed)]
        train += ["--fit", own.fit]
        spent = spend([*program, *train, "--teachers", teachers], minutes, setup.threads)
        took = {"train_seconds": spent.processor, "train_wall": spent.seconds, "peak_mb": spent.peak_mb}
    elif not (folder / "run").is_dir():
        raise SystemExit(f"{base.method} is built from the run of ours, which is not there: run the method ours first")
    shutil.rmtree(engine, ignore_errors=True)
    build = ["build-engine", str(folder / "run"), f"--{precision}", "--target", "cpu", "--out", str(engine)]
    spend([*program, *build, "--calibration", str(folder / "calibration")], minutes, setup.threads)
    said = spend([*program, "evaluate", str(engine), photos.listing.root, "--json"], minutes, setup.threads).stdout
    size = sum((engine / name).stat().st_size for name in (FEATURES, HEAD)) / 1e6
    return filled(base, msgspec.json.decode(said, type=Evaluation), **took, model_mb=size)


def filled(base: Cell, found: Evaluation, **measured: float) -> Cell:
    """A cell with its figures."""
    areas = {name: getattr(found, name) for name in tables.FIGURES}
    return msgspec.structs.replace(base, **areas, per_defect=found.per_defect, **measured)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--anomalib-python", type=Path)
    parser.add_argument("--max-minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=20, help="GMAC a second of one thread, for the predictions")
    parser.add_argument("--batch", type=int, default=8, help="photos in a step of STFPM and Reverse Distillation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--seconds", type=float, default=5, help="of --speed, for each model")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="of --speed: more engines of ours, as folders")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, seed by seed, and print the table of all there is."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    methods = given.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        raise SystemExit(f"no method is called {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    sets = [prepare(root, given.out) for root in given.data]
    weights, python = given.weights.resolve(), given.anomalib_python or given.out / "anomalib"
    setup = Setup(given.out, weights, python, "", given.max_minutes, given.rate, given.batch, given.threads)
    if given.predict:
        for photos in sets:
            for method in methods:
                found = plan(method, photos, setup)
                print(f"{photos.name} {method}: {found.setting}; {foretold(found)}")
        return
    if not given.anomalib_python:
        setup = replace(setup, anomalib=environment(setup.anomalib))
    setup = replace(setup, version=version(setup.anomalib))
    if given.speed:
        speed(setup, sets, given.seconds, given.also)
    else:
        seeds = [int(seed) for seed in given.seeds.split(",")]
        now = [planned(method, seeds[0], photos, setup) for method in methods for photos in sets]
        tables.check(tables.read(given.out), now)
        for seed, method, photos in itertools.product(seeds, methods, sets):
            run_cell(method, seed, photos, setup)
    show(given.out, given.figure)


def speed(setup: Setup, sets: list[Photos], seconds: float, also: Sequence[Path] = ()) -> None:
    """Time all exported models in turn and keep it in speed.json; wants the cells "ours" and "ours-int8" of one set."""
    ours = next((f for photos in sets for f in sorted(photos.folder.glob("ours-seed*")) if (f / "int8").is_dir()), None)
    if ours is None:
        raise SystemExit("no INT8 engine of ours to time: run --methods ours,ours-int8 first")
    graphs = setup.out / "speed"
    graphs.mkdir(exist_ok=True)
    rivals_speed.export_untrained(setup.anomalib, CHILD, setup.weights / BACKBONE, graphs)
    filled_banks = [path for photos in sets for path in photos.folder.glob("patchcore.onnx")]
    found = {path.stem: path for path in [*sorted(graphs.glob("*.onnx")), *filled_banks]}
    rows = rivals_speed.measure(ours, found, os.cpu_count() or 1, seconds, also)
    (setup.out / "speed.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(rivals_speed.table(rows, tables.NAMES) + "\n")


def show(out: Path, figure: Path | None) -> None:
    """Print the table of all cells; draw the figure where it is asked for."""
    path = out / "speed.json"
    speeds = {n: row["p50"] for n, row in json.loads(path.read_text()).items()} if path.exists() else {}
    cells = tables.read(out)
    print(tables.table(cells, speeds))
    if figure:
        tables.draw(cells, speeds, figure)


if __name__ == "__main__":
    main()
