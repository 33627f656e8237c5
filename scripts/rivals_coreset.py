"""Greedy k-centre selection, as PatchCore's coreset wants it, with matrix products instead of one pass a centre.

The plain algorithm (anomalib's KCenterGreedy) reads all N points for each new centre, and a processor waits for memory:
10 % of 780 000 patches take hours. But the next centres are nearly always among the points that are farthest now, and
distances only fall. So the farthest few thousand points are looked at alone for as long as one of them is known to be
farther than every other point; then all points are measured against the centres found meanwhile, in one product. What
is selected is the same; only rounding may decide between points that are equally far.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 16384
"""Points that are looked at alone: 22 MB of the 335 numbers to which anomalib projects a patch of 780 000."""
ROWS = 16384
"""Points a product: its result stays in the processor's caches."""


def farthest_first(points: Tensor, count: int, first: int, candidates: int = CANDIDATES) -> Tensor:
    """points [N, D] -> indices [count] of the centres in order, `first` the first of them.

    Each centre is the point farthest from all centres before it. Raises ValueError for a count outside 1..N.
    """
    total = len(points)
    if not 1 <= count <= total:
        raise ValueError(f"between 1 and {total} centres can be selected of {total} points, got {count}")
    squares = (points**2).sum(1)
    nearest = torch.full((total,), torch.inf)  # squared distance of each point to its nearest centre
    chosen = fresh = [first]
    while True:
        _measure(points, squares, fresh, nearest)
        if len(chosen) == count:
            return torch.tensor(chosen)
        farthest = nearest.topk(min(candidates, total)).indices
        # with all points among the candidates there is no other that could be farther
        level = float(nearest[farthest[-1]]) if len(farthest) < total else -1.0
        fresh = _among(points[farthest], squares[farthest], nearest[farthest], level, count - len(chosen))
        fresh = [int(farthest[row]) for row in fresh]
        chosen = chosen + fresh


def _measure(points: Tensor, squares: Tensor, fresh: list[int], nearest: Tensor) -> None:
    """Lower `nearest` by the distances to the centres `fresh`."""
    centres = points[fresh].T.contiguous()
    for start in range(0, len(points), ROWS):
        some = slice(start, start + ROWS)
        apart = torch.addmm(squares[fresh], points[some], centres, alpha=-2).min(1).values + squares[some]
        torch.minimum(nearest[some], apart.clamp_min_(0), out=nearest[some])
    nearest[fresh] = 0


def _among(points: Tensor, squares: Tensor, nearest: Tensor, level: float, most: int) -> list[int]:
    """The next centres, at most `most`, while one of these points is at least as far as `level`; at least one."""
    found: list[int] = []
    while len(found) < most:
        row = int(nearest.argmax())
        if found and float(nearest[row]) < level:
            break
        found.append(row)
        apart = torch.addmv(squares, points, points[row], alpha=-2) + squares[row]
        torch.minimum(nearest, apart.clamp_min_(0), out=nearest)
        nearest[row] = 0
    return found
