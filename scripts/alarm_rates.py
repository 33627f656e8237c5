"""What a run would find at other rates of false alarms: thresholds from held-out photos, counted on its test photos.

    python scripts/alarm_rates.py RUN [RUN ...]

Each RUN is a folder that `mtkd-edge train` made of data with a test/, `measured/tiles/seed0/run` for instance; its FP32
graphs are what judges. Prints a table with the mean and the standard deviation over the runs. The thresholds see good
parts alone, as those of `train --false-alarms` do, of which these are the very ones.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtkd_edge import bundle, frames, places, threshold
from mtkd_edge.cli import console, progress
from mtkd_edge.device import refit
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.device.evaluate import GOOD, evaluate
from mtkd_edge.errors import MtkdError
from mtkd_edge.lab.build_run import photos_of
from mtkd_edge.metrics import detection_rate, false_alarm_rate
from mtkd_edge.progress import Progress
from mtkd_edge.threshold import Threshold

RATES = (0.001, 0.005, 0.01, 0.02, 0.05)
Row = tuple[Threshold, float, float]
"""A threshold, the share of good test photos above it, and the share of defective ones."""


def rates(run: Path, listener: Progress) -> dict[float, Row]:
    """By the rate that was asked for. Raises MtkdError for a run without its bundle or photos."""
    folder = places.bundle_of(run)
    manifest, listing = bundle.load_bundle(folder), photos_of(run)
    with OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD, name=run.name) as engine:
        held_out = [frames.to_frame(frames.read(path), manifest.frame) for path in listing.side("held-out")]
        scores, peaks = refit.measure(engine, held_out, listener)
        seen = evaluate(engine, manifest, bundle.load_threshold(folder), listing, listener).scores
    defective = np.array([one.kind != GOOD for one in seen], np.bool_)
    values = [one.score for one in seen]
    found: dict[float, Row] = {}
    for rate in RATES:
        limit = threshold.fit(scores, peaks, rate)
        alarms = false_alarm_rate(defective, values, limit.score)
        hits = detection_rate(defective, values, limit.score)
        found[rate] = (limit, alarms.value if alarms else math.nan, hits.value if hits else math.nan)
    return found


def table(runs: Sequence[Mapping[float, Row]]) -> str:
    """Markdown, a line for each rate."""
    lines = ["| asked for | threshold from | false alarms | defects found |", "|--:|---|--:|--:|"]
    for rate in RATES:
        limits, alarms, hits = zip(*(run[rate] for run in runs), strict=True)
        how = f"{limits[0].photos} photos" + (f", {limits[0].missing} too few" if limits[0].missing else ", guaranteed")
        lines.append(f"| {rate:.1%} | {how} | {spread(alarms)} | {spread(hits)} |")
    return "\n".join(lines)


def spread(shares: Sequence[float]) -> str:
    """Per cent: mean ± standard deviation."""
    deviation = statistics.stdev(shares) if len(shares) > 1 else 0.0
    return f"{100 * statistics.mean(shares):.1f} ± {100 * deviation:.1f} %"


def main() -> int:
    """The table of the runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    try:
        with progress.shown() as listener:
            found = [rates(run, listener) for run in parser.parse_args().run]
    except MtkdError as error:
        console.note(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
