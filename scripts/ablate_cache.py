"""What `ablate_weights` reads again and again: the aligned features of all teachers on all photos, computed once.

Alignment is a matter of each tap alone and of no seed, so a subset of the teachers is a subset of the channels, and one
pass serves every row of the table. Kept as float16 on disk, 0.75 MB a photo for four teachers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from mtkd_edge import dataset
from mtkd_edge.dataset import Dataset
from mtkd_edge.device.evaluate import GOOD, shrink
from mtkd_edge.lab import teachers
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.framing import frame_spec, view_of
from mtkd_edge.lab.letterbox import View
from mtkd_edge.lab.map_method import ALIGNED_ON, PASTED, Frames, pixels_of, small_pixels
from mtkd_edge.lab.mix import GRID_STRIDE, Block, Mix
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.progress import silent
from mtkd_edge.synthetic import paste_defect, picture_in

BATCH = 8
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Features:
    """Everything about one data set. `sets`: aligned features float16 [N, D, h, w] of `train`, `tune`, `test`, and
    `pasted`: tune photos with a pasted defect; `flaws`: where it is, bool [N, h, w].

    `seen`: pixels of `train` at the grid of the importance decoder, [N, 3, h/2, w/2]. `root`: F with F F^T the second
    moment of `train`. `kinds`, `masks`: the labels of `test`, for the figures alone.
    """

    blocks: tuple[Block, ...]
    sets: dict[str, NDArray[np.float16]]
    flaws: NDArray[np.bool_]
    seen: Tensor
    root: Tensor
    kinds: tuple[str, ...]
    masks: tuple[NDArray[np.bool_] | None, ...]

    def batches(self, name: str, channels: slice, size: int = 64) -> Iterator[Tensor]:
        """One set, float32, with these channels alone."""
        whole = self.sets[name]
        for start in range(0, len(whole), size):
            yield torch.from_numpy(np.array(whole[start : start + size, channels])).float()


def load(data: Path, names: Sequence[str], size: int, folder: Path) -> Features:
    """The features of `data`, computed where `folder` lacks them, from frames as `train` makes them by default.

    Raises what `dataset.scan` and teachers raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = dataset.scan(data, silent)
    config = TrainConfig(data=str(data), out="", size=size)
    spec = frame_spec(config, listing)
    view = view_of(config, spec)
    grid = view.photo or (spec.height // GRID_STRIDE, spec.width // GRID_STRIDE)
    train, tune = (load_frames(listing.side(side), spec, silent, "") for side in ("train", "tune"))
    spoilt, flaws = pasted(tune, -(-PASTED // len(tune)), seed=0)
    mix = Mix([teachers.load(name) for name in names], view=view).eval()
    made: dict[str, Callable[[], Frames]] = {"train": lambda: train, "tune": lambda: tune, "pasted": lambda: spoilt}
    made["test"] = lambda: load_frames([Path(listing.root, p.path) for p in listing.test], spec, silent, "")
    if any(not (folder / f"{name}.npy").is_file() for name in made):
        few = train[:: max(1, len(train) // ALIGNED_ON)]
        mix.fit(pixels_of(few[i : i + BATCH], CPU) for i in range(0, len(few), BATCH))
    sets = {name: _kept(folder / f"{name}.npy", mix, grid, frames) for name, frames in made.items()}
    return Features(
        blocks=mix.blocks,
        sets=sets,
        flaws=np.stack([shrink(flaw, grid) for flaw in flaws]),
        seen=_seen(train, view),
        root=_root(sets["train"]),
        kinds=tuple(photo.kind for photo in listing.test),
        masks=_masks(listing, (2 * grid[0], 2 * grid[1])),
    )


def pasted(frames: Frames, copies: int, seed: int) -> tuple[Frames, list[NDArray[np.bool_]]]:
    """`copies` of every frame, each with a defect, as the training pastes them; and where each is on its photo."""
    rng = np.random.default_rng(seed)
    pairs = [paste_defect(frame, rng) for frame in frames for _ in range(copies)]
    return np.stack([frame for frame, _ in pairs]), [mask[picture_in(frame)] for frame, mask in pairs]


def _seen(frames: Frames, view: View) -> Tensor:
    return torch.cat([small_pixels(pixels_of(frames[i : i + 64], CPU), view) for i in range(0, len(frames), 64)])


@torch.no_grad()
def _kept(path: Path, mix: Mix, grid: tuple[int, int], frames: Callable[[], Frames]) -> NDArray[np.float16]:
    if not path.is_file():
        began, found = time.monotonic(), frames()
        part = path.with_suffix(".part")
        out = open_memmap(part, "w+", np.float16, (len(found), mix.channels, *grid))
        for start in range(0, len(found), BATCH):
            out[start : start + BATCH] = mix(pixels_of(found[start : start + BATCH], CPU)).numpy()
        out.flush()
        part.rename(path)
        print(f"{path.stem}: {len(found)} photos in {time.monotonic() - began:.0f} s", flush=True)
    kept: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return kept


def _root(train: NDArray[np.float16]) -> Tensor:
    total = torch.zeros(train.shape[1], train.shape[1], dtype=torch.float64)
    for start in range(0, len(train), 32):
        flat = torch.from_numpy(np.array(train[start : start + 32])).float().permute(1, 0, 2, 3).flatten(1)
        total += (flat @ flat.T).double()
    values, vectors = torch.linalg.eigh(total)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()).float()
    return root


def _masks(listing: Dataset, grid: tuple[int, int]) -> tuple[NDArray[np.bool_] | None, ...]:
    """Per test photo: its defect on the map's grid; nothing for a good one; None where a defect has no mask."""
    found: list[NDArray[np.bool_] | None] = []
    for photo in listing.test:
        mask = dataset.read_mask(Path(listing.root, photo.mask)) if photo.mask else None
        if photo.kind == GOOD:
            found.append(np.zeros(grid, np.bool_))
        else:
            found.append(shrink(mask, grid) if mask is not None and mask.any() else None)
    return tuple(found)
