"""What an INT8 engine keeps of its proof, as files in its folder: two tables and a picture.

    scores.csv    every frame of the gate: good part or pasted defect, FP32 score, the engine's score
    layers.csv    every layer: its precision in this engine, its sensitivity, its work
    proof.png     the scores against each other, and the layers that cost most

They are sealed with the engine, so that the proof is as hard to change as the plan. Nothing reads them back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mtkd_edge.bundle import write_file
from mtkd_edge.device.gate import Comparison
from mtkd_edge.lab.plots import INK

SCORES, LAYERS, PICTURE = "scores.csv", "layers.csv", "proof.png"
SHOWN = 16
"""So many layers fit into the picture and can still be read."""


def write(
    folder: Path,
    compared: Comparison,
    sensitivity: Mapping[str, float],
    work: Mapping[str, float],
    lifted: Collection[str],
) -> None:
    """All three files into `folder`. `lifted`: the layers of `sensitivity` that are in floating point."""
    rows = [
        ("good" if i < compared.good else "defect", f"{reference:.6g}", f"{own:.6g}")
        for i, (own, reference) in enumerate(compared.scores)
    ]
    write_file(folder / SCORES, table(("kind", "fp32", "engine"), rows))
    layers = [
        (name, "float" if name in lifted else "int8", f"{value:.4g}", f"{work[name]:.4g}")
        for name, value in sensitivity.items()
    ]
    write_file(folder / LAYERS, table(("layer", "precision", "sensitivity", "work"), layers))
    figure = Figure(figsize=(11, 4.6))
    left, right = figure.subplots(1, 2)
    draw_scores(left, compared)
    draw_layers(right, sensitivity, lifted)
    figure.tight_layout()
    picture = io.BytesIO()
    # without the version of matplotlib and the date, the same numbers give the same bytes
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_file(folder / PICTURE, picture.getvalue())


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bytes:
    """Comma-separated text with a line of names."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()


def draw_scores(axes: Axes, compared: Comparison) -> None:
    """Every frame of the gate, the FP32 score to the right and the engine's upwards; both thresholds."""
    own, reference = compared.scores.T
    good = np.arange(len(own)) < compared.good
    for shown, label, ink, marker in ((good, "good parts", INK[0], "o"), (~good, "pasted defects", INK[1], "^")):
        axes.scatter(reference[shown], own[shown], s=14, color=ink, marker=marker, label=label, alpha=0.7, linewidths=0)
    ends = [float(compared.scores.min()), float(compared.scores.max())]
    axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axes.axhline(compared.threshold.score, color="0.4", linewidth=1, linestyle="--", label="the engine's threshold")
    axes.set(xlabel="score in FP32", ylabel="score of this engine", title="held-out frames of the gate")
    if ends[0] > 0 and ends[1] > 20 * ends[0]:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_layers(axes: Axes, sensitivity: Mapping[str, float], lifted: Collection[str]) -> None:
    """The most sensitive layers, largest first; those in floating point are drawn hollow."""
    order = sorted(sensitivity, key=lambda name: sensitivity[name])[-SHOWN:]
    for kept, label in ((False, "in INT8"), (True, "left in floating point")):
        rows = [i for i, name in enumerate(order) if (name in lifted) == kept]
        values = [sensitivity[order[i]] for i in rows]
        axes.barh(rows, values, color="white" if kept else INK[0], edgecolor=INK[0], label=label)
    axes.set_yticks(range(len(order)), [short(name) for name in order], fontsize=8)
    axes.set(xlabel="error of the map with this layer alone in INT8", title="sensitivity by layer")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def short(name: str, most: int = 34) -> str:
    """A layer's name without what every name has; its end where it is too long."""
    plain = name.strip("/").removesuffix("/Conv").replace("/trunk", "").replace("_registered", "align")
    parts = plain.split("/")
    # the exporter repeats a scope in the next one: layer1/layer1.0
    kept = [a for a, b in zip(parts, [*parts[1:], ""], strict=True) if not b.startswith(f"{a}.")]
    text = "/".join(kept)
    return text if len(text) <= most else f"…{text[1 - most :]}"
