"""`threshold`: another threshold for an engine, without a new build."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import EngineArgument, FalseAlarms, Json
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.bundle import EngineManifest, Manifest
    from mtkd_edge.dataset import Dataset
    from mtkd_edge.threshold import Threshold

Score = Annotated[float | None, typer.Option(metavar="VALUE", help="By hand: a part with a higher score is anomalous.")]
Photos = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Fit it to photos of good parts the training never saw.")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("threshold", cls=Command, rich_help_panel="Build")(threshold)


def threshold(
    engine: EngineArgument,
    score: Score = None,
    photos: Photos = None,
    false_alarms: FalseAlarms = None,
    json: Json = False,
) -> None:
    """Show or move the threshold:  mtkd-edge threshold engines/bottle-cpu

    \b
    Examples:
      mtkd-edge threshold engines/bottle-cpu --score 3.5
      mtkd-edge threshold engines/bottle-cpu --photos ./more-good-parts --false-alarms 1e-3
    """
    from mtkd_edge import bundle
    from mtkd_edge import threshold as thresholds

    if score is not None and photos is not None:
        raise UsageError("--score sets the threshold by hand, --photos fits it: give one of them")
    if false_alarms is not None and photos is None:
        raise UsageError(
            "another false-alarm rate needs photos of good parts",
            f"mtkd-edge threshold {engine} --photos DIR --false-alarms {false_alarms:g}",
        )
    if score is not None and not math.isfinite(score):
        raise UsageError(f"a threshold is a finite number, got {score}", "--score 3.5")
    manifest = bundle.load_engine(engine)
    if photos is not None and false_alarms is not None:
        found = fitted(engine, manifest, photos, false_alarms)  # whatever the old one is, or was made of
    else:
        found = bundle.load_threshold(engine)
        if photos is not None:
            found = fitted(engine, manifest, photos, found.false_alarms)
        if score is not None:
            found = msgspec.structs.replace(found, score=score, method="manual", missing=0)
    if score is not None or photos is not None:
        bundle.write_file(engine / bundle.THRESHOLD, thresholds.encode(found))
    value = {"engine": str(engine), "target": manifest.target, "threshold": found}
    console.emit(value, f"{engine}: {found.describe()}", as_json=json)


def strangers(model: Manifest, listing: Dataset) -> str:
    """What to say where photos have another shape than those of the training: how many, and of the first one what."""
    found = [why for photo in listing.photos if (why := model.other_shape(photo.height, photo.width))]
    return f"{len(found)} of {len(listing.photos)} photos have another shape: {found[0]}" if found else ""


def fitted(engine: Path, manifest: EngineManifest, photos: Path, false_alarms: float) -> Threshold:
    """The threshold that these photos of good parts, as this engine scores them, give for a rate."""
    from mtkd_edge import dataset, frames, threshold
    from mtkd_edge.device import engines
    from mtkd_edge.device.refit import refit

    threshold.check_rate(false_alarms)
    with engines.open_engine(engine, manifest) as loaded, progress.shown() as listener:
        listing = dataset.scan(photos, listener, threshold.MINIMUM)
        if listing.layout == "mvtec":
            seen = f"{photos} has train/good, which the training has seen: a threshold from it would be too low"
            raise UsageError(seen, "--photos with a folder of good parts that it has not seen")
        console.note(dataset.report(listing))
        if strange := strangers(manifest.model, listing):
            console.note(strange)
        paths = [Path(listing.root, photo.path) for photo in listing.photos]
        shown = [frames.to_frame(frames.read(path), manifest.model.frame) for path in paths]
        return refit(loaded, shown, false_alarms, listener)
