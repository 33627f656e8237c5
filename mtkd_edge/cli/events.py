"""`events`: what a watch has kept: list it, look at one, hand it on, acknowledge an alarm."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from mtkd_edge.cli import console
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.events.database import Filter
    from mtkd_edge.device.events.record import Event

ALL = 2**31
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the events: --out of watch.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The event's id.")]
Source = Annotated[str, typer.Option(metavar="NAME", help="Only events of this source.")]
StateOption = Annotated[
    Literal["", "anomalous", "invalid", "normal"], typer.Option("--state", help="Only this state.", show_default=False)
]
KindOption = Annotated[
    Literal["", "verdict", "alarm", "acknowledged", "part"],
    typer.Option("--kind", help="Only this kind.", show_default=False),
]
Since = Annotated[str, typer.Option(metavar="TIME", help="From 30m, 2h, 7d ago, or from 2026-01-31T08:00.")]
Until = Annotated[str, typer.Option(metavar="TIME", help="Before that time.")]
Waiting = Annotated[bool, typer.Option("--open", help="Only alarms that wait for an acknowledgement.")]
Limit = Annotated[int, typer.Option(min=1, help="The newest so many.")]
Format = Annotated[Literal["csv", "jsonl", "images"], typer.Option("--format", help="What to write.")]
Out = Annotated[Path | None, typer.Option(metavar="PATH", help="Where to. [default: stdout; images: ./pictures]")]
By = Annotated[str, typer.Option(metavar="NAME", help="Who has seen it.")]

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    for name, command in (("list", list_), ("show", show), ("export", export), ("acknowledge", acknowledge)):
        group.command(name, cls=Command)(command)
    app.add_typer(
        group, name="events", rich_help_panel="Run", help="List, show and export what a watch has kept, with pictures."
    )


def list_(
    folder: Folder,
    source: Source = "",
    state: StateOption = "",
    kind: KindOption = "",
    since: Since = "",
    until: Until = "",
    waiting: Waiting = False,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """One line an event, the newest first:  mtkd-edge events list ./shift-1 --since 2h"""
    from mtkd_edge.device.events.database import Filter

    wanted = Filter(source, state, kind, moment(since), moment(until), open=waiting, limit=limit)
    for event in found(folder, wanted):
        console.emit(event, line(event), as_json=json)


def show(folder: Folder, event: Id, json: Json = False) -> None:
    """Everything about one event:  mtkd-edge events show ./shift-1 ID"""
    from mtkd_edge.device.events.database import reading
    from mtkd_edge.device.events.export import time_of

    with reading(folder) as database:
        event_ = database.get(event)
        acknowledged = database.acknowledged(event)
    rows = [("time", time_of(event_)), *((name, _shown(value)) for name, value in msgspec.to_builtins(event_).items())]
    if event_.latched:
        rows.append(("acknowledged", "yes" if acknowledged else f"no: mtkd-edge events acknowledge {folder} {event}"))
    shown = [(name, str(folder / value) if name in ("image", "heat") and value else value) for name, value in rows]
    console.emit(event_, console.table([row for row in shown if row[1] not in ("", "[]")]), as_json=json)


def export(
    folder: Folder,
    format_: Format = "csv",
    out: Out = None,
    source: Source = "",
    state: StateOption = "",
    kind: KindOption = "",
    since: Since = "",
    until: Until = "",
    json: Json = False,
) -> None:
    """All events as a table, as JSON lines, or as pictures:  mtkd-edge events export ./shift-1 --out events.csv

    \b
    Examples:
      mtkd-edge events export ./shift-1 --since 7d --state anomalous > week.csv
      mtkd-edge events export ./shift-1 --format jsonl --out events.jsonl
      mtkd-edge events export ./shift-1 --format images --out ./pictures
    """
    from mtkd_edge import bundle
    from mtkd_edge.device.events import export as exporting
    from mtkd_edge.device.events.database import Filter

    if json and out is None and format_ == "csv":
        format_ = "jsonl"  # on stdout, --json is one object a line for every command
    wanted = Filter(source, state, kind, moment(since), moment(until), newest=False, limit=ALL)
    events = found(folder, wanted)
    if format_ == "images":
        out = out or Path("pictures")
        count = exporting.copy_pictures(folder, events, out)
        console.emit({"pictures": count, "out": str(out)}, f"{count} pictures in {out}", as_json=json)
        return
    data = exporting.to_csv(events).encode() if format_ == "csv" else exporting.to_jsonl(events)
    if out is None:
        if data:
            console.say(data.decode().removesuffix("\n"))
        return
    bundle.write_file(out, data)
    console.emit({"events": len(events), "out": str(out)}, f"{len(events)} events in {out}", as_json=json)


def acknowledge(folder: Folder, event: Id, by: By = "", json: Json = False) -> None:
    """Say that an alarm has been seen; a watch that is running lets go of its latch."""
    import getpass

    from mtkd_edge.device.events.acknowledge import acknowledge as write
    from mtkd_edge.device.events.clock import Clock

    written = write(folder, event, by or getpass.getuser(), Clock())
    console.emit(written, f"{event} is acknowledged {written.reason}", as_json=json)


def found(folder: Path, wanted: Filter) -> list[Event]:
    """The events that fit. Raises DataError for a folder without events or a damaged database."""
    from mtkd_edge.device.events.database import reading

    with reading(folder) as database:
        return database.find(wanted)


def moment(text: str) -> float | None:
    """ "2h" -> seconds since the epoch two hours ago; a date and time is taken as local. Raises UsageError."""
    if not text:
        return None
    if span := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time() - int(span[1]) * UNITS[span[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise UsageError(f"{text!r} is no time", "2h, 7d, 2026-01-31 or 2026-01-31T08:00") from error


def line(event: Event) -> str:
    """`01K...  2026-01-31 08:00:00  anomalous  5.21 > 3.5  camera-1 #17  2 regions`."""
    from mtkd_edge.cli.verdicts import COLOURS
    from mtkd_edge.verdict import State

    when = datetime.fromtimestamp(event.wall).strftime("%Y-%m-%d %H:%M:%S")
    state = console.colour(event.state.ljust(9), COLOURS[State(event.state)])
    kind = "" if event.kind.value == "verdict" else f"  {event.kind.value}{' (latched)' if event.latched else ''}"
    score = "" if event.score is None or event.threshold is None else f"  {event.score:.4g} of {event.threshold:.4g}"
    regions = f"  {len(event.regions)} regions" if event.regions else ""
    reason = f"  {event.reason}" if event.reason else ""
    return f"{event.id}  {when}  {state}{kind}{score}  {event.source} #{event.seq}{regions}{reason}"


def _shown(value: object) -> str:
    return "" if value in (None, False) else str(value)
