"""What one cell of a benchmark found: one category, one seed, one variant."""

from __future__ import annotations

import msgspec


class Oracle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chosen by test labels: for each student its epoch, for all r1, r2, r3; and the AUROC that these reach."""

    image_auroc: float
    epochs: tuple[int, ...]
    terms: tuple[float, float, float]


class Maker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ran a cell: version of the program and of torch, and the processor of the networks."""

    version: str
    torch: str
    device: str


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`image_auroc` is the honest one: last epoch, nothing chosen by test labels. Areas lie in [0, 1].

    `single`: AUROC of each of the three terms alone, and of the mean of z_T^2, which needs no student (paper).
    `scores`: of the test photos, in the suite's order. `photos`: how many to train on, to tune on, good and anomalous
    ones to test. `seconds`: of the last start. `made_by` and `digest`, of the photos: filled in by `run`, which keeps
    the cell; a cell from before there was a digest has none.
    """

    variant: str
    category: str
    seed: int
    image_auroc: float
    oracle: Oracle | None = None
    single: dict[str, float] = {}
    pixel_auroc: float | None = None
    aupro: float | None = None
    importance: dict[str, tuple[float, ...]]
    photos: dict[str, int]
    scores: tuple[float, ...]
    seconds: float
    made_by: Maker | None = None
    digest: str = ""
