"""`demo`: the whole way on generated parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.extras import needs
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json

if TYPE_CHECKING:
    from mtkd_edge.demo.run import DemoReport

Out = Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or that of an earlier demo.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Another seed, other parts.")]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="Train for longer, or less long.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("demo", cls=Command, rich_help_panel="Look")(demo)


def demo(out: Out = Path("demo-line"), seed: Seed = None, epochs: Epochs = None, json: Json = False) -> None:
    """See the whole way on parts drawn here, offline:  mtkd-edge demo

    \b
    Renders a small production line with five kinds of defects, trains on its good parts with the
    teachers that ship inside the package, builds the INT8 engine, evaluates it, and watches the test
    photos and a video.
    """
    with needs("train", "the demo"), progress.shown() as listener:
        from mtkd_edge.demo.run import EPOCHS, SEED, run

        seed = SEED if seed is None else seed
        report = run(out, listener, seed, EPOCHS if epochs is None else epochs)
    console.emit(report, text(report), as_json=json)


def text(report: DemoReport) -> str:
    """For people: the verdict table, the figures, and where to look."""
    from mtkd_edge.device import evaluate

    states = ("normal", "anomalous", "invalid")
    kinds = sorted(report.verdicts, key=lambda kind: (kind != "good", kind))
    rows: list[tuple[str, ...]] = [("part", *states)]
    rows += [(kind, *(str(report.verdicts[kind].get(state, 0)) for state in states)) for kind in kinds]
    video, latency = report.video, report.latency_ms
    return "\n".join(
        [
            console.table(rows),
            "",
            evaluate.text(report.evaluation),
            f"video: {video.found} of {video.defective} defective parts found, {video.false_alarms} false alarms on "
            f"{video.parts - video.defective} good ones; {video.verdicts} verdicts for {video.frames} frames",
            f"one frame takes {latency.p50:.1f} ms (p99 {latency.p99:.1f} ms) in INT8 on this CPU",
            report.caveat,
            "",
            f"look at  {report.contact_sheet}",
            f"then try mtkd-edge watch {report.out}/line/line.mkv --engine {report.engine} --out {report.out}/overlays",
            f"took {sum(report.seconds.values()):.0f} s: "
            + ", ".join(f"{step} {seconds:.0f}" for step, seconds in report.seconds.items()),
        ]
    )
