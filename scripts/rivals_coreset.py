"""Greedy k-centre selection, as PatchCore's coreset wants it, without the distances that cannot matter.

The plain algorithm (anomalib's KCenterGreedy) measures all N points against each new centre: N x k distances, hours for
10 % of 780 000 patches. The triangle inequality spares most of them: a point at distance d from its own centre a cannot
be nearer to the new centre c where |c - a| >= 2 d. What is selected is the same; only rounding may decide between
points that are equally far.
"""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_first(points: Tensor, count: int, first: int) -> tuple[Tensor, int]:
    """points [N, D] -> (indices [count] of the centres, `first` among them, in order; distances measured).

    Each centre is the point farthest from all centres before it. Raises ValueError for a count outside 1..N.
    """
    total = len(points)
    if not 1 <= count <= total:
        raise ValueError(f"between 1 and {total} centres can be selected of {total} points, got {count}")
    squares = (points**2).sum(1)
    centres, centre_squares = points.new_empty(count, points.shape[1]), points.new_empty(count)
    chosen = torch.empty(count, dtype=torch.int64)
    nearest = torch.full((total,), torch.inf)  # squared distance of each point to its own centre
    owner = torch.zeros(total, dtype=torch.int64)
    measured, index = 0, first
    for number in range(count):
        chosen[number], centres[number], centre_squares[number] = index, points[index], squares[index]
        centre = centres[number]
        if number:
            apart = centre_squares[:number] - 2 * (centres[:number] @ centre) + squares[index]
            near = torch.nonzero(apart[owner] < 4 * nearest).flatten()
            measured += number + len(near)
        else:
            near, measured = torch.arange(total), total
        # most of memory in one piece is read faster than half of it row by row
        products = (points @ centre)[near] if 2 * len(near) > total else points[near] @ centre
        distance = (squares[near] - 2 * products + squares[index]).clamp_min_(0)
        closer = distance < nearest[near]
        moved = near[closer]
        nearest[moved], owner[moved] = distance[closer], number
        nearest[index], owner[index] = 0, number
        index = int(nearest.argmax())
    return chosen, measured
