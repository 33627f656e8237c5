"""The demo: the whole way, from photos to verdicts, on a production line that is drawn here and now.

    <out>/line/                 photos and a video, rendered
    <out>/run/                  trained on line/train/good, with the teachers that ship inside the package
    <out>/engine/               the INT8 engine; <out>/calibration/ is the evidence behind it
    <out>/verdicts/*.jsonl      what watching line/test and line/line.mkv gave
    <out>/contact-sheet.jpg     overlays, a few of each kind

Offline, on a CPU, in a few minutes. GOOD, FALSE_ALARMS and EPOCHS were set with results on drawn test parts in view, so
the figures are no benchmark (CAVEAT is printed with them). Knows the order of the steps; each is what a command calls.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import msgspec

from mtkd_edge import bundle, dataset, places
from mtkd_edge.demo import line, look
from mtkd_edge.demo.look import VideoReport
from mtkd_edge.device import engines, targets
from mtkd_edge.device.bench import Percentiles, bench
from mtkd_edge.device.evaluate import Evaluation, evaluate
from mtkd_edge.errors import UsageError
from mtkd_edge.lab import build_run, train
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.progress import Progress, silent

MARKER = "demo.json"
MARK = b'{"made_by": "mtkd-edge demo", "which": "may empty this folder"}\n'
MOUNTS = Path("/proc/self/mountinfo")
GOOD = 240
"""Photos to train on: with fewer, none lies as far off as the most extreme part of the line."""
FALSE_ALARMS = 0.05
"""The lowest rate, in round numbers, that the held-out photos of so few guarantee."""
SIZE, EPOCHS = 256, 30
SEED = 20261123
"""A line that nobody looked at while the settings above were made."""
CAVEAT = "a demonstration, not a benchmark: its settings were made with results on other drawn parts in view"


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo reached. `verdicts`: kind of part -> state -> photos. `latency_ms`: one frame through the engine.

    `seconds` is by step.
    """

    out: str
    engine: str
    contact_sheet: str
    verdicts: dict[str, dict[str, int]]
    evaluation: Evaluation
    video: VideoReport
    gate: dict[str, float]
    latency_ms: Percentiles
    seconds: dict[str, float]
    caveat: str = CAVEAT


class Steps:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, name: str) -> None:
        """The step `name` ends now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now


def run(out: Path, progress: Progress = silent, seed: int = SEED, epochs: int = EPOCHS) -> DemoReport:
    """Render, train, build, evaluate and watch, all below `out`; what an earlier demo left there is made anew.

    Raises UsageError where `out` holds something else, and what the steps raise.
    """
    claim(out)
    steps, folder = Steps(), out / "engine"
    line.render(out / "line", seed, GOOD, progress)
    steps.done("render")
    config = TrainConfig(
        data=str(out / "line"),
        out=str(out / "run"),
        preset="offline",
        size=SIZE,
        epochs=epochs,
        seed=seed,
        false_alarms=FALSE_ALARMS,
    )
    trained = train.train(config, progress)
    steps.done("train")
    source, target, evidence = places.bundle_of(trained), targets.load("cpu"), out / "calibration"
    manifest = build_run.build(trained, source, folder, target, "int8", evidence, None, progress)
    steps.done("build-engine")
    threshold = bundle.load_threshold(folder)
    with engines.open_engine(folder, manifest) as engine:
        found = evaluate(engine, manifest.model, threshold, dataset.scan(out / "line", progress), progress)
        steps.done("evaluate")
        spec = manifest.model.frame
        speed = bench(engine, (spec.height, spec.width, 3), (1,), seconds=1.0)[0].call
        seen = look.watch_line(engine, manifest.model, threshold, out)
        steps.done("watch")
    return DemoReport(
        out=str(out),
        engine=str(folder),
        contact_sheet=str(look.contact_sheet(seen.pictures, out / "contact-sheet.jpg")),
        verdicts=seen.verdicts,
        evaluation=found,
        video=seen.video,
        gate=manifest.gate,
        latency_ms=speed,
        seconds=steps.seconds,
    )


def claim(out: Path) -> None:
    """Make the folder, or empty it of an earlier demo; the folder itself stays, since something may be mounted on it.

    Raises UsageError for a link, a folder that is none of ours, and one in which something else is mounted.
    """
    another = "mtkd-edge demo --out ANOTHER-FOLDER"
    try:
        if out.is_symlink():
            raise UsageError(f"{out} is a link to {out.readlink()}, and a demo empties its folder", another)
        if out.exists() and not _is_ours(out):
            raise UsageError(f"{out} is in use, and not by a demo", another)
        if out.exists() and (inside := _mounted_inside(out.resolve())):
            raise UsageError(f"{inside[0]} is mounted inside {out}, and a demo empties its folder", another)
        out.mkdir(parents=True, exist_ok=True)
        bundle.write_file(out / MARKER, MARK)  # first: whoever is stopped while it empties the folder may come again
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:
                path.unlink()
    except OSError as error:
        raise UsageError(f"{out} cannot be made or emptied: {error.strerror}", another) from error


def _is_ours(out: Path) -> bool:
    """Whether it is an empty folder, or has the mark of an earlier demo; other programs may have a demo.json, too."""
    marker = out / MARKER
    if not out.is_dir() or not any(out.iterdir()):
        return out.is_dir()
    return marker.is_file() and not marker.is_symlink() and marker.read_bytes() == MARK


def _mounted_inside(out: Path) -> list[str]:
    """Mount points below a resolved folder: what is in there would be deleted with it."""
    fields = (line.split(" ")[4] for line in MOUNTS.read_text(errors="surrogateescape").splitlines())
    places = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field) for field in fields)
    return [place for place in places if out in Path(place).parents]
