"""What was measured beside the rivals: one cell a data set, method and seed; a table and a figure of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from matplotlib.figure import Figure

from mtkd_edge.lab.plots import INK

FIGURES = ("image_auroc", "pixel_auroc", "aupro")
NAMES = {
    "ours": "ours",
    "ours-int8": "ours, INT8",
    "ours-squashed": "ours, the rivals' frames",
    "ours-resnet18": "ours, ResNet-18 alone",
    "padim": "PaDiM",
    "patchcore": "PatchCore",
    "stfpm": "STFPM",
    "rd": "Reverse Distillation",
    "efficientad": "EfficientAD-S",
}
HEAD = (
    "method | image AUROC | pixel AUROC | AUPRO | train, s | torch ms | OpenVINO ms | peak MB | model MB | what was run"
)


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training of one method. Areas lie in [0, 1]; None where it was stopped, and then `stopped` says why.

    `train_seconds` are of processor time; `torch_ms` is the processor time of one frame, None for engines. `asked` is
    what, besides `setting`, the cells of one row have in common.
    """

    data: str
    method: str
    seed: int
    setting: str
    asked: dict[str, str] = {}
    budget: float
    stopped: str = ""
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    per_defect: dict[str, float | None] = {}
    train_seconds: float | None = None
    train_wall: float | None = None
    torch_ms: float | None = None
    peak_mb: float | None = None
    model_mb: float | None = None


def read(folder: Path) -> list[Cell]:
    """All cells under `folder`, in the order of NAMES and of their seeds."""
    cells = [msgspec.json.decode(path.read_bytes(), type=Cell) for path in sorted(folder.glob("*/*-seed*.json"))]
    return sorted(cells, key=lambda cell: (cell.data, list(NAMES).index(cell.method), cell.seed))


def check(cells: Sequence[Cell], now: Sequence[Cell] = ()) -> None:
    """Exits where cells of one row, or those to be run `now`, have other settings: their mean would be of none of them.

    Cells that were stopped have no figures, and any settings.
    """
    first: dict[tuple[str, str], tuple[str, dict[str, str]]] = {}
    for when, cell in [*((f"for seed {cell.seed}", cell) for cell in cells), *(("now", cell) for cell in now)]:
        if cell.stopped:
            continue
        mine = {"setting": cell.setting, **cell.asked}
        before, theirs = first.setdefault((cell.data, cell.method), (when, mine))
        for name in theirs | mine:
            old, new = (settings.get(name, "not known") for settings in (theirs, mine))
            if old != new:
                raise SystemExit(
                    f"{cell.data}, {cell.method}: {name} was {old} {before}, and is {new} {when}. One row would mix "
                    f"both: name another --out, or delete {cell.data}/{cell.method}-seed*.json to run them again"
                )


def table(cells: Sequence[Cell], speeds: dict[str, float]) -> str:
    """Markdown: a table a data set, a row a method; mean and standard deviation over the seeds.

    `speeds`: method -> milliseconds of a frame by OpenVINO. Exits as `check` does.
    """
    check(cells)
    parts = []
    for data in sorted({cell.data for cell in cells}):
        lines = [f"**{data}**", "", f"| {HEAD} |", "|---" + "|--:" * HEAD.count("|") + "|"]
        lines[-1] = lines[-1].removesuffix("--:|") + "---|"
        for method in NAMES:
            group = [cell for cell in cells if (cell.data, cell.method) == (data, method)]
            if group:
                lines.append(_row(method, group, speeds.get(method)))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(method: str, group: Sequence[Cell], speed: float | None) -> str:
    done = [cell for cell in group if not cell.stopped]
    numbers = [_spread([getattr(cell, name) for cell in done], 4) for name in FIGURES]
    plain = {"train_seconds": 0, "torch_ms": 0, "peak_mb": 0, "model_mb": 1}
    costs = {name: _mean([getattr(cell, name) for cell in done], digits) for name, digits in plain.items()}
    fast = "–" if speed is None else f"{speed:.1f}"
    notes = [f"{(done or group)[0].setting}; {len(done)} seed{'' if len(done) == 1 else 's'}"]
    notes += sorted({f"seed {cell.seed} stopped: {cell.stopped}" for cell in group if cell.stopped})
    cells = [NAMES[method], *numbers, costs["train_seconds"], costs["torch_ms"], fast, costs["peak_mb"]]
    return "| " + " | ".join([*cells, costs["model_mb"], "; ".join(notes)]) + " |"


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return _mean(known, digits)
    return f"{statistics.mean(known):.{digits}f} ± {statistics.stdev(known):.{digits}f}"


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.{digits}f}" if known else "–"


def draw(cells: Sequence[Cell], speeds: dict[str, float], path: Path) -> None:
    """Accuracy against the milliseconds of a frame: a column a data set, image AUROC above AUPRO; ours in one ink."""
    sets = sorted({cell.data for cell in cells})
    figure = Figure(figsize=(4.4 * len(sets), 6.4))
    grid = figure.subplots(2, len(sets), sharex=True, squeeze=False)
    for column, data in enumerate(sets):
        for row, (name, label) in enumerate((("image_auroc", "image AUROC"), ("aupro", "AUPRO"))):
            axes = grid[row][column]
            for method, speed in speeds.items():
                found = [getattr(cell, name) for cell in cells if (cell.data, cell.method) == (data, method)]
                known = [value for value in found if value is not None]
                if known:
                    mine = method.startswith("ours")
                    height = statistics.mean(known)
                    axes.scatter(speed, height, color=INK[0 if mine else 1], marker="o" if mine else "s")
                    axes.annotate(NAMES[method], (speed, height), (4, 4), textcoords="offset points", fontsize=8)
            axes.set_xscale("log")
            axes.set_ylabel(label)
            axes.margins(x=0.25, y=0.15)
        grid[0][column].set_title(data)
        grid[1][column].set_xlabel("OpenVINO, ms a frame")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
