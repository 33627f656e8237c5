"""The three terms of the published score, and the two ways of turning them into one number a photo.

Of a crop x, with z_T the teachers' mix, z_S a student and D the decoder (Ma et al. 2023, section 3):

    logits           mean (z_S - z_T)^2
    direction        1 - cos(z_S, z_T)
    reconstruction   mean (D(z_S) - x)^2
    score            r1 logits + r2 direction + r3 reconstruction      the score of a photo is that of its worst crop

`honest` takes the formula as it stands with r fixed beforehand, and looks at good photos only: of several students each
is centred and scaled by what it gives on good photos that nobody trained on, before they are summed.

`oracle` is what the authors' code does: the epoch and the r of 66 that reach the best AUROC on the test labels, and
several students' scores scaled by their extremes on the test photos. It is an upper bound.
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
EQUAL: Mix = (1 / 3, 1 / 3, 1 / 3)
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
    """What the test labels chose: for each student its epoch, its r and its AUROC; and the AUROC of their sum."""

    auroc: float | None
    epochs: tuple[int, ...]
    mixes: tuple[Mix, ...]
    by_student: tuple[float | None, ...]


def oracle(by_epoch: Mapping[int, Terms], labels: Labels) -> Selected:
    """The authors' protocol. `by_epoch`: terms of the test photos at each epoch that was evaluated."""
    epochs, chosen, scores = [], [], []
    for student in range(next(iter(by_epoch.values())).shape[2]):
        tried = [
            (auroc(labels, _photo_scores(terms[:, :, [student]], r)[:, 0]) or 0.0, epoch, r)
            for epoch, terms in by_epoch.items()
            for r in mixes()
        ]
        _, epoch, r = max(tried, key=lambda found: found[0])
        epochs.append(epoch)
        chosen.append(r)
        scores.append(_photo_scores(by_epoch[epoch][:, :, [student]], r)[:, 0])
    low, span = np.min(scores, 1, keepdims=True), np.ptp(scores, 1, keepdims=True)
    total = ((np.asarray(scores) - low) / np.maximum(span, SMALLEST)).sum(0)
    each = tuple(auroc(labels, score) for score in scores)
    return Selected(auroc(labels, total), tuple(epochs), tuple(chosen), each)


def single(terms: Terms, labels: Labels) -> dict[str, float | None]:
    """AUROC of each term alone, of the first student, taken as it is: which of them tells anomalies."""
    alone = np.eye(len(NAMES))
    return {name: auroc(labels, (terms[:, :, 0] @ alone[i]).max(1)) for i, name in enumerate(NAMES)}
