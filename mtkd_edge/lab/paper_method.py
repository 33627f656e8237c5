"""The method as published: Ma, Jiang, Guan, Yi 2023, doi:10.1016/j.sysarc.2023.102861, section 3.

Teachers give class logits. Each is standardised on the normal photos, the mix is their softmax-weighted sum, a decoder
rebuilds the photo from it, and the student learns the mix:

    z_k = (T_k(x) - mu_k) / sigma_k      z_T = sum_k softmax(a)_k z_k
    autoencoder step   L_w = MSE(x, D(z_T))                                updates D and a
    student step       L_S = MSE(z_T, z_S) + mean(1 - cos(z_T, z_S))       updates S alone, z_T detached
    score              r1 mean (z_S - z_T)^2 + r2 (1 - cos) + r3 mean (D(z_S) - x)^2

Three differences, each for a reason: every teacher gets its own mean and deviation (theirs are fed with 0.5); the frame
is one whole photo (their 25 crops of MVTec AD and their choice of epoch and of r by test labels belong to a benchmark);
and the three terms are normalised on normal photos and then count alike.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mtkd_edge.lab import checkpoint, normalise
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.export import feature_names, run_torch
from mtkd_edge.lab.graph import nchw
from mtkd_edge.lab.logits import LogitStudent, load_logits
from mtkd_edge.lab.map_method import Frames, History, Inputs, Trained, pixels_of
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress
from mtkd_edge.score import Level, ScoreSpec

EPOCHS = 50
RATE = 1e-3
SMALL_SIGMA = 1e-3
"""A logit that never varies on the normals is divided by this, as in the authors' code."""


class Decoder(nn.Module):
    """Mix [N, 1000] -> photo in -1..1 [N, 3, size, size]: 128 x 7 x 7, then five 2x stages 128-64-32-16-8-3."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        widths = (128, 64, 32, 16, 8, 3)
        self.base = size // 32
        self.start = nn.Linear(classes, 128 * self.base**2)
        stages: list[nn.Module] = []
        for inside, out in pairwise(widths):
            stages += [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(inside, out, 3, 1, 1)]
            stages += [nn.BatchNorm2d(out), nn.ReLU()] if out != 3 else [nn.Tanh()]
        self.stages = nn.Sequential(*stages)

    def forward(self, mix: Tensor) -> Tensor:
        """The reconstruction."""
        out: Tensor = self.stages(self.start(mix).view(-1, 128, self.base, self.base))
        return out


class Networks(nn.Module):
    """All that trains: decoder D, student S and the logits `a` of the importance weights."""

    def __init__(self, teachers: int, classes: int, size: int) -> None:
        super().__init__()
        self.decoder, self.student = Decoder(classes, size), LogitStudent(classes)
        self.a = nn.Parameter(torch.zeros(teachers))

    def mix(self, logits: Tensor) -> Tensor:
        """Standardised logits [N, K, classes] -> z_T [N, classes]."""
        return (self.a.softmax(0).view(1, -1, 1) * logits).sum(1)


class PaperFeatures(nn.Module):
    """Frames uint8 [N, H, W, 3] -> the pairs of the three terms, students first."""

    def __init__(self, teachers: list[Teacher], nets: Networks, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.teachers, self.nets = nn.ModuleList(teachers), nets
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """student_ and reference_ of `logits`, `direction` and `reconstruction`."""
        pixels = nchw(frames)
        logits = torch.stack([teacher(pixels)[0] for teacher in self.teachers], 1)
        reference = self.nets.mix((logits - self.mean) / self.std)
        seen = self.nets.student(pixels)
        z_s, z_t = seen[:, :, None, None], reference[:, :, None, None]
        return z_s, z_s, self.nets.decoder(seen), z_t, z_t, unit(pixels)


def unit(pixels: Tensor) -> Tensor:
    """0..255 -> -1..1, the range of the decoder's tanh."""
    return pixels / 127.5 - 1


def train(
    inputs: Inputs, config: TrainConfig, found: list[Teacher], device: torch.device, folder: Path, progress: Progress
) -> Trained:
    """The whole method on whole photos; `found` is filled with the teachers. Both steps of the paper, every batch."""
    for i, name in enumerate(names := config.teacher_names()):
        found.append(load_logits(name).to(device))
        progress("loading teachers", i + 1, len(names))
    logits = _logits(found, inputs.train, config.batch, device, progress)
    mean, std = logits.mean(0, keepdim=True), logits.std(0, keepdim=True)
    std = torch.where(std == 0, SMALL_SIGMA, std)
    logits = (logits - mean) / std
    torch.manual_seed(config.seed)
    nets = Networks(len(found), logits.shape[2], config.size).to(device)
    steps = (config.epochs or EPOCHS) * -(-len(logits) // config.batch)
    history = _distil(nets, inputs.train, logits, config, steps, device, folder, progress)
    features = PaperFeatures(found, nets, mean, std).to(device).eval()
    score, choices = _score(features, inputs.tune, logits.shape[2], config.size)
    weights = tuple((float(w),) for w in nets.a.detach().softmax(0))
    return Trained(features, score, weights, {"student": history}, choices)


def _distil(
    nets: Networks, frames: Frames, logits: Tensor, config: TrainConfig, steps: int, device: torch.device,
    folder: Path, progress: Progress,
) -> History:  # fmt: skip
    """The visible loop: one autoencoder step and one student step a batch, resumed from the last saved step."""
    optimizer = torch.optim.Adam(nets.parameters(), lr=RATE)
    done, history = checkpoint.restore(folder, nets, optimizer)
    nets.train()
    try:
        while done < steps:
            rows = np.random.default_rng((config.seed, done)).choice(len(frames), min(config.batch, len(frames)), False)
            pixels, z = pixels_of(frames[rows], device), logits[torch.from_numpy(rows)].to(device)
            mix = nets.mix(z)
            rebuilt = nn.functional.mse_loss(nets.decoder(mix), unit(pixels))
            target, seen = mix.detach(), nets.student(pixels)
            cosine = 1 - nn.functional.cosine_similarity(target, seen).mean()
            learned = nn.functional.mse_loss(seen, target) + cosine
            # the two losses share no parameter, so one backward pass is both of the paper's updates
            optimizer.zero_grad()
            (rebuilt + learned).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            shares = {f"w0_{k}": float(w) for k, w in enumerate(nets.a.detach().softmax(0))}
            history.append({"loss": learned.item(), "reconstruction": rebuilt.item(), **shares})
            progress("student", done, steps, f"loss {learned.item():.3f}")
            if done % 100 == 0 and done < steps:
                checkpoint.save(folder, nets, optimizer, done, history)
    finally:
        checkpoint.save(folder, nets, optimizer, done, history)
    nets.eval()
    return history


@torch.no_grad()
def _logits(teachers: list[Teacher], frames: Frames, batch: int, device: torch.device, progress: Progress) -> Tensor:
    """Logits of all teachers on all photos, [N, K, classes]."""
    parts = []
    for start in range(0, len(frames), batch):
        pixels = pixels_of(frames[start : start + batch], device)
        parts.append(torch.stack([teacher(pixels)[0] for teacher in teachers], 1))
        progress("teachers' logits", min(start + batch, len(frames)), len(frames))
    return torch.cat(parts)


def _score(features: PaperFeatures, tune: Frames, classes: int, size: int) -> tuple[ScoreSpec, dict[str, float]]:
    levels = (
        Level("logits", "squared", classes, 1, 1, 1 / 3),
        Level("direction", "cosine", classes, 1, 1, 1 / 3),
        Level("reconstruction", "squared", 3, size, size, 1 / 3),
    )
    shape = ScoreSpec(levels, size // 4, size // 4, 0.0, 1.0)
    found = normalise.distances(levels, run_torch(features, tune, feature_names(shape)))
    filled = [_filled(level, maps) for level, maps in zip(levels, found, strict=True)]
    return ScoreSpec(tuple(filled), shape.height, shape.width, shape.sigma, shape.pool), {}


def _filled(level: Level, maps: normalise.Maps) -> Level:
    """Center and scale of the term as the paper sums it: its mean over the photo."""
    center, scale = normalise.statistics(maps.mean((1, 2), keepdims=True), by_position=False)
    return Level(level.name, level.kind, level.channels, level.height, level.width, level.weight, center, scale)
