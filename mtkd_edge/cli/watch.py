"""`watch`: sources in, one verdict a frame out, until they end or someone says stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from mtkd_edge.cli import console
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json
from mtkd_edge.cli.told import Told
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.sinks import Map, Sink
    from mtkd_edge.device.sources.base import Source
    from mtkd_edge.device.station.config import Config
    from mtkd_edge.device.summary import Summary
    from mtkd_edge.frames import FrameSpec, Photo
    from mtkd_edge.threshold import Threshold
    from mtkd_edge.verdict import Verdict

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...", help="Camera, folder, glob, photos, video file, rtsp:// address, gst:PIPELINE."
    ),
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
Resume = Annotated[
    bool, typer.Option("--resume", help="Files and folders go on where the last watch into --out stopped.")
]
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
    resume: Resume = False,
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
      mtkd-edge watch ./incoming --follow --out ./shift-1 --resume
      mtkd-edge watch line-1.mp4 'archive/*.png'
      mtkd-edge watch rtsp://camera-1/stream rtsp://camera-2/stream --json
      mtkd-edge watch /dev/video0 --out ./shift-1 --serve 127.0.0.1:8080
      mtkd-edge watch --config station.toml
    """
    from mtkd_edge import bundle, places
    from mtkd_edge.cli import station as asked
    from mtkd_edge.device import heaps, summary

    heaps.keep_small()
    words = {"a source": source, "--engine": engine, "--out": out, "--follow": follow, "--serve": serve}
    settings, base = None, Path()
    if config is not None:
        settings, base = asked.from_file(config, {**words, "--resume": resume}), config.parent
        engine = base / settings.engine if settings.engine else None
    elif not source:
        raise UsageError("watch wants a SOURCE or --config", "mtkd-edge watch /dev/video0")
    elif resume and out is None:
        raise UsageError("--resume goes on where a watch into --out stopped, and there is no --out", "--out DIR")
    folder = engine or places.newest_engine()
    opened = partial(asked.from_words, source or [], follow, out, serve) if settings is None else None
    files = Files(out, save, resume or config is not None)
    done = _run(folder, settings, base, opened, files, as_json=json)
    console.note(summary.text(done))  # stdout has verdicts, and nothing else; said first: the disk may be full
    if out is not None:
        bundle.write_file(out / "summary.json", msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")


@dataclass(frozen=True)
class Files:
    """What is written under --out."""

    out: Path | None
    save: Literal["anomalous", "all", "none"]
    resume: bool

    def sinks(self, spec: FrameSpec, threshold: Threshold) -> list[Sink]:
        """The sinks that write it. A resumed watch repeats no verdict that the one before has written."""
        if self.out is None:
            return []
        from mtkd_edge.device.overlay_folder import OverlayFolder
        from mtkd_edge.device.sinks import CsvTable, JsonLines, last_lines

        paths = self.out / "verdicts.jsonl", self.out / "verdicts.csv"
        known = [last_lines(path) if self.resume else set() for path in paths]
        sinks: list[Sink] = [JsonLines(paths[0], known[0]), CsvTable(paths[1], known[1])]
        overlays = self.out / "overlays"
        return sinks if self.save == "none" else [*sinks, OverlayFolder(overlays, spec, threshold, self.save)]


def _run(
    folder: Path,
    settings: Config | None,
    base: Path,
    opened: Callable[[], tuple[Config, list[Source]]] | None,
    files: Files,
    *,
    as_json: bool,
) -> Summary:
    """The watch, by a file's settings or those that `opened` gives together with its sources."""
    from mtkd_edge import bundle
    from mtkd_edge.cli import station as asked
    from mtkd_edge.device.engine import EngineOptions
    from mtkd_edge.device.engines.process import EngineProcess
    from mtkd_edge.device.station.station import Judge, Station, open_all
    from mtkd_edge.device.watch import WatchOptions
    from mtkd_edge.device.watch import watch as run

    manifest, threshold = bundle.load_engine(folder), bundle.load_threshold(folder)
    spec = manifest.model.frame
    # first of all: it loads while everything else gets ready
    with EngineProcess(folder, (spec.height, spec.width), EngineOptions()) as engine, Told(as_json) as tell:
        if opened is not None:
            settings, sources = opened()
        else:
            assert settings is not None, "it is one or the other"
            sources = open_all(settings, base)
        judge = Judge(manifest.model, threshold, bundle.sha256(folder / bundle.ENGINE))
        console.note(f"engine {folder}, threshold {threshold.describe()}")
        engine.ready()
        with (
            stop_on_signals() as stop,
            closing(Station(settings, base, judge, sources, tell, files.resume)) as station,
            asked.page(settings, base, station, judge, str(folder), sources) as watcher,
        ):
            sinks: list[Sink] = [Printer(stop, as_json=as_json), *files.sinks(spec, threshold), station.sink]
            sinks += [watcher.viewfinder] if watcher is not None else []
            options = WatchOptions(
                silence=settings.silence,
                tell=tell,
                focus=station.focus,
                attach=station.attach,
                done=station.done,
            )
            return run(engine, manifest.model, threshold, sources, sinks, stop, options)


class Printer:
    """The sink that prints; a reader that has gone away (`| head`) ends the watch."""

    name, every_map = "stdout", False

    def __init__(self, stop: threading.Event, *, as_json: bool) -> None:
        self._stop, self._as_json = stop, as_json

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Print the verdict."""
        from mtkd_edge.cli import verdicts

        try:
            console.emit(verdict, "" if self._as_json else verdicts.line(verdict), as_json=self._as_json)
        except BrokenPipeError:
            self._stop.set()
            raise


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
