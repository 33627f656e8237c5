"""The map method, start to end: align the teachers, learn their importance, distil the student, fit two autoencoders
and keep the one that fits these parts, say what is normal.

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

from mtkd_edge.lab import importance, normalise
from mtkd_edge.lab import student as students
from mtkd_edge.lab.codebook import CodebookAutoencoder
from mtkd_edge.lab.distil import distil
from mtkd_edge.lab.export import feature_names, run_torch
from mtkd_edge.lab.graph import MapFeatures, nchw
from mtkd_edge.lab.mix import GRID_STRIDE, Mix
from mtkd_edge.lab.projection import Batches, projected, projection
from mtkd_edge.lab.subspace import PositionAutoencoder, code_size
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.synthetic import paste_defect

STEPS = 500
ALIGNED_ON = 64
"""Photos that set the alignment: each gives a thousand positions, more change nothing."""
PASTED = 120
"""Copies of tune photos with a pasted defect, at least: with fewer, one copy more or less decides."""
SIGMA, POOL = 1.0, 0.02
Frames = NDArray[np.uint8]
History = list[dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """What a method leaves: the feature graph, the score, and what happened on the way.

    `choices`: what was tried -> AUROC on pasted defects; `chosen`: one of its keys, empty where nothing was tried.
    """

    features: nn.Module
    score: ScoreSpec
    importance: tuple[tuple[float, ...], ...]
    histories: dict[str, History]
    choices: dict[str, float]
    chosen: str = ""


@dataclass(frozen=True)
class Inputs:
    """Frames uint8 [N, H, W, 3] of the two sides that training may see."""

    train: Frames
    tune: Frames


def pixels_of(frames: Frames, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in 0..255."""
    return nchw(torch.from_numpy(frames).to(device))


def train(
    inputs: Inputs, teachers: list[Teacher], student: str, steps: int, batch: int, seed: int,
    device: torch.device, folder: Path, progress: Progress,
) -> Trained:  # fmt: skip
    """The whole method. `folder` keeps the student's state, so that a stopped run continues."""
    mix = Mix(teachers).to(device).eval()
    few = inputs.train[:: max(1, len(inputs.train) // ALIGNED_ON)]
    mix.fit(_counted(few, batch, device, progress, "aligning the teachers"))
    blocks = _cache(mix, inputs.train, batch, device, progress)

    def chosen(step: int) -> list[int]:
        rows = np.random.default_rng((seed, step)).choice(len(blocks), min(batch, len(blocks)), replace=False)
        return [int(row) for row in rows]

    def draw_small(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen(step)
        # a quarter of the positions tells the teachers apart as well, in a quarter of the time
        small = nn.functional.avg_pool2d(pixels_of(inputs.train[rows], device), 2 * GRID_STRIDE)
        return nn.functional.avg_pool2d(blocks[rows].to(device).float(), 2), small

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen(step)
        return pixels_of(inputs.train[rows], device), blocks[rows].to(device).float()

    weights, learned = importance.learn(draw_small, mix.blocks, seed, progress)
    factors = importance.spread(weights, mix.blocks)
    torch.manual_seed(seed)
    net = students.create(student, mix.channels).to(device)
    history = distil(net, draw, factors.to(device), steps, folder, progress)
    scale = factors.view(1, -1, 1, 1)

    def weighted() -> Iterator[Tensor]:
        return (blocks[i : i + 64].float() * scale for i in range(0, len(blocks), 64))

    autoencoders = _autoencoders(weighted, _grid(blocks), seed)
    both = MapFeatures(mix, net, list(autoencoders.values()), factors).to(device).eval()
    channels = {"deviation": mix.channels} | {n: a.project.out_channels for n, a in autoencoders.items()}
    choice = _choose(both, channels, inputs.tune, seed, progress)
    features = MapFeatures(mix, net, [autoencoders[choice.autoencoder]], factors).to(device).eval()
    by_teacher = tuple(tuple(float(v) for v in weights[:, k]) for k in range(len(teachers)))
    histories = {"importance": learned, "student": history}
    return Trained(features, choice.score, by_teacher, histories, choice.tried, choice.name)


def _autoencoders(
    batches: Batches, grid: tuple[int, int], seed: int
) -> dict[str, PositionAutoencoder | CodebookAutoencoder]:
    """Both kinds, fitted in the same space; the first is kept where the second is not clearly better."""
    project = projection(batches)
    rows = projected(project, batches)
    codebook = CodebookAutoencoder(project, rows.shape[0] * rows.shape[1])
    codebook.fit(rows, seed)
    position = PositionAutoencoder(project, grid, code_size(rows.shape[1]))
    position.fit(rows)
    return {"codebook": codebook, "position": position}


def _grid(blocks: Tensor) -> tuple[int, int]:
    return int(blocks.shape[2]), int(blocks.shape[3])


def _counted(frames: Frames, batch: int, device: torch.device, progress: Progress, step: str) -> Iterator[Tensor]:
    for start in range(0, len(frames), batch):
        yield pixels_of(frames[start : start + batch], device)
        progress(step, min(start + batch, len(frames)), len(frames))


@torch.no_grad()
def _cache(mix: Mix, frames: Frames, batch: int, device: torch.device, progress: Progress) -> Tensor:
    """The teachers' blocks of all training photos, float16 on the CPU, [N, D, h, w]."""
    return torch.cat([mix(p).half().cpu() for p in _counted(frames, batch, device, progress, "teachers' features")])


def _choose(
    features: MapFeatures, channels: dict[str, int], tune: Frames, seed: int, progress: Progress
) -> normalise.Choice:
    """Measure the student and all autoencoders on `tune` and on defects pasted there; keep what ranks them best."""
    height, width = tune.shape[1] // GRID_STRIDE, tune.shape[2] // GRID_STRIDE
    levels = tuple(Level(name, "distance", c, height, width, 0.5) for name, c in channels.items())
    shape = ScoreSpec(levels, 2 * height, 2 * width, SIGMA, POOL)
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
