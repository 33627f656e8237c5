"""The figures of docs/int8.md, from a run and its INT8 engine.

    python scripts/draw_int8.py RUN CALIBRATION docs [--tensor NAME]

int8-ranges.png    magnitudes of one tensor on good parts and on pasted defects, and how far each method's scale reaches
int8-errors.png    what the layers left in INT8 are expected to cost the map, and what the gate then measures

The second one builds and measures an INT8 graph for every try, which takes a few minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
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
from mtkd_edge.lab.lift import lifts, work_of
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


def tried(source: Path, found: calibrate.Calibration, expected: gate.Expected) -> list[tuple[float, float, float]]:
    """For every try: the expected error, the gate's mean error of the map, and the share of the work in INT8."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, FEATURES)
        for lift in lifts(found.sensitivity, work_of(onnx.load(source / FEATURES))):
            quantise(source / FEATURES, graph, found, exclude=lift.layers)
            with OpenvinoEngine(graph, source / HEAD, precision="int8") as engine:
                figures = gate.compare(engine, expected, 0.01).figures
            rows.append((lift.error, figures["map_error_mean"], lift.share))
            print(f"{len(lift.layers)} lifted: expected {lift.error:.3f}, measured {figures}", flush=True)
    return rows


def draw_errors(rows: list[tuple[float, float, float]], out: Path) -> None:
    """Expected against measured error, each try marked with its share of the work in INT8."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.subplots()
    expected, measured, shares = np.array(rows).T
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
    """Draw both figures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", default="reference_deviation")
    given = parser.parse_args()
    source = given.run / "bundle"
    model, listing = bundle.load_bundle(source), photos_of(given.run)
    found = calibrate.load(given.calibration, source / FEATURES)
    held_out = load_frames(listing.side("held-out"), model.frame, silent, "")
    rng = np.random.default_rng(0)
    good = held_out[:PHOTOS]
    bad = np.stack([paste_defect(frame, rng)[0] for frame in good])
    draw_ranges(source / FEATURES, given.tensor, good, bad, given.out / "int8-ranges.png")
    draw_errors(tried(source, found, expect(source, list(held_out))), given.out / "int8-errors.png")


if __name__ == "__main__":
    main()
