"""The published score of a photo: honest with r fixed, and as the authors choose it by test labels."""

from __future__ import annotations

import numpy as np
import pytest

from mtkd_edge.lab import paper_terms
from mtkd_edge.metrics import auroc


def test_the_authors_grid_has_66_mixes() -> None:
    found = paper_terms.mixes()
    assert len(set(found)) == 66
    assert all(sum(r) == pytest.approx(1) and min(r) >= 0 for r in found)


def test_a_photo_scores_as_its_worst_crop() -> None:
    rng = np.random.default_rng(0)
    normal = rng.random((200, 4, 1, 3))
    photos = normal[:2].copy()
    photos[1, 2, 0, 0] = 20
    scores = paper_terms.honest(photos, normal, (0.5, 0.3, 0.2))
    assert scores[1] > scores[0] + 3
    assert np.argsort(paper_terms.honest(normal, normal, (0.5, 0.3, 0.2))).tolist() == (
        np.argsort((normal @ np.array((0.5, 0.3, 0.2))).max(1)[:, 0]).tolist()
    ), "one student: the published formula, but for scale"


def test_students_count_alike_whatever_the_size_of_their_scores() -> None:
    rng = np.random.default_rng(0)
    normal = rng.random((300, 1, 1, 3))
    both = np.concatenate([normal, 1000 * rng.random((300, 1, 1, 3))], 2)
    summed = paper_terms.honest(both, both, (1 / 3, 1 / 3, 1 / 3))
    alone = paper_terms.honest(normal, normal, (1 / 3, 1 / 3, 1 / 3))
    assert np.corrcoef(summed, alone)[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.08)


def test_the_oracle_takes_the_epoch_and_the_mix_that_the_labels_like() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 1
    useless, telling = rng.random((40, 1, 1, 3)), rng.random((40, 1, 1, 3))
    telling[labels, :, :, 1] += 2
    found = paper_terms.oracle({50: useless, 100: telling}, labels)
    assert (found.auroc, found.epochs) == (1.0, (100,))
    assert found.r[1] > 0


def test_the_oracle_sums_the_students_terms_before_it_takes_the_worst_crop() -> None:
    """As the authors do: scaled by the extremes of all crops, summed crop by crop, one r for the sums."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2 == 1
    early, late = rng.random((30, 4, 2, 3)), rng.random((30, 4, 2, 3))
    early[labels, :, 1, 2] += 3  # the second student is better at 50, the first at 100
    late[labels, :2, 0, 0] += 3
    late[:, :, 0] *= 1000  # and counts no more for that
    found = paper_terms.oracle({50: early, 100: late}, labels)
    both = np.stack([late[:, :, 0], early[:, :, 1]], 2)
    low, high = both.min((0, 1)), both.max((0, 1))
    summed = ((both - low) / (high - low)).sum(2)
    areas = [auroc(labels, (summed @ np.array(r)).max(1)) for r in paper_terms.mixes()]
    assert found.epochs == (100, 50)
    assert found.auroc == max(area for area in areas if area is not None)
    assert found.r == paper_terms.mixes()[areas.index(found.auroc)]
