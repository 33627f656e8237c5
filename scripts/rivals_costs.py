"""What a rival will cost before it is run, and the largest setting of it that fits a budget of processor time.

All figures are for frames of 256 pixels and a ResNet-18 cut behind its third stage, on one thread. They are meant to be
right within a factor of two: they decide how much of a rival is run, and what is run is written in the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SIDE = 256
TRUNK = 1.83
"""GMAC of one frame through ResNet-18 up to layer3."""
REVERSED = 2.8
"""GMAC of one frame through Reverse Distillation's bottleneck and decoder."""
PATCHES, WIDTH = (SIDE // 8) ** 2, 384
"""PatchCore: vectors a frame (stride 8), and their length (layer2 and layer3 side by side)."""
POSITIONS, CHANNELS = (SIDE // 4) ** 2, 100
"""PaDiM: positions (stride 4), and the channels that it keeps of 448."""
BYTES = 5e9
"""Bytes a second that one thread reads from memory in order."""
SPARED = 0.05
"""Time of the coreset by that of reading all points for each centre (rivals_coreset.py does not)."""
START = 0.5
"""Processor minutes to import anomalib and to export the model."""
CORESETS = (0.1, 0.03, 0.01, 0.003, 0.001)
EPOCHS = {"stfpm": 100, "rd": 200}
"""As their papers have it."""
BACKWARD = 3
"""A training step costs three forward passes of what is trained."""


@dataclass(frozen=True)
class Plan:
    """A setting: the words for the table, the child's options, and the predicted GMAC and processor minutes."""

    setting: str
    options: tuple[str, ...]
    gmac: float
    minutes: float


def plan(rival: str, train: int, test: int, budget: float, rate: float, batch: int) -> Plan:
    """The largest setting of `rival` within `budget` processor minutes at `rate` GMAC a second.

    `train` and `test` count the photos; a rival whose least setting is over the budget is planned all the same.
    """
    if rival == "padim":
        mahalanobis = POSITIONS * CHANNELS**2 / 1e9
        gmac = (train + test) * (TRUNK + mahalanobis) + POSITIONS * CHANNELS**3 / 1e9
        return Plan(f"{CHANNELS} channels, as published", (), gmac, gmac / rate / 60 + START)
    if rival == "patchcore":
        plans = [_patchcore(ratio, train, test, rate) for ratio in CORESETS]
        return next((found for found in plans if found.minutes <= budget), plans[-1])
    return _gradient(rival, train, test, budget, rate, batch)


def _patchcore(ratio: float, train: int, test: int, rate: float) -> Plan:
    vectors = train * PATCHES
    bank = int(vectors * ratio)
    # anomalib's projection keeps distances within 90 % (Johnson-Lindenstrauss)
    projected = int(4 * math.log(vectors) / (0.9**2 / 2 - 0.9**3 / 3))
    gmac = (train + test) * TRUNK + test * PATCHES * bank * WIDTH / 1e9
    seconds = gmac / rate + SPARED * bank * vectors * projected * 4 / BYTES
    words = f"coreset {100 * ratio:g} %: {bank} of {vectors} patches"
    return Plan(words, ("--coreset", str(ratio)), gmac, seconds / 60 + START)


def _gradient(rival: str, train: int, test: int, budget: float, rate: float, batch: int) -> Plan:
    learned = TRUNK if rival == "stfpm" else REVERSED
    step, answer = batch * (TRUNK + BACKWARD * learned), test * (TRUNK + learned)
    full = EPOCHS[rival] * train // batch
    affordable = int(((budget - START) * 60 * rate - answer) / step)
    steps = max(1, min(full, affordable))
    gmac = steps * step + answer
    done = steps * batch / train
    words = f"{steps} steps of {batch}: {done:.3g} of {EPOCHS[rival]} epochs"
    return Plan(words, ("--steps", str(steps), "--batch", str(batch)), gmac, gmac / rate / 60 + START)
