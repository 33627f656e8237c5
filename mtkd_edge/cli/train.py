"""`train`: photos of good parts -> a run folder with its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.extras import needs
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json
from mtkd_edge.errors import UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.lab.config import PRESETS, TrainConfig

DEFAULT = TrainConfig(data="", out="")
PAPER = "resnet18; or vgg11, densenet121, multi"
Data = Annotated[
    Path | None, typer.Argument(metavar="DATA", help="Good photos, or the MVTec AD layout. [default: ./data]")
]
Out = Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder. [default: runs/<name>]")]
Part = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="What in a path tells the part, where parts have several photos each."),
]
Method = Annotated[
    Literal["map", "paper"] | None, typer.Option(help=f"Feature maps, or as published. [default: {DEFAULT.method}]")
]
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Teachers: {', '.join(PRESETS)}. [default: {DEFAULT.preset}]")
]
Teachers = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="Others: timm names, hf-hub:NAME, local-dir:FOLDER, torchvision:NAME[:FILE]."),
]
AskedAlarms = Annotated[
    float | None,
    typer.Option(
        "--false-alarms",
        metavar="RATE",
        help=f"Accepted share of good parts called anomalous. [default: {DEFAULT.false_alarms:g}]",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"The student. [default: {DEFAULT.student}; of the published method {PAPER}]"),
]
Size = Annotated[
    int | None, typer.Option(metavar="PIXELS", help=f"Side of a frame that is all photo. [default: {DEFAULT.size}]")
]
Fit = Annotated[
    Literal["squash", "letterbox", "auto"] | None,
    typer.Option(help=f"Auto keeps the photos' shape, squash makes all frames squares. [default: {DEFAULT.fit}]"),
]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="Passes over the photos. [default: the method's]")]
Batch = Annotated[int | None, typer.Option(metavar="N", help=f"Photos in a step. [default: {DEFAULT.batch}]")]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help=f"Same seed, same result on a CPU. [default: {DEFAULT.seed}]")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help=f"auto, cpu or cuda. [default: {DEFAULT.device}]")]
Weights = Annotated[
    Literal["learned", "equal"] | None,
    typer.Option(help="Importance weights of the teachers. [default: learned]"),
]
Prune = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Drop teachers of less importance. [default: keep all]")
]
Merge = Annotated[bool, typer.Option("--merge", help="Teach one small network what all teachers say; it runs alone.")]
Generic = Annotated[Path | None, typer.Option(metavar="DIR", help="Any other pictures, for --merge to learn from too.")]
Terms = Annotated[str | None, typer.Option(metavar="R1,R2,R3", help="How much its three terms count. [default: 1,1,1]")]
TeacherInput = Annotated[
    Literal["own", "published"] | None,
    typer.Option(help="Its teachers' mean and deviation: their own, or 0.5 as published. [default: own]"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the newest run, or the one --out names.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("train", cls=Command, rich_help_panel="Train")(train)


def train(
    data: Data = None,
    out: Out = None,
    part: Part = None,
    method: Method = None,
    preset: Preset = None,
    teachers: Teachers = None,
    student: Student = None,
    size: Size = None,
    fit: Fit = None,
    epochs: Epochs = None,
    batch: Batch = None,
    false_alarms: AskedAlarms = None,
    seed: Seed = None,
    device: Device = None,
    weights: Weights = None,
    prune: Prune = None,
    merge: Merge = False,
    generic: Generic = None,
    terms: Terms = None,
    teacher_input: TeacherInput = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Learn from photos of good parts:  mtkd-edge train ./bottle

    \b
    Writes runs/<name>/: checkpoint, bundle, threshold, teacher weights, metrics.json, plots.

    \b
    Examples:
      mtkd-edge train ./bottle --preset edge --false-alarms 1e-3
      mtkd-edge train ./bottle --teachers resnet18,local-dir:./weights/mobilenetv2_100
      mtkd-edge train ./bottle --part '(tile[0-9]+)_'   photos of one tile stay together
      mtkd-edge train ./bottle --preset offline     nothing is downloaded
      mtkd-edge train ./bottle --prune 0.1          without the teachers that matter least
      mtkd-edge train ./bottle --merge --generic ./pictures     one small teacher at the edge
      mtkd-edge train ./bottle --method paper --preset paper --student multi
      mtkd-edge train --resume                      continue where it was stopped
    """
    given = chosen(
        data=data, part=part, method=method, preset=preset, teachers=teachers, student=student, size=size, fit=fit,
        epochs=epochs, batch=batch, false_alarms=false_alarms, seed=seed, device=device, weights=weights, terms=terms,
        teacher_input=teacher_input, prune=prune, merge=merge or None, generic=generic,
    )  # fmt: skip
    config = configured(given, out, resume=resume)
    with needs("train", "training"):
        from mtkd_edge.lab import train as lab
    try:
        with progress.shown() as listener:
            run = lab.train(config, listener)
    except KeyboardInterrupt:
        console.note(f"stopped, continue with: mtkd-edge train --resume --out {config.out}")
        raise typer.Exit(console.INTERRUPTED) from None
    report(run, as_json=json)


def chosen(**given: Any) -> dict[str, Any]:
    """The options that were given, as a configuration holds them: names and numbers with commas become tuples.

    Raises UsageError for terms that are not three numbers, and for teachers of which none is named.
    """
    found = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    if isinstance(teachers := found.get("teachers"), str):
        found["teachers"] = tuple(filter(None, teachers.split(",")))
        if not found["teachers"]:
            raise UsageError(f"--teachers names no teacher: {teachers!r}", "--teachers A,B,C, or --preset edge")
    if isinstance(terms := found.get("terms"), str):
        found["terms"] = three(terms)
    return {name: value for name, value in found.items() if value is not None}


def three(text: str) -> tuple[float, float, float]:
    """ "1,1,0" -> r1, r2 and r3. Raises UsageError for anything but three numbers."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--terms takes three numbers with commas between them, got {text!r}", "--terms 1,1,1"
        ) from error
    return first, second, third


def configured(given: dict[str, Any], out: Path | None, *, resume: bool) -> TrainConfig:
    """What was given on the command line over the defaults, or over what the run to be continued was told."""
    from mtkd_edge import places

    if not resume:
        data = Path(given.setdefault("data", str(places.DATA)))
        return TrainConfig(out=str(out or places.new_run(data)), **given)
    folder = out or places.newest_started()
    console.note(f"continuing {folder}")
    config = started(folder)
    moved = {} if Path(config.out).resolve() == folder.resolve() else {"out": str(folder)}
    return msgspec.structs.replace(config, resume=True, **moved, **given)


def started(run: Path) -> TrainConfig:
    """What a run was told when it began. Raises UsageError where it is not a run, or not one of this version."""
    from mtkd_edge import places

    try:
        return msgspec.json.decode((run / places.CONFIG).read_bytes(), type=TrainConfig)
    except OSError as error:
        raise UsageError(f"{run} cannot be continued: {error.strerror}", "mtkd-edge train") from error
    except UNREADABLE as error:
        raise UsageError(
            f"{run / places.CONFIG} is damaged or of another version: {error}", "mtkd-edge train"
        ) from error


def report(run: Path, *, as_json: bool) -> None:
    """Say what the photos were like, what was learned from them, and where the run is."""
    from mtkd_edge import bundle, dataset, places

    console.note(dataset.report(dataset.decode((run / places.LISTING).read_bytes(), str(run / places.LISTING))))
    folder = places.bundle_of(run)
    manifest, found = bundle.load_bundle(folder), bundle.load_threshold(folder)
    metrics = msgspec.json.decode((run / places.METRICS).read_bytes(), type=dict)
    frame = manifest.frame
    size = f"{frame.height} x {frame.width}"
    if frame.fit == "letterbox":
        console.note(f"the photos keep their shapes, in frames of {size}; --fit squash makes smaller, faster ones")
    elif frame.height != frame.width:
        console.note(f"the photos keep their shape, in frames of {size}")
    edge = [teacher.name for teacher in manifest.teachers]
    rows = [("teacher", "importance by tap", "at the edge")]
    rows += [
        (name, "  ".join(f"{share:.3f}" for share in shares), "yes" if name in edge else "no")
        for name, shares in metrics["importance"].items()
    ]
    alone = [f"at the edge: {t.name}, {t.source}\n" for t in manifest.teachers if t.name not in metrics["importance"]]
    console.emit(
        {"run": str(run), **metrics},
        f"{console.table(rows)}\n{''.join(alone)}threshold {found.describe()}\n{run} is ready",
        as_json=as_json,
    )
    console.note("next: mtkd-edge build-engine --int8")
