"""The map method, start to end: align the teachers, learn their importance, distil the student, fit the autoencoder
over windows of three sizes and keep the one that fits these parts, say what is normal.

Frozen in, frozen out: frames of the three sides -> `Trained`, from which the bundle is written. Teacher features are
computed once and kept as float16 (0.5 MB a photo); augmentation is left to the photos themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.lab import importance, merge, normalise, prune
from mtkd_edge.lab import student as students
from mtkd_edge.lab.distil import distil
from mtkd_edge.lab.export import feature_names, run_torch
from mtkd_edge.lab.graph import MapFeatures, nchw
from mtkd_edge.lab.letterbox import WHOLE, View
from mtkd_edge.lab.mix import GRID_STRIDE, Mix
from mtkd_edge.lab.projection import Batches, projected, projection
from mtkd_edge.lab.subspace import Moments, PositionAutoencoder, code_size
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.synthetic import paste_defect

STEPS = 500
ALIGNED_ON = 64
"""Photos that set the alignment: each gives a thousand positions, more change nothing."""
PASTED = 120
"""Copies of tune photos with a pasted defect, at least: with fewer, one copy more or less decides."""
WINDOWS = (1, 3, 9)
"""Positions that share statistics, a side: parts that lie exactly, nearly, or only roughly alike."""
SIGMA, POOL = 1.0, 0.02
Frames = NDArray[np.uint8]
History = list[dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """What a method leaves: the feature graph, the score, and what happened on the way.

    `teachers`: those inside the graph, with their importance by level; `asked`: the importance of every teacher that
    took part, by name. `choices`: what was tried -> AUROC on pasted defects; `chosen`: one of its keys, empty where
    nothing was tried.
    """

    features: nn.Module
    score: ScoreSpec
    teachers: tuple[Teacher, ...]
    importance: tuple[tuple[float, ...], ...]
    asked: dict[str, tuple[float, ...]]
    histories: dict[str, History]
    choices: dict[str, float]
    chosen: str = ""


@dataclass(frozen=True)
class Inputs:
    """Frames uint8 [N, H, W, 3] of the two sides that training may see, and of generic pictures if there are any.

    `view`: how networks look at them.
    """

    train: Frames
    tune: Frames
    generic: Frames | None = None
    view: View = WHOLE


@dataclass(frozen=True)
class Teaching:
    """What becomes of the teachers: their weights equal or learned, the least importance kept, one for all or not."""

    equal: bool = False
    prune: float = 0.0
    merge: bool = False


@dataclass(frozen=True, eq=False)
class Mixed:
    """What the student learns: the blocks of `mix`, times `factors` [D].

    `blocks`: those of the training photos, float16 [N, D, h, w]. `importance`: that of `teachers`, by level.
    """

    mix: Mix | merge.EdgeMix
    factors: Tensor
    blocks: Tensor
    teachers: tuple[Teacher, ...]
    importance: tuple[tuple[float, ...], ...]

    def weighted(self) -> Iterator[Tensor]:
        """The weighted mixes of the training photos, batch by batch."""
        scale = self.factors.cpu().view(1, -1, 1, 1)
        return (self.blocks[i : i + 64].float() * scale for i in range(0, len(self.blocks), 64))


def pixels_of(frames: Frames, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in 0..255."""
    return nchw(torch.from_numpy(frames).to(device))


def train(
    inputs: Inputs, teachers: list[Teacher], student: str, steps: int, batch: int, seed: int,
    device: torch.device, folder: Path, progress: Progress, teaching: Teaching = Teaching(),
) -> Trained:  # fmt: skip
    """The whole method. `folder` keeps the student's state, so that a stopped run continues."""
    mix = Mix(teachers, view=inputs.view).to(device).eval()
    few = inputs.train[:: max(1, len(inputs.train) // ALIGNED_ON)]
    mix.fit(_counted(few, batch, device, progress, "aligning the teachers"))
    blocks = _cache(mix, inputs.train, batch, device, progress)

    def chosen(step: int) -> list[int]:
        rows = np.random.default_rng((seed, step)).choice(len(blocks), min(batch, len(blocks)), replace=False)
        return [int(row) for row in rows]

    def draw_small(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen(step)
        # a quarter of the positions tells the teachers apart as well, in a quarter of the time
        small = small_pixels(pixels_of(inputs.train[rows], device), inputs.view)
        return nn.functional.avg_pool2d(blocks[rows].to(device).float(), 2), small

    histories: dict[str, History] = {}
    weights = importance.equal(mix.blocks)
    if not teaching.equal:
        weights, histories["importance"] = importance.learn(draw_small, mix.blocks, seed, progress)
    asked = dict(zip((t.name for t in teachers), by_teacher(weights), strict=True))
    mixed = _pruned(Mixed(mix, importance.spread(weights, mix.blocks).to(device), blocks, tuple(teachers), ()), weights,
                    teaching.prune)  # fmt: skip
    if teaching.merge and len(mixed.teachers) > 1:  # a teacher that is left alone is the edge teacher already
        mixed, histories["edge-teacher"] = _merged(mixed, inputs, batch, seed, device, folder / "edge", progress)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen(step)
        return pixels_of(inputs.train[rows], device), mixed.blocks[rows].to(device).float()

    torch.manual_seed(seed)
    net = students.create(student, mixed.mix.channels, inputs.view).to(device)
    histories["student"] = distil(net, draw, mixed.factors, steps, folder, progress)
    autoencoders = _autoencoders(mixed.weighted, _grid(blocks))
    both = MapFeatures(mixed.mix, net, list(autoencoders.values()), mixed.factors).to(device).eval()
    channels = {"deviation": mixed.mix.channels} | {n: a.channels for n, a in autoencoders.items()}
    choice = _choose(both, channels, _grid(blocks), inputs.tune, seed, progress)
    features = MapFeatures(mixed.mix, net, [autoencoders[choice.autoencoder]], mixed.factors).to(device).eval()
    return Trained(
        features, choice.score, mixed.teachers, mixed.importance, asked, histories, choice.tried, choice.name
    )


def by_teacher(weights: Tensor) -> tuple[tuple[float, ...], ...]:
    """Weights [levels, teachers] -> one tuple a teacher."""
    return tuple(tuple(float(v) for v in column) for column in weights.T)


def _pruned(whole: Mixed, weights: Tensor, least: float) -> Mixed:
    """Without the teachers whose importance is below `least`; the others' weights sum to 1 again."""
    assert isinstance(whole.mix, Mix)
    kept = prune.kept(weights, least)
    left = prune.renormalised(weights, kept)
    teachers = tuple(whole.teachers[k] for k in kept)
    if len(kept) == len(whole.teachers):
        return Mixed(whole.mix, whole.factors, whole.blocks, teachers, by_teacher(left))
    small = prune.subset(whole.mix, kept)
    factors = importance.spread(left, small.blocks).to(whole.factors.device)
    return Mixed(small, factors, whole.blocks[:, prune.channels_of(whole.mix, kept)], teachers, by_teacher(left))


def _merged(
    many: Mixed, inputs: Inputs, batch: int, seed: int, device: torch.device, folder: Path, progress: Progress
) -> tuple[Mixed, History]:
    """One edge teacher in the place of all: what the student learns from here on is what it says."""
    assert isinstance(many.mix, Mix)
    generic = inputs.train[:0] if inputs.generic is None else inputs.generic
    lessons = merge.lessons(many.mix, many.factors, many.blocks, inputs.train, generic, batch, seed, progress)
    edge = merge.beginning(many.teachers, lessons[0].target.shape[1], [t.name for t in many.teachers], seed)
    mix, history = merge.taught(edge, lessons, merge.STEPS, batch, seed, device, folder, progress, inputs.view)
    blocks = _cache(mix, inputs.train, batch, device, progress)
    return Mixed(mix, torch.ones(mix.channels, device=device), blocks, (edge,), ((1.0,),)), history


def _autoencoders(batches: Batches, grid: tuple[int, int]) -> dict[str, PositionAutoencoder]:
    """One a window, all in the same space; the first is kept where no other is clearly better."""
    project = projection(batches)
    seen = Moments(projected(project, batches))
    found = {}
    for window in WINDOWS:
        found[f"window {window}"] = net = PositionAutoencoder(project, grid, code_size(window**2 * seen.photos))
        net.fit(seen, window)
    return found


def small_pixels(pixels: Tensor, view: View) -> Tensor:
    """Pixels [N, 3, H, W] -> of the photos, on a grid of half as many rows and columns as the blocks have."""
    return nn.functional.avg_pool2d(view.placed(nn.functional.avg_pool2d(pixels, GRID_STRIDE), pixels), 2)


def _grid(blocks: Tensor) -> tuple[int, int]:
    return int(blocks.shape[2]), int(blocks.shape[3])


def _counted(frames: Frames, batch: int, device: torch.device, progress: Progress, step: str) -> Iterator[Tensor]:
    for start in range(0, len(frames), batch):
        yield pixels_of(frames[start : start + batch], device)
        progress(step, min(start + batch, len(frames)), len(frames))


@torch.no_grad()
def _cache(mix: nn.Module, frames: Frames, batch: int, device: torch.device, progress: Progress) -> Tensor:
    """The teachers' blocks of all training photos, float16 on the CPU, [N, D, h, w]."""
    return torch.cat([mix(p).half().cpu() for p in _counted(frames, batch, device, progress, "teachers' features")])


def _choose(
    features: MapFeatures, channels: dict[str, int], grid: tuple[int, int], tune: Frames, seed: int, progress: Progress
) -> normalise.Choice:
    """Measure the student and all autoencoders on `tune` and on defects pasted there; keep what ranks them best."""
    levels = tuple(Level(name, "distance", c, *grid, 0.5) for name, c in channels.items())
    shape = ScoreSpec(levels, 2 * grid[0], 2 * grid[1], SIGMA, POOL)
    rng = np.random.default_rng(seed)
    copies = -(-PASTED // len(tune))
    pasted = np.stack([paste_defect(frame, rng)[0] for frame in tune for _ in range(copies)])

    def measured(frames: Frames, step: str) -> list[normalise.Maps]:
        parts = []
        for start in range(0, len(frames), 8):
            found = run_torch(features, frames[start : start + 8], feature_names(shape))
            parts.append(normalise.distances(levels, found))
            progress(step, min(start + 8, len(frames)), len(frames))
        return [np.concatenate(level) for level in zip(*parts, strict=True)]

    normal, defect = measured(tune, "what is normal"), measured(pasted, "pasted defects")
    return normalise.choose(levels, [normalise.Distances(n, d) for n, d in zip(normal, defect, strict=True)], shape)
