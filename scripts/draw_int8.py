"""The figures of docs/int8.md, from a run and its INT8 engine.

    python scripts/draw_int8.py RUN CALIBRATION docs/figures [--tensor NAME] [--seconds 3]

int8-ranges.png    magnitudes of one tensor on good parts and on pasted defects, and how far each method's scale reaches
int8-errors.png    what the layers left in INT8 are expected to cost the map, and what the gate then measures

The second one builds and measures an INT8 graph for every try, which takes a few minutes. With --seconds the times of
one frame are printed as well, in turns. CALIBRATION is the JSON file of the engine's build.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from compare_runtimes import by_openvino, latencies
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from mtkd_edge import bundle
from mtkd_edge.bundle import FEATURES, HEAD
from mtkd_edge.device import gate
from mtkd_edge.device.build import expect
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.build_run import photos_of
from mtkd_edge.lab.lift import Lift, lifts, work_of
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.lab.plots import INK
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.lab.ranges import METHODS, Histogram
from mtkd_edge.progress import silent
from mtkd_edge.synthetic import paste_defect

PHOTOS = 8


def values(graph: Path, tensor: str, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One tensor of the float graph on some frames."""
    session, names = calibrate.probe(graph)
    if tensor not in names:
        raise SystemExit(f"{graph} has no {tensor}")
    return np.concatenate([session.run([tensor], {"frames": frame[None]})[0] for frame in frames])


def draw_ranges(graph: Path, tensor: str, good: NDArray[np.uint8], bad: NDArray[np.uint8], out: Path) -> None:
    """Two histograms on a logarithmic scale, and the reach of each method."""
    both = {"good parts": values(graph, tensor, good), "with a pasted defect": values(graph, tensor, bad)}
    counted = Histogram()
    for found in both.values():
        counted.add(found)
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    top = max(float(np.abs(found).max()) for found in both.values())
    edges = np.linspace(0, top, 120)
    for (label, found), ink in zip(both.items(), INK, strict=False):
        axes.hist(np.abs(found).ravel(), edges.tolist(), histtype="step", color=ink, label=label, linewidth=1.4)
    for method, style in zip(METHODS, ("-", "--", ":"), strict=True):
        # min-max keeps every value; the histogram holds a part of them
        reach = top if method == "minmax" else counted.reach(method)
        axes.axvline(reach, color="0.3", linestyle=style, label=f"{method}: steps of {reach / 127:.2g}")
    axes.set(yscale="log", xlabel=f"magnitude in {tensor.strip('/')}", ylabel="values")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=100, metadata={"Software": None})


@dataclass(frozen=True)
class Try:
    """One set of lifted layers: what it is expected to cost, the gate's mean error of the map, and its graph."""

    lift: Lift
    error: float
    graph: Path


def tried(source: Path, found: calibrate.Calibration, expected: gate.Expected, scratch: Path) -> list[Try]:
    """Every try of a build, in its order, whether or not an earlier one passes."""
    done = []
    for lift in lifts(found.sensitivity, work_of(onnx.load(source / FEATURES))):
        graph = scratch / f"{len(lift.layers)}.onnx"
        quantise(source / FEATURES, graph, found, exclude=lift.layers)
        with OpenvinoEngine(graph, source / HEAD, precision="int8") as engine:
            figures = gate.compare(engine, expected, 0.01).figures
        done.append(Try(lift, figures["map_error_mean"], graph))
        print(f"{len(lift.layers)} lifted: expected {lift.error:.3f}, measured {figures}", flush=True)
    return done


def table(source: Path, tries: list[Try], seconds: float) -> str:
    """Best milliseconds of one frame in FP32 and in every try, in turns on all cores, as Markdown."""
    threads = os.cpu_count() or 1
    runs = {"FP32 | all": by_openvino(source / FEATURES, source / HEAD, "fp32", threads)}
    for each in tries:
        label = f"{each.lift.share:.0%} of the work in INT8 | {len(each.lift.layers)}"
        runs[label] = by_openvino(each.graph, source / HEAD, "int8", threads)
    side = bundle.load_bundle(source).frame
    frame = np.random.default_rng(1).integers(0, 256, (1, side.height, side.width, 3), dtype=np.uint8)
    found = latencies(runs, frame, seconds)
    rows = [f"| {label} | {min(times):.1f} | {np.median(times):.1f} |" for label, times in found.items()]
    return "\n".join(["| | layers lifted | best ms | median ms |", "|---|--:|--:|--:|", *rows])


def draw_errors(tries: list[Try], out: Path) -> None:
    """Expected against measured error, each try marked with its share of the work in INT8."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.subplots()
    expected, measured, shares = np.array([(each.lift.error, each.error, each.lift.share) for each in tries]).T
    axes.loglog(expected, measured, "o", color=INK[0])
    for x, y, share in zip(expected, measured, shares, strict=True):
        axes.annotate(f"{share:.0%}", (x, y), xytext=(6, -9), textcoords="offset points", fontsize=8)
    slope = np.exp(np.mean(np.log(measured / expected)))
    axes.loglog(expected, slope * expected, color="0.7", zorder=0, linewidth=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="expected error of the map", ylabel="error in the gate", title="share of the work left in INT8")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=100, metadata={"Software": None})


def main() -> None:
    """Draw both figures into a folder, and print the times where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", default="reference_deviation")
    parser.add_argument("--seconds", type=float, default=0, help="time every try for so long; on a quiet machine")
    given = parser.parse_args()
    source = given.run / "bundle"
    model, listing = bundle.load_bundle(source), photos_of(given.run)
    found = calibrate.load(given.calibration, source / FEATURES)
    held_out = load_frames(listing.side("held-out"), model.frame, silent, "")
    rng = np.random.default_rng(0)
    good = held_out[:PHOTOS]
    bad = np.stack([paste_defect(frame, rng)[0] for frame in good])
    draw_ranges(source / FEATURES, given.tensor, good, bad, given.out / "int8-ranges.png")
    with tempfile.TemporaryDirectory() as scratch:
        tries = tried(source, found, expect(source, list(held_out)), Path(scratch))
        draw_errors(tries, given.out / "int8-errors.png")
        if given.seconds:
            print(table(source, tries, given.seconds))


if __name__ == "__main__":
    main()
