"""A short quantisation-aware fine-tune: the student of an INT8 graph learns what rounding does to its teachers and it.

    target = S + (M8 - M)

S and M are the student and the teachers' mix in FP32, M8 the mix as the INT8 engine computes it, and the student learns
in INT8 to be that. So the deviation S8 - M8 comes back to what it was in FP32, on good parts and on pasted defects; a
student that were trained towards M8 alone would drift from the run that the gate compares with (docs/decisions.md).

A few hundred steps, of which the last one is kept; every step follows from its number and the seed. Too short to be
resumed. Knows neither files nor targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mtkd_edge.device.engine import Engine
from mtkd_edge.errors import GateError
from mtkd_edge.lab.distil import loss_of
from mtkd_edge.lab.fake_quant import FakeQuantStudent
from mtkd_edge.progress import Progress, silent

STEPS, BATCH = 300, 8
PEAK_RATE = 3e-4
"""A tenth of the rate that the student was trained with: it is to be mended, not made again."""
AGREED = 0.01
"""Largest relative L2 difference between the student in torch and the engine's: a sum in another order puts a value
that lies between two steps on the other one, here and there. Rounding itself moves the student by some per cent."""
Frames = NDArray[np.uint8]
Targets = dict[str, NDArray[np.float16]]
History = list[dict[str, float]]


def rate(step: int, steps: int) -> float:
    """Half a cosine from the peak down to nothing."""
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))


def targets_of(
    outputs: tuple[str, ...], reference: Engine, engine: Engine, frames: Frames, progress: Progress = silent
) -> Targets:
    """What the student shall be on these frames [N, height, width, 3]: `target` of the formula above, by output.

    `reference` is the run in FP32, `engine` the INT8 graph. float16, half a megabyte a frame.
    """
    found: dict[str, list[NDArray[np.float16]]] = {name: [] for name in outputs}
    for i, frame in enumerate(frames):
        exact, own = reference.features(frame[None]), engine.features(frame[None])
        for name, values in found.items():
            mix = name.replace("student_", "reference_")
            values.append((exact[name] + (own[mix] - exact[mix])).astype(np.float16))
        progress("teachers in INT8", i + 1, len(frames))
    return {name: np.concatenate(values) for name, values in found.items()}


def agree(student: FakeQuantStudent, engine: Engine, frames: Frames) -> float:
    """The largest relative L2 difference between the student in torch and in the engine, over its outputs.

    Raises GateError where it is more than runtimes differ by: then what is trained is not what runs.
    """
    with torch.no_grad():
        ours = student(torch.from_numpy(frames))
    worst = 0.0
    for name, value in ours.items():
        theirs = np.concatenate([engine.features(frame[None])[name] for frame in frames])
        worst = max(worst, float(np.linalg.norm(value.numpy() - theirs) / max(float(np.linalg.norm(theirs)), 1e-12)))
    if not worst <= AGREED:
        raise GateError(
            f"the student in torch differs from the INT8 engine by {worst:.2g}, at most {AGREED:g} allowed",
            "build without --finetune, and report this with the versions of `mtkd-edge doctor`",
        )
    return worst


def finetune(
    student: FakeQuantStudent, frames: Frames, targets: Mapping[str, NDArray[np.float16]], seed: int,
    steps: int, progress: Progress = silent,
) -> History:  # fmt: skip
    """Train `student` in place on frames [N, height, width, 3]; a row a step: loss and mean squared distance."""
    optimizer = torch.optim.Adam(student.parameters(), lr=PEAK_RATE)
    history: History = []
    student.train()
    for step in range(steps):
        rows = np.random.default_rng((seed, step)).choice(len(frames), min(BATCH, len(frames)), replace=False)
        made = student(torch.from_numpy(frames[rows]))
        parts = [loss_of(value, torch.from_numpy(targets[name][rows]).float()) for name, value in made.items()]
        loss, distance = (torch.stack(terms).sum() for terms in zip(*parts, strict=True))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append({"loss": loss.item(), "distance": distance.item()})
        progress("fine-tune", step + 1, steps, f"distance {history[-1]['distance']:.4f}")
    student.eval()
    return history
