"""What the importance weights do: one table over teachers, ways to weigh them, and ways to mix them.

    python scripts/ablate_weights.py DATA --teachers A,B,C,D --seeds 0,1,2,3,4 --cache DIR --out OUT

Rows: each teacher alone; the first two, three and all, with equal weights and with weights learned from pixels, from
pixels and features, and by Fisher's rule from pasted defects; the first three also as a weighted sum. Score: the
autoencoder alone, without the student, so that a row is cheap; its window is chosen by pasted defects as in `train`,
the same defects for all seeds. Pixel figures are on the map's own grid. Test labels are read for the figures and for
nothing else. OUT/rows.jsonl gets a line a row and seed; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablate_cache import Features, load
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.device.evaluate import GOOD
from mtkd_edge.lab import importance, normalise
from mtkd_edge.lab.config import short_name
from mtkd_edge.lab.map_method import POOL, SIGMA, WINDOWS
from mtkd_edge.lab.mix import Block
from mtkd_edge.lab.projection import projected, projection
from mtkd_edge.lab.subspace import CODE, Moments, PositionAutoencoder, code_size
from mtkd_edge.metrics import auroc, pixel_figures
from mtkd_edge.progress import silent
from mtkd_edge.score import Level, ScoreSpec, oracle

Maps = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One row of the table: teachers by number, without gaps; how they are weighed, how they are mixed."""

    teachers: tuple[int, ...]
    weights: str = "equal"
    form: str = "blocks"

    def name(self, names: Sequence[str]) -> str:
        """For people."""
        return " + ".join(names[k] for k in self.teachers) + f", {self.weights}, {self.form}"


def rows(count: int) -> list[Row]:
    """All rows for so many teachers."""
    found = [Row((k,)) for k in range(count)]
    for some in range(2, count + 1):
        found += [Row(tuple(range(some)), weights) for weights in WAYS]
    three = tuple(range(min(3, count)))
    found += [Row(three, weights, "sum") for weights in ("equal", "features")]
    return sorted(found, key=lambda row: row.weights in SEEDED)


def subset(features: Features, row: Row) -> tuple[tuple[Block, ...], slice]:
    """The blocks of the row's teachers, numbered anew, and their channels in the cache."""
    own = [block for block in features.blocks if block.teacher in row.teachers]
    start, first = own[0].start, row.teachers[0]
    blocks = (Block(b.teacher - first, b.stride, b.start - start, b.stop - start) for b in own)
    return tuple(blocks), slice(start, own[-1].stop)


def learned(features: Features, row: Row, seed: int, felt_share: float) -> Tensor:
    """By reconstruction, as `train` does it."""
    blocks, channels = subset(features, row)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        size = len(features.seen)
        picked = np.sort(np.random.default_rng((seed, step)).choice(size, min(8, size), replace=False))
        batch = torch.from_numpy(np.asarray(features.sets["train"][picked, channels])).float()
        return nn.functional.avg_pool2d(batch, 2), features.seen[picked]

    return importance.learn(draw, blocks, seed, silent, felt_share)[0]


def fisher(features: Features, row: Row, seed: int) -> Tensor:
    """By Fisher's linear discriminant: what a pasted defect adds to a block's reconstruction error, by its variance.

    The score adds up the blocks' squared errors, w_b e_b; of independent e_b the sum that best tells two classes apart
    has w_b proportional to (mean of e_b on defects - mean on good cells) / variance on good cells.
    """
    blocks, channels = subset(features, row)
    weights = torch.zeros_like(importance.equal(blocks))
    strides = sorted({b.stride for b in blocks})
    for block in blocks:
        gain = block_gain(features, channels.start + block.start, channels.start + block.stop)
        weights[strides.index(block.stride), block.teacher] = max(gain, 0.0)
    share = weights / weights.sum(1, keepdim=True)
    return importance.FLOOR + (1 - importance.FLOOR * len(row.teachers)) * share


@lru_cache
def block_gain(features: Features, start: int, stop: int) -> float:
    """Fisher's weight of one block, with an autoencoder of its own, whose code is half of the directions at most."""
    channels, width = slice(start, stop), stop - start
    rows = projected_by(features, channels, torch.eye(width), ("train", "tune", "pasted"))
    net = autoencoder(features, Moments(rows["train"]), WINDOWS[0], width // 2)
    normal, defect = (distances(net, rows[name]) ** 2 for name in ("tune", "pasted"))
    return float((defect[features.flaws].mean() - normal.mean()) / normal.var())


WAYS: dict[str, Callable[[Features, Row, int], Tensor]] = {
    "equal": lambda features, row, _: importance.equal(subset(features, row)[0]),
    "pixels": lambda features, row, seed: learned(features, row, seed, 0.0),
    "features": lambda features, row, seed: learned(features, row, seed, 1.0),
    "fisher": fisher,
}


SEEDED = ("pixels", "features")
"""Ways whose weights depend on the seed; everything else in this table depends on nothing but the photos."""


def mixer(features: Features, row: Row, weights: Tensor) -> Tensor:
    """The matrix [D, D'] that takes the row's blocks to its mix: weighted blocks, or a weighted sum of each level's."""
    blocks, channels = subset(features, row)
    size_of_all = channels.stop - channels.start
    if row.form == "blocks":
        return torch.diag(importance.spread(weights, blocks))
    strides = sorted({b.stride for b in blocks})
    widest = max(b.stop - b.start for b in blocks)
    matrix = torch.zeros(size_of_all, widest * len(strides))
    for block in blocks:
        level = strides.index(block.stride)
        size = block.stop - block.start
        into = slice(widest * level, widest * level + size)
        matrix[block.start : block.stop, into] = torch.eye(size) * weights[level, block.teacher]
    return matrix


def projected_by(features: Features, channels: slice, matrix: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The mix that `matrix` makes of these channels, in the space of the autoencoders: by set, [h * w, N, C]."""
    # the second moment of any mix follows from that of all features: a root of it stands for all photos
    root = (matrix.T @ features.root[channels]).view(1, matrix.shape[1], -1, 1)
    rows = projection(lambda: iter([root])).weight[:, :, 0, 0] @ matrix.T
    project = nn.Conv2d(rows.shape[1], rows.shape[0], 1, bias=False).requires_grad_(False)
    project.weight.copy_(rows[:, :, None, None])
    return {name: projected(project, partial(features.batches, name, channels)) for name in names}


def autoencoder(features: Features, seen: Moments, window: int, most: int = CODE) -> PositionAutoencoder:
    """The autoencoder over windows of one size, as `train` fits it."""
    height, width = features.sets["train"].shape[2:]
    channels = seen.mean.shape[1]
    code = min(most, code_size(window**2 * seen.photos))
    net = PositionAutoencoder(nn.Conv2d(channels, channels, 1), (height, width), code)
    net.fit(seen, window)
    return net


@torch.no_grad()
def distances(net: PositionAutoencoder, rows: Tensor) -> Maps:
    """The reconstruction errors of photos in its space, [h * w, N, C] -> [N, h, w]."""
    seen, rebuilt = net.compare(rows.permute(1, 2, 0).reshape(rows.shape[1], -1, *net.grid))
    return np.asarray((seen - rebuilt).square().mean(1).sqrt().double().numpy())


def spec_of(normal: Maps) -> ScoreSpec:
    """The score of one map of distances alone."""
    height, width = normal.shape[1:]
    center, scale = normalise.statistics(normal)
    level = Level("reconstruction", "distance", 1, height, width, 1.0, center, scale)
    return ScoreSpec((level,), 2 * height, 2 * width, SIGMA, POOL)


def scored(spec: ScoreSpec, maps: Maps) -> tuple[Maps, Maps]:
    """Anomaly maps [N, H, W] and scores [N] of distances [N, h, w]."""
    found, scores = oracle(spec, [maps[:, None]], [np.zeros_like(maps)[:, None]])
    return np.asarray(found, np.float64), np.asarray(scores, np.float64)


def separation(spec: ScoreSpec, normal: Maps, defect: Maps) -> float:
    """AUROC of two sets of distances."""
    labels = np.r_[np.zeros(len(normal), bool), np.ones(len(defect), bool)]
    return auroc(labels, np.r_[scored(spec, normal)[1], scored(spec, defect)[1]]) or 0.5


def figures(features: Features, row: Row, weights: Tensor) -> dict[str, Any]:
    """What a row with these weights reaches; pasted defects choose the window, as in `train`."""
    matrix = mixer(features, row, weights)
    rows = projected_by(features, subset(features, row)[1], matrix, ("train", "tune", "pasted", "test"))
    seen = Moments(rows["train"])
    nets = [autoencoder(features, seen, window) for window in WINDOWS]
    tune = [distances(net, rows["tune"]) for net in nets]
    specs = [spec_of(normal) for normal in tune]
    pasted = [distances(net, rows["pasted"]) for net in nets]
    reached = [separation(*found) for found in zip(specs, tune, pasted, strict=True)]
    best = normalise.first_or_better(reached)
    maps, scores = scored(specs[best], distances(nets[best], rows["test"]))
    usable = [(mask, maps[i]) for i, mask in enumerate(features.masks) if mask is not None]
    pixel_auroc, aupro = pixel_figures([mask for mask, _ in usable], [own for _, own in usable])
    return {
        "window": WINDOWS[best],
        "pasted_auroc": reached[best],
        "image_auroc": auroc([kind != GOOD for kind in features.kinds], scores),
        "pixel_auroc": pixel_auroc,
        "aupro": aupro,
    }


def run(features: Features, row: Row, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One row with each of these seeds."""
    for seed in seeds:
        began = time.monotonic()
        weights = WAYS[row.weights](features, row, seed)
        found = figures(features, row, weights)
        yield {"seed": seed, "weights": weights.tolist(), **found, "seconds": round(time.monotonic() - began, 1)}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, as Markdown; weights of stride 8, then of stride 16."""
    lines = [
        "| teachers | weights | mix | w at stride 8 | w at 16 | pasted AUROC | image AUROC | pixel AUROC | AUPRO |",
        "|---|---|---|---|---|--:|--:|--:|--:|",
    ]
    for name in dict.fromkeys(str(result["row"]) for result in results):
        own = [result for result in results if result["row"] == name]
        cells = []
        for figure in ("pasted_auroc", "image_auroc", "pixel_auroc", "aupro"):
            values = [float(result[figure]) for result in own]
            cells.append(f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}")
        mean = np.mean([result["weights"] for result in own], 0)
        shares = ["/".join(f"{w:.2f}" for w in level) for level in mean]
        lines.append(f"| {' | '.join([*name.rsplit(', ', 2), *shares, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    """All rows, all seeds; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teachers", required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    names, seeds = given.teachers.split(","), [int(s) for s in given.seeds.split(",")]
    features = load(given.data, names, given.size, given.cache)
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "rows.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(result["row"], result["seed"]) for result in results}
    for row in rows(len(names)):
        title = row.name([short_name(name) for name in names])
        wanted = seeds if row.weights in SEEDED else seeds[:1]  # the others do not depend on the seed
        for result in run(features, row, [seed for seed in wanted if (title, seed) not in done]):
            results.append({"row": title, **result})
            with log.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
            print(json.dumps(results[-1]), flush=True)
    (given.out / "table.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
