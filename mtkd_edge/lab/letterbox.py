"""How networks look at frames, where the photo lies in a letterboxed one, and maps of the frame brought to the photo.

The frame itself says where: its margins are 0, and the darkest that a photo has there is 1 (`frames.to_frame`). So the
graph takes nothing but frames, and finds the photo in each of them: rows and columns that hold anything are the photo.

A network sees the photo's edge repeated over the margins. Its maps are then cut to the photo and resized to one
grid, so that a position of the grid is a place on the part, whatever the photo's shape: the autoencoder's statistics
are those of places. That is a product with one small matrix an axis; the margins are filled by number, which takes a
third of the time of products of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """How networks look at frames. `photo`: the grid (rows, columns) of letterboxed photos, None in whole frames."""

    photo: tuple[int, int] | None = None

    def seen(self, pixels: Tensor) -> Tensor:
        """What a network is shown of frames [N, 3, H, W] in 0..255."""
        return pixels if self.photo is None else filled(pixels)

    def placed(self, maps: Tensor, pixels: Tensor) -> Tensor:
        """Maps [N, C, h, w] of what was seen -> of the photos, [N, C, *photo]; whole frames keep theirs."""
        return maps if self.photo is None else onto_photo(maps, pixels, self.photo)

    def positions(self, maps: Tensor, pixels: Tensor) -> Tensor:
        """Maps [N, C, h, w] -> [C, positions], without those of a margin."""
        flat = maps.permute(1, 0, 2, 3)
        return flat.flatten(1) if self.photo is None else flat[:, photo_cells(pixels, maps)]


WHOLE = View()
"""Of frames that are all photo."""


class Span(NamedTuple):
    """Of each frame along one axis, in pixels or cells, float [N, 1]: where the photo begins, and how long it is."""

    first: Tensor
    length: Tensor


def filled(pixels: Tensor) -> Tensor:
    """Letterboxed pixels [N, 3, H, W] in 0..255, each photo's edge repeated over the margins beside it."""

    def nearest(span: Span, size: int) -> Tensor:
        at = torch.arange(size, dtype=pixels.dtype, device=pixels.device)
        return torch.minimum(torch.maximum(at[None], span.first), span.first + span.length - 1)

    height, width = pixels.shape[2:]
    rows, columns = (nearest(s, n) for s, n in zip(_spans(pixels), (height, width), strict=True))
    numbers = (rows[:, :, None] * width + columns[:, None]).reshape(-1, 1, height * width)
    # the sum makes one number a channel; an expansion would need the batch's size in the graph
    numbers = (numbers + torch.zeros(1, 3, 1, dtype=numbers.dtype, device=numbers.device)).long()
    return pixels.reshape(-1, 3, height * width).gather(2, numbers).reshape(-1, 3, height, width)


def onto_photo(maps: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps [N, C, h, w] of the whole frames `pixels` [N, 3, H, W] -> [N, C, *grid], of their photos alone.

    Bilinear between the centres of the cells that the photo covers, without a look at the margins beside it.
    """
    return _sampled(maps, *(_spread(s, n) for s, n in zip(_cells(pixels, maps), grid, strict=True)))


def photo_cells(pixels: Tensor, maps: Tensor) -> Tensor:
    """bool [N, h, w]: the cells of maps [N, C, h, w] that lie in the photo as a whole."""

    def whole(span: Span, size: int) -> Tensor:
        at = torch.arange(size, dtype=pixels.dtype, device=pixels.device)[None]
        return (at >= span.first) & (at + 1 <= span.first + span.length)

    rows, columns = (whole(s, n) for s, n in zip(_cells(pixels, maps), maps.shape[2:], strict=True))
    return rows[:, :, None] & columns[:, None]


def _spans(pixels: Tensor) -> tuple[Span, Span]:
    """Where the photos are, down and across, in pixels. A frame that is 0 everywhere has one pixel of photo."""
    bright = pixels[:, 0]
    return _span((bright.amax(2) > 0.5).to(pixels.dtype)), _span((bright.amax(1) > 0.5).to(pixels.dtype))


def _span(held: Tensor) -> Span:
    """held [N, P]: 1.0 for each row or column that holds any of the photo, 0.0 for margins."""
    at = torch.arange(held.shape[1], dtype=held.dtype, device=held.device)
    count = held.sum(1, keepdim=True).clamp_min(1)
    # the photo's rows follow each other, so the first is the mean of their numbers less half their span
    return Span((held * at).sum(1, keepdim=True) / count - (count - 1) / 2, count)


def _cells(pixels: Tensor, maps: Tensor) -> tuple[Span, Span]:
    """Where the photos are in `maps`. Whole cells of stride 8, as `frames.placement` keeps to them."""
    spans = zip(_spans(pixels), pixels.shape[2:], maps.shape[2:], strict=True)
    down, across = (Span(span.first * cells / size, span.length * cells / size) for span, size, cells in spans)
    return down, across


def _spread(span: Span, cells: int) -> Tensor:
    """Where on the axis each of `cells` cells looks, [N, cells]: from the photo's first cell to its last."""
    at = torch.arange(cells, dtype=span.first.dtype, device=span.first.device)
    inside = ((at + 0.5) * span.length / cells - 0.5).clamp_min(0)
    return span.first + torch.minimum(inside, span.length - 1)


def _sampled(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Maps [N, C, h, w] at rows `down` [N, r] and columns `across` [N, c], numbers of cells; bilinear between them."""

    def weights(source: Tensor, cells: int) -> Tensor:
        at = torch.arange(cells, dtype=source.dtype, device=source.device)
        return nn.functional.relu(1 - (source[:, None, :, None] - at).abs())

    return weights(down, maps.shape[2]) @ maps @ weights(across, maps.shape[3]).transpose(2, 3)
