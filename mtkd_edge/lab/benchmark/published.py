"""What was published of Ma et al. 2023 (doi:10.1016/j.sysarc.2023.102861), AUROC in per cent.

The rows by category are those of the run that the authors released with their code (maye127/multi-teacher-AD on GitHub,
*_res/finTS_resnet.csv): one ResNet-18 student, evaluated on the test photos every 50 epochs, each time with the best of
66 mixes r1, r2, r3 by test labels. `best` is the best of those epochs, `last` the last one. No figure without a choice
by test labels was published.

The means of three students are the paper's, of four runs (CIFAR-10: three).
"""

from __future__ import annotations

from typing import NamedTuple


class Released(NamedTuple):
    """AUROC in per cent: at the best epoch by test labels, and at the last epoch. In both, labels chose r."""

    best: float
    last: float


MVTEC = {
    "carpet": Released(88.64, 88.64),
    "grid": Released(93.40, 91.81),
    "leather": Released(87.77, 84.75),
    "tile": Released(99.82, 97.40),
    "wood": Released(97.54, 95.79),
    "bottle": Released(100.00, 100.00),
    "cable": Released(96.05, 95.61),
    "capsule": Released(95.21, 94.62),
    "hazelnut": Released(100.00, 99.57),
    "metal_nut": Released(96.09, 93.30),
    "pill": Released(91.46, 91.46),
    "screw": Released(91.68, 88.32),
    "toothbrush": Released(98.61, 98.61),
    "transistor": Released(90.79, 80.67),
    "zipper": Released(97.30, 96.85),
}
CIFAR10 = {
    "airplane": Released(93.94, 93.94),
    "automobile": Released(95.30, 95.10),
    "bird": Released(85.54, 84.94),
    "cat": Released(87.41, 87.21),
    "deer": Released(93.45, 93.37),
    "dog": Released(90.21, 90.20),
    "frog": Released(94.16, 94.16),
    "horse": Released(93.33, 93.27),
    "ship": Released(94.92, 94.55),
    "truck": Released(94.46, 94.40),
}
ROWS: dict[str, dict[str, Released]] = {"mvtec": MVTEC, "cifar10": CIFAR10, "folder": {}}
MULTI_MEANS = {"mvtec": 94.76, "cifar10": 92.55}
"""Of all categories, with three students."""
