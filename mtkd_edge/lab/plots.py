"""Losses and importance weights over time, as pictures in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colours: told apart by all eyes."""
History = Sequence[dict[str, float]]


def save(folder: Path, histories: Mapping[str, History], teachers: Sequence[str]) -> None:
    """`student.png` and `importance.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, history in histories.items():
        if history:
            _figure(folder / f"{name}.png", name, history, teachers)


def _figure(path: Path, name: str, history: History, teachers: Sequence[str]) -> None:
    weights = sorted(key for key in history[0] if key.startswith("w"))
    levels = sorted({key.split("_")[0] for key in weights})
    # a bare Figure, not pyplot: no window system, no global state
    figure = Figure(figsize=(5.2 * (1 + len(levels)), 3.4))
    axes: list[Axes] = list(np.ravel(figure.subplots(1, 1 + len(levels), squeeze=False)))
    losses = [key for key in history[0] if key not in weights and key != "rate"]
    for ink, key in zip(INK, losses, strict=False):
        axes[0].plot(_smooth([row[key] for row in history]), color=ink, label=key)
    axes[0].set(xlabel="step", ylabel="loss", title=name, yscale="log")
    for axis, level in zip(axes[1:], levels, strict=True):
        for k, teacher in enumerate(teachers):
            axis.plot([row[f"{level}_{k}"] for row in history], color=INK[k % len(INK)], label=teacher)
        title = "importance" if len(levels) == 1 else f"importance at stride {8 * 2 ** int(level[1:])}"
        axis.set(xlabel="step", ylabel="weight", ylim=(0, 1), title=title)
    for axis in axes:
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _smooth(values: Sequence[float], window: int = 15) -> np.ndarray:
    """A running mean that keeps the length; the first values average what there is."""
    sums = np.cumsum(np.r_[0.0, values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
