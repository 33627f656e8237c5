"""The three terms of the published score, and the two ways of turning them into one number a photo.

Of a crop x, with z_T the teachers' mix, z_S a student and D the decoder (Ma et al. 2023, section 3):

    logits           mean (z_S - z_T)^2
    direction        1 - cos(z_S, z_T)
    reconstruction   mean (D(z_S) - x)^2
    score            r1 logits + r2 direction + r3 reconstruction      the score of a photo is that of its worst crop

`honest` takes the formula as it stands with r fixed beforehand, and looks at good photos only: of several students each
is centred and scaled by what it gives on good photos that nobody trained on, before they are summed.

`oracle` is what the authors' code does: the epoch and the r of 66 that reach the best AUROC on the test labels. Of
several students each has an epoch of its own, each term is scaled by its extremes on all crops of the test photos, then
summed over the students, and one r weighs the three sums. It is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.lab.paper_nets import Networks, unit
from mtkd_edge.metrics import auroc

NAMES = ("logits", "direction", "reconstruction")
Mix = tuple[float, float, float]
RECONSTRUCTION: Mix = (0.0, 0.0, 1.0)
TENTHS = 10
SMALLEST = 1e-9
Terms = NDArray[np.float64]
"""[photos, crops, students, 3]."""
Labels = NDArray[np.bool_]


def mixes() -> tuple[Mix, ...]:
    """The authors' grid: r1, r2 and r3 in tenths, their sum 1."""
    pairs = [(i, j) for i in range(TENTHS + 1) for j in range(TENTHS + 1 - i)]
    return tuple((i / TENTHS, j / TENTHS, (TENTHS - i - j) / TENTHS) for i, j in pairs)


@torch.no_grad()
def measure(nets: Networks, batches: Iterable[tuple[Tensor, Tensor]], crops: int) -> Terms:
    """Terms of crops that come photo by photo, `crops` a photo.

    batches: pixels 0..255 [N, 3, side, side] and z [N, K, 1000]; without teachers the first two terms are 0.
    """
    parts = [torch.stack([_terms(nets, pixels, z, s) for s in nets.students], 1).cpu() for pixels, z in batches]
    found = torch.cat(parts).double().numpy()
    return found.reshape(-1, crops, *found.shape[1:])


def _terms(nets: Networks, pixels: Tensor, z: Tensor, student: nn.Module) -> Tensor:
    seen = student(pixels)
    rebuilt = ((nets.decoder(seen) - unit(pixels)) ** 2).mean((1, 2, 3))
    if not z.shape[1]:
        return torch.stack([torch.zeros_like(rebuilt), torch.zeros_like(rebuilt), rebuilt], 1)
    mix = nets.mix(z)
    return torch.stack([((seen - mix) ** 2).mean(1), 1 - nn.functional.cosine_similarity(seen, mix), rebuilt], 1)


def honest(terms: Terms, normal: Terms, r: Mix) -> NDArray[np.float64]:
    """Scores [photos]. `normal` holds the terms of good photos that nobody trained on."""
    usual = _photo_scores(normal, r)
    return np.asarray(((_photo_scores(terms, r) - usual.mean(0)) / np.maximum(usual.std(0), SMALLEST)).sum(1))


def _photo_scores(terms: Terms, r: Mix) -> NDArray[np.float64]:
    """[photos, students]: the worst crop of each."""
    return np.asarray((terms @ np.asarray(r)).max(1))


class Selected(NamedTuple):
    """What the test labels chose: for each student the epoch, for all of them r; and the AUROC that these reach."""

    auroc: float | None
    epochs: tuple[int, ...]
    r: Mix


def oracle(by_epoch: Mapping[int, Terms], labels: Labels) -> Selected:
    """The authors' protocol. `by_epoch`: terms of the test photos at each epoch that was evaluated."""
    epochs, chosen = [], []
    for student in range(next(iter(by_epoch.values())).shape[2]):
        alone = {epoch: terms[:, :, student] for epoch, terms in by_epoch.items()}
        epochs.append(max(alone, key=lambda epoch: _best(alone[epoch], labels)[0]))
        chosen.append(alone[epochs[-1]])
    terms = chosen[0] if len(chosen) == 1 else np.sum([_within_extremes(found) for found in chosen], 0)
    _, r = _best(terms, labels)
    return Selected(auroc(labels, (terms @ np.asarray(r)).max(1)), tuple(epochs), r)


def _best(terms: NDArray[np.float64], labels: Labels) -> tuple[float, Mix]:
    """The r that the labels like best for terms [photos, crops, 3], and its AUROC; of equals the first."""
    tried = [(auroc(labels, (terms @ np.asarray(r)).max(1)) or 0.0, r) for r in mixes()]
    return max(tried, key=lambda found: found[0])


def _within_extremes(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    low = terms.min((0, 1))
    return np.asarray((terms - low) / np.maximum(terms.max((0, 1)) - low, SMALLEST))


def single(terms: Terms, labels: Labels) -> dict[str, float | None]:
    """AUROC of each term alone, of the first student, taken as it is: which of them tells anomalies."""
    alone = np.eye(len(NAMES))
    return {name: auroc(labels, (terms[:, :, 0] @ alone[i]).max(1)) for i, name in enumerate(NAMES)}
