"""`doctor`: what this machine has. `evaluate` and `bench`: what an engine reaches, and how fast."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import EngineArgument, Json
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.bench import Floor, Row
    from mtkd_edge.device.doctor_report import Report
    from mtkd_edge.device.engine import Engine

UNFIT = 6
USUAL = (1, 2, 4, 8)
Batches = Annotated[
    str | None, typer.Option(metavar="1,2,4", help="Batch sizes. [default: those of 1,2,4,8 that the engine takes]")
]
Model = Annotated[Path, typer.Argument(metavar="RUN_OR_ENGINE", help="A run folder or an engine folder.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="Photos in the MVTec AD layout.")]
Seconds = Annotated[float, typer.Option(metavar="S", help="How long each batch size runs.")]
COLOURS = {"ok": console.BLUE, "warn": console.ORANGE, "fail": console.RED}


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("evaluate", cls=Command, rich_help_panel="Look")(evaluate)
    app.command("bench", cls=Command, rich_help_panel="Look")(bench)
    app.command("doctor", cls=Command, rich_help_panel="Look")(doctor)


def evaluate(model: Model, data: Data, json: Json = False) -> None:
    """Measure what is found:  mtkd-edge evaluate ENGINE ./bottle

    \b
    DATA holds train/good, test/good, test/<kind> and, for the pixel figures, ground_truth/<kind>,
    as in MVTec AD. The labels are read here and nowhere else. A run is evaluated by its FP32
    graphs, an engine as it is.
    """
    from mtkd_edge import bundle, dataset, places
    from mtkd_edge.device import engines
    from mtkd_edge.device import evaluate as evaluation
    from mtkd_edge.device.engines.openvino import OpenvinoEngine

    with progress.shown() as listener:
        if places.is_engine(model):
            built = bundle.load_engine(model)
            folder, manifest, engine = model, built.model, engines.open_engine(model, built)
        else:
            folder = places.bundle_of(model)
            manifest = bundle.load_bundle(folder)
            engine = OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD, name=f"{manifest.name}, fp32")
        with engine:
            listing = dataset.scan(data, listener, needed=0)
            found = evaluation.evaluate(engine, manifest, bundle.load_threshold(folder), listing, listener)
    console.emit(found, evaluation.text(found), as_json=json)


def bench(engine: EngineArgument, batch: Batches = None, seconds: Seconds = 2.0, json: Json = False) -> None:
    """Measure how fast it is here:  mtkd-edge bench engines/bottle-cpu

    \b
    Milliseconds of a call that 50, 90 and 99 % of the calls stay within, by batch size, and on a
    GPU the median of each stage. The floor is the least that a frame can take in FP32 on this CPU
    by the operations and bytes of the graph; INT8 may go below it.
    """
    from mtkd_edge import bundle
    from mtkd_edge.device import bench as bencher
    from mtkd_edge.device import engines
    from mtkd_edge.device.engine import Pipelined

    manifest = bundle.load_engine(engine)
    frame = manifest.model.frame
    with engines.open_engine(engine, manifest) as loaded, progress.shown() as listener:
        batches = sizes(batch) if batch else [size for size in USUAL if size <= loaded.batch]
        rows = bencher.bench(loaded, (frame.height, frame.width, 3), batches, seconds, listener)
        floor = lower_bound(engine, loaded)
        remark = loaded.remark if isinstance(loaded, Pipelined) else ""
    text = console.table(speeds(rows)) + (f"\nfloor {floor.milliseconds:.2f} ms a frame in FP32" if floor else "")
    text += f"\n{remark}" if remark else ""
    value = {
        "engine": str(engine),
        "rows": rows,
        "floor": floor,
        "remark": remark,
        "machine": platform.processor() or platform.machine(),
    }
    console.emit(value, text, as_json=json)


def speeds(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table of `bench`. An engine that tells stages apart, as a GPU's does, has a column for the p50 of each."""
    stages = list(rows[0].stages) if len(rows[0].stages) > 1 else []
    lines = [("batch", "p50 ms", "p90 ms", "p99 ms", "frames/s", *stages)]
    for row in rows:
        call = row.call
        numbers = call.p50, call.p90, call.p99, row.frames_per_second, *(row.stages[stage].p50 for stage in stages)
        # the score of one frame is some microseconds
        lines.append((str(row.batch), *(f"{number:.{2 if i < 4 else 3}f}" for i, number in enumerate(numbers))))
    return lines


def sizes(text: str) -> list[int]:
    """ "1,2,4" -> [1, 2, 4]. Raises UsageError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--batch takes numbers with commas between them, got {text!r}", "--batch 1,2,4,8") from error


def lower_bound(folder: Path, engine: Engine) -> Floor | None:
    """The floor of an engine that can count its operations: OpenVINO's, on this CPU."""
    from mtkd_edge.bundle import FEATURES, HEAD
    from mtkd_edge.device import bench as bencher
    from mtkd_edge.device.engines.openvino import OpenvinoEngine

    if not isinstance(engine, OpenvinoEngine):
        return None
    return bencher.floor(engine.macs(), sum((folder / name).stat().st_size for name in (FEATURES, HEAD)))


def doctor(json: Json = False) -> None:
    """Say what is missing on this machine, and what fixes it.

    \b
    Ends with 0 where the base install works, with 6 where it cannot run an engine.
    """
    from mtkd_edge.device.doctor import examine

    report = examine()
    console.emit(report, findings(report), as_json=json)
    if not report.ok:
        raise typer.Exit(UNFIT)


def findings(report: Report) -> str:
    """One line a finding, and under each that is not ok the line that fixes it."""
    lines, group = [], ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            lines.append(console.colour(group, console.BOLD))
        status = console.colour(finding.status.ljust(4), COLOURS[finding.status])
        lines.append(f"  {status}  {finding.name}: {finding.found}")
        if finding.fix:
            lines.append(f"        -> {finding.fix}")
    verdict = "the base install works" if report.ok else "the base install does not work, see the lines marked fail"
    return "\n".join([*lines, verdict])
