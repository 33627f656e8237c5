"""`watch`: sources in, one verdict a frame out, until they end or someone says stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from mtkd_edge.cli import console
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.health import Event
    from mtkd_edge.device.sinks import Sink
    from mtkd_edge.frames import FrameSpec
    from mtkd_edge.threshold import Threshold

Sources = Annotated[
    list[str] | None,
    typer.Argument(metavar="SOURCE...", help="Camera, folder, glob, photos, video file, rtsp:// address."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A station: sources, rules, events, sinks, all in one.")
]
EngineFolder = Annotated[
    Path | None, typer.Option("--engine", metavar="ENGINE", help="The engine folder. [default: the newest in engines/]")
]
Serve = Annotated[str, typer.Option("--serve", metavar="HOST:PORT", help="Show it all on a page in the browser.")]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where verdicts, overlays and the summary go. [default: nowhere]")
]
Follow = Annotated[bool, typer.Option("--follow", help="Wait for photos that arrive later in a folder.")]
Save = Annotated[Literal["anomalous", "all", "none"], typer.Option(help="Which frames get an overlay under --out.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("watch", cls=Command, rich_help_panel="Run")(watch)


def watch(
    source: Sources = None,
    config: ConfigFile = None,
    engine: EngineFolder = None,
    out: Out = None,
    follow: Follow = False,
    save: Save = "anomalous",
    serve: Serve = "",
    json: Json = False,
) -> None:
    """Give every frame a verdict:  mtkd-edge watch /dev/video0

    \b
    normal, anomalous, or invalid where a frame could not be judged. Folders and files lose no
    frame; a camera that is faster than the engine drops its oldest, and counts them. Ctrl-C
    finishes what is in hand and ends with 0.

    \b
    Examples:
      mtkd-edge watch ./photos --out ./shift-1
      mtkd-edge watch ./incoming --follow
      mtkd-edge watch line-1.mp4 'archive/*.png'
      mtkd-edge watch rtsp://camera-1/stream rtsp://camera-2/stream --json
      mtkd-edge watch /dev/video0 --out ./shift-1 --serve 127.0.0.1:8080
      mtkd-edge watch --config station.toml
    """
    from mtkd_edge import bundle, places
    from mtkd_edge.cli import station as asked
    from mtkd_edge.device import engines, summary
    from mtkd_edge.device.station.station import Judge, Station, open_all
    from mtkd_edge.device.watch import WatchOptions
    from mtkd_edge.device.watch import watch as run

    words = {"a source": source, "--engine": engine, "--out": out, "--follow": follow, "--serve": serve}
    settings, base = None, Path()
    if config is not None:
        settings, base = asked.from_file(config, words), config.parent
        engine = base / settings.engine if settings.engine else None
    elif not source:
        raise UsageError("watch wants a SOURCE or --config", "mtkd-edge watch /dev/video0")
    folder = engine or places.newest_engine()
    manifest, threshold = bundle.load_engine(folder), bundle.load_threshold(folder)
    if settings is not None:
        sources = open_all(settings, base)
    else:
        settings, sources = asked.from_words(source or [], follow, out, serve)
    judge = Judge(manifest.model, threshold, bundle.sha256(folder / bundle.ENGINE))
    console.note(f"engine {folder}, threshold {threshold.describe()}")
    with engines.open_engine(folder, manifest) as loaded, stop_on_signals() as stop:
        sinks = [printer(stop, as_json=json), *files(out, save, manifest.model.frame, threshold)]
        with closing(Station(settings, base, judge, sources, tell)) as station:
            options = WatchOptions(silence=settings.silence, tell=tell, focus=station.focus, attach=station.attach)
            sinks.append(station.sink)
            with asked.page(settings, base, station, judge, str(folder), sources) as watcher:
                if watcher is not None:
                    sinks.append(watcher.viewfinder)
                done = run(loaded, manifest.model, threshold, sources, sinks, stop, options)
    if out is not None:
        bundle.write_file(out / "summary.json", msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")
    console.note(summary.text(done))  # stdout has verdicts, and nothing else


def tell(event: Event) -> None:
    """A change of a source or a sink, on stderr."""
    console.note(f"{event.subject}: {event.what}" + (f": {event.reason}" if event.reason else ""))


def printer(stop: threading.Event, *, as_json: bool) -> Sink:
    """The sink that prints; a reader that has gone away (`| head`) ends the watch."""
    from mtkd_edge.cli import verdicts
    from mtkd_edge.device.sinks import Map
    from mtkd_edge.frames import Photo
    from mtkd_edge.verdict import Verdict

    def stdout(verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        try:
            console.emit(verdict, "" if as_json else verdicts.line(verdict), as_json=as_json)
        except BrokenPipeError:
            stop.set()
            raise

    return stdout


def files(
    out: Path | None, save: Literal["anomalous", "all", "none"], spec: FrameSpec, threshold: Threshold
) -> list[Sink]:
    """The sinks that write under --out."""
    if out is None:
        return []
    from mtkd_edge.device.overlay_folder import OverlayFolder
    from mtkd_edge.device.sinks import CsvTable, JsonLines

    sinks: list[Sink] = [JsonLines(out / "verdicts.jsonl"), CsvTable(out / "verdicts.csv")]
    return sinks if save == "none" else [*sinks, OverlayFolder(out / "overlays", spec, threshold, save)]


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C (SIGINT) and SIGTERM set. A second signal ends the program at once."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each in numbers:
            signal.signal(each, second)

    def second(number: int, frame: FrameType | None) -> None:
        console.note("interrupted")
        os._exit(console.INTERRUPTED)  # now: not after whatever still drains; what is on the disk is whole anyway

    before = {number: signal.signal(number, first) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
