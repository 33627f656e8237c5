"""The pictures the offline teachers learn from and what each cell of a picture should say.

Textures come from `offline_textures`, photos from the CIFAR-10 training archive where there is one. This file knows
no networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from offline_textures import FAMILIES, flaw, region, texture
from torch import Tensor

from mtkd_edge.lab import offline

SIZE = 96
CIFAR_CLASSES = 3
CLASSES = len(FAMILIES) + 4 * CIFAR_CLASSES  # a tile's class is its photo's class and which of four ways it is turned
SCALES = (1, 2, 4)  # edges are counted in the picture and in its halves and quarters
BINS = 4
STATISTICS = 4 + len(SCALES) * BINS


Targets = tuple[Tensor, Tensor, Tensor]
"""For one stride: class [N, h, w], flaw 0 or 1 [N, 1, h, w], statistics [N, STATISTICS, h, w]."""


@dataclass(frozen=True)
class Pools:
    """Ready pictures, uint8: what every batch is put together from.

    textures [n, 3, S, S] with family [n]; mosaics [m, 3, S, S] with labels [m, S, S], m may be 0;
    regions and flaws [k, S, S].
    """

    textures: Tensor
    family: Tensor
    mosaics: Tensor
    mosaic_labels: Tensor
    regions: Tensor
    flaws: Tensor


@dataclass(frozen=True)
class Batch:
    """Pictures and what is known about each pixel.

    image [N, 3, S, S] normalised; label [N, S, S]; flawed bool [N, 1, S, S], where a pasted flaw shows;
    clean [N, 3, S, S] in 0..1, the picture before camera noise, from which statistics are taken.
    """

    image: Tensor
    label: Tensor
    flawed: Tensor
    clean: Tensor


def mosaics(archive: Path, seed: int, part: slice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """CIFAR-10 photos -> [m, S, S, 3] mosaics of 2 x 2, each photo mirrored and turned at random, and labels [m, S, S].

    `part` picks photos after a fixed shuffle, so that training and validation share none.
    """
    with np.load(archive, allow_pickle=False) as data:
        jpeg, offsets, labels = data["jpeg"], data["offsets"], data["labels"]
    rng = np.random.default_rng([seed, 3])
    names = np.unique(labels)
    chosen = np.random.default_rng(0).permutation(len(labels))[part]
    tiles, classes = [], []
    for i in chosen[: len(chosen) // 4 * 4]:
        photo = np.asarray(cv2.imdecode(jpeg[offsets[i] : offsets[i + 1]], cv2.IMREAD_COLOR), np.uint8)
        large = cv2.resize(photo, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_CUBIC)
        turn = int(rng.integers(4))
        tiles.append(np.rot90(large[:, :: rng.choice([-1, 1]), ::-1], turn))
        classes.append(len(FAMILIES) + 4 * int(np.searchsorted(names, labels[i])) + turn)
    side = SIZE // 2
    # [m, row, column, y, x, 3] -> [m, row, y, column, x, 3]: two rows of two tiles
    photos = np.stack(tiles).reshape(-1, 2, 2, side, side, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, SIZE, SIZE, 3)
    maps = np.array(classes, np.uint8).reshape(-1, 2, 2).repeat(side, 1).repeat(side, 2)
    return np.asarray(photos, np.uint8), np.asarray(maps, np.uint8)


def make_pools(seed: int, textures: int, cifar: Path | None, part: slice) -> Pools:
    """Render everything for `seed`, about 4 ms a texture; `part` of the photos of `cifar` if it is given."""
    rendered, regions, flaws = (
        np.stack([make(seed, index, SIZE) for index in range(count)])
        for make, count in ((texture, textures), (region, textures // 8), (flaw, textures // 4))
    )
    if cifar is None:
        photos, labels = np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros((0, SIZE, SIZE), np.uint8)
    else:
        photos, labels = mosaics(cifar, seed, part)
    family = torch.arange(textures) % len(FAMILIES)
    return Pools(
        torch.from_numpy(rendered).permute(0, 3, 1, 2),
        family,
        torch.from_numpy(photos).permute(0, 3, 1, 2),
        torch.from_numpy(labels),
        torch.from_numpy(regions),
        torch.from_numpy(flaws),
    )


def pick(pool: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` random pictures as floats in 0..1, and their indices."""
    index = torch.randint(len(pool), (count,), generator=rng)
    return pool[index].float() / 255, index


def textures_of(pools: Pools, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` textures [count, 3, S, S], mirrored at random, and their label maps [count, S, S]."""
    image, index = pick(pools.textures, count, rng)
    for dims, swap in (((2,), False), ((3,), False), ((2, 3), True)):
        if torch.rand((), generator=rng) < 0.5:
            image = image.transpose(2, 3) if swap else image.flip(dims)
    return image, pools.family[index][:, None, None].expand(-1, SIZE, SIZE)


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Random floats between `low` and `high`."""
    return torch.rand(*shape, generator=rng) * (high - low) + low


def paste_flaws(image: Tensor, other: Tensor, pools: Pools, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fill a small mask in six of ten pictures: with a piece of the same picture, another texture, blur or a tint.

    Returns the pictures and where they visibly changed, bool [N, 1, S, S]: a flaw nobody can see is none.
    """
    count = len(image)
    mask = pick(pools.flaws, count, rng)[0][:, None] * (torch.rand(count, 1, 1, 1, generator=rng) < 0.6)
    shift = int(torch.randint(12, SIZE - 12, (), generator=rng))
    tint = (image + uniform(rng, -0.5, 0.5, count, 1, 1, 1) + uniform(rng, -0.15, 0.15, count, 3, 1, 1)).clamp(0, 1)
    blurred = F.avg_pool2d(image, 7, 1, 3, count_include_pad=False)
    fills = torch.stack([image.roll((shift, SIZE - shift), (2, 3)), other, blurred, tint, tint])
    fill = fills[torch.randint(len(fills), (count,), generator=rng), torch.arange(count)]
    flawed = image + mask * (fill - image)
    return flawed, ((flawed - image).abs().mean(1, keepdim=True) > 0.04) & (mask > 0.3)


def light(image: Tensor, rng: torch.Generator) -> Tensor:
    """Random saturation, contrast, brightness and a slope of the light, per picture."""
    count = len(image)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * uniform(rng, -0.4, 1.2, count, 1, 1, 1).clamp(min=0)
    image = 0.5 + (image - 0.5) * uniform(rng, 0.35, 1.2, count, 1, 1, 1) + uniform(rng, -0.25, 0.25, count, 1, 1, 1)
    ramp = torch.linspace(-1, 1, SIZE)
    slope = ramp[:, None] * uniform(rng, -0.2, 0.2, count, 1, 1, 1) + ramp * uniform(rng, -0.2, 0.2, count, 1, 1, 1)
    return (image * (1 + slope)).clamp(0, 1)


def compose(pools: Pools, count: int, rng: torch.Generator) -> Batch:
    """A batch of `count` new pictures: a quarter on mosaics where there are any, the others on textures."""
    photos = count // 4 if len(pools.mosaics) else 0
    base, label = textures_of(pools, count - photos, rng)
    if photos:
        mosaic, index = pick(pools.mosaics, photos, rng)
        base, label = torch.cat([mosaic, base]), torch.cat([pools.mosaic_labels[index].long(), label])
    other, other_label = textures_of(pools, count, rng)
    over = (pick(pools.regions, count, rng)[0] > 0.5) & (torch.rand(count, 1, 1, generator=rng) < 0.6)
    image, label = torch.where(over[:, None], other, base), torch.where(over, other_label, label)
    image, flawed = paste_flaws(image, other.roll(1, 0), pools, rng)
    clean = light(image, rng)
    noise = torch.randn(clean.shape, generator=rng) * uniform(rng, 0, 0.06, count, 1, 1, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (offline.MEAN, offline.STD))
    normal = ((clean + noise).clamp(0, 1) - mean) / std
    return Batch(normal.contiguous(memory_format=torch.channels_last), label, flawed, clean)


def statistics(clean: Tensor, stride: int) -> Tensor:
    """Per cell of `stride`: mean colour, contrast, and how much edge in each direction and scale.

    [N, 3, S, S] in 0..1 -> [N, STATISTICS, S / stride, S / stride], standardised over the batch. The histogram of
    directions follows HOG (Dalal and Triggs 2005), which MaskFeat found a good target (arXiv 2112.09133).
    """
    colour = F.avg_pool2d(clean, stride)
    grey = clean.mean(1, keepdim=True)
    spread = F.avg_pool2d(grey**2, stride) - F.avg_pool2d(grey, stride) ** 2
    found = [colour, spread.clamp(min=1e-5).sqrt()]
    centres = torch.arange(BINS).view(1, BINS, 1, 1) * torch.pi / BINS
    for scale in SCALES:
        small = F.pad(F.avg_pool2d(grey, scale), (1, 1, 1, 1), mode="replicate")
        dx, dy = small[:, :, 1:-1, 2:] - small[:, :, 1:-1, :-2], small[:, :, 2:, 1:-1] - small[:, :, :-2, 1:-1]
        towards = torch.cos(2 * (torch.atan2(dy, dx) - centres)).clamp(min=0)
        found.append((F.avg_pool2d(torch.hypot(dx, dy) * towards, stride // scale) + 1e-4).sqrt())
    return F.batch_norm(torch.cat(found, 1), None, None, training=True)


def targets(batch: Batch, stride: int) -> Targets:
    """What each cell of `stride` should say."""
    label = batch.label[:, stride // 2 :: stride, stride // 2 :: stride]
    return label, F.max_pool2d(batch.flawed.float(), stride), statistics(batch.clean, stride)
