"""`train`: photos of good parts -> a run folder with its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import FalseAlarms, Json

INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("train", cls=Command, rich_help_panel="Train")(train)


def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Good photos, or the MVTec AD layout.")] = Path("data"),
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder. [default: runs/<name>]")] = None,
    method: Annotated[Literal["map", "paper"] | None, typer.Option(help="Feature maps, or as published.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Teachers: edge, paper, offline.")] = None,
    teachers: Annotated[str | None, typer.Option(metavar="A,B,C", help="timm names, hf-hub: or local-dir:.")] = None,
    student: Annotated[str | None, typer.Option(metavar="NAME", help="The student network.")] = None,
    size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of a frame, a multiple of 32.")] = None,
    fit: Annotated[Literal["squash", "letterbox"] | None, typer.Option(help="How a photo fills a frame.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the photos.")] = None,
    false_alarms: FalseAlarms = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same result on a CPU.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the newest run, or --out.")] = False,
    json: Json = False,
) -> None:
    """Learn from photos of good parts:  mtkd-edge train ./photos

    \b
    Writes runs/<name>/: checkpoint, bundle, threshold, teacher weights, metrics.json, plots.

    \b
    Examples:
      mtkd-edge train ./photos --preset edge --false-alarms 1e-3
      mtkd-edge train ./photos --teachers resnet18,local-dir:./weights/mobilenetv2_100
      mtkd-edge train ./photos --preset offline     nothing is downloaded
      mtkd-edge train --resume                      continue where it was stopped
    """
    from mtkd_edge import places
    from mtkd_edge.cli.extras import needs

    folder = out or (places.newest_started() if resume else places.new_run(data))
    given: dict[str, Any] = {
        "method": method,
        "preset": preset,
        "teachers": None if teachers is None else tuple(filter(None, teachers.split(","))),
        "student": student,
        "size": size,
        "fit": fit,
        "epochs": epochs,
        "false_alarms": false_alarms,
        "seed": seed,
        "device": device,
    }
    with needs("train", "training"):
        from mtkd_edge.lab import train as lab
        from mtkd_edge.lab.config import TrainConfig
    config = TrainConfig(
        data=str(data), out=str(folder), resume=resume, **{k: v for k, v in given.items() if v is not None}
    )
    try:
        with progress.shown() as listener:
            run = lab.train(config, listener)
    except KeyboardInterrupt:
        console.note(f"stopped, continue with: mtkd-edge train --resume --out {folder}")
        raise typer.Exit(INTERRUPTED) from None
    report(run, as_json=json)


def report(run: Path, *, as_json: bool) -> None:
    """Say where the run is and what it reached."""
    metrics = msgspec.json.decode((run / "metrics.json").read_bytes(), type=dict)
    console.emit({"run": str(run), **metrics}, f"{run} is ready\nnext: mtkd-edge build-engine --int8", as_json=as_json)
