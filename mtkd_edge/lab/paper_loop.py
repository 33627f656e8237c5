"""The published method's training loop, the whole of it; and the batches it takes.

    autoencoder step   L_w = MSE(x, D(z_T))                                updates D and a
    student step       L_S = MSE(z_T, z_S) + mean(1 - cos(z_T, z_S))       updates S alone, z_T detached
    without teachers   L   = MSE(x, D(S(x)))                               updates D and S

Everything about a step follows from its number (which photos, which crops, which dropout), so a run that was stopped
continues from the last saved step as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.lab import checkpoint
from mtkd_edge.lab.map_method import Frames, History, pixels_of
from mtkd_edge.lab.paper_nets import Networks, Standard, logits_of, unit
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.lab.uncut import Uncut
from mtkd_edge.progress import Progress

RATE = 1e-3
SAVE_SECONDS = 120.0
"""ResNet-18 with the optimiser's moments are 150 MB, all three students 2 GB: too much for every hundred steps."""
Draw = Callable[[int], tuple[Tensor, Tensor]]
"""step -> pixels 0..255 [N, 3, side, side] and standardised logits z [N, K, 1000], both on the networks' device."""


def distil(
    nets: Networks, draw: Draw, steps: int, seed: int, folder: Path, progress: Progress, mixed: bool = False
) -> History:
    """Train `nets` in place up to step `steps`, from the last saved step of `folder` if there is one.

    `mixed` runs the trained networks in bfloat16 where that is safe (torch.autocast); losses stay in float32. Returns
    the history, a row a step. Raises BundleError for a checkpoint that is damaged or of other networks.
    """
    device = nets.a.device
    optimizer = torch.optim.Adam(nets.parameters(), lr=RATE)
    done, history = checkpoint.restore(folder, nets, optimizer)
    nets.train()
    saved, step = time.monotonic(), Uncut()
    try:
        while done < steps:
            with step:
                torch.manual_seed(hash((seed, done)))  # the dropout of VGG
                pixels, z = draw(done)
                with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                    rebuilt, learned = losses(nets, pixels, z)
                # the two losses share no parameter, so one backward pass is both of the paper's updates
                optimizer.zero_grad()
                (rebuilt + learned).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                done += 1
                shares = {f"w0_{k}": w for k, w in enumerate(nets.weights().tolist())}
                history.append({"loss": learned.item(), "reconstruction": rebuilt.item(), **shares})
            progress("student", done, steps, f"loss {history[-1]['loss']:.3f}")
            if time.monotonic() - saved > SAVE_SECONDS:
                checkpoint.save(folder, nets, optimizer, done, history)
                saved = time.monotonic()
    finally:
        if step.whole:
            checkpoint.save(folder, nets, optimizer, done, history)
    nets.eval()
    return history


def losses(nets: Networks, pixels: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """L_w, and the sum over the students of L_S, as scalars in float32."""
    wanted = unit(pixels)
    seen = [student(pixels).float() for student in nets.students]
    if not z.shape[1]:
        return nn.functional.mse_loss(nets.decoder(seen[0]).float(), wanted), seen[0].new_zeros(())
    mix = nets.mix(z)
    rebuilt = nn.functional.mse_loss(nets.decoder(mix).float(), wanted)
    target = mix.detach()
    parts = [
        nn.functional.mse_loss(z_s, target) + 1 - nn.functional.cosine_similarity(target, z_s).mean() for z_s in seen
    ]
    return rebuilt, torch.stack(parts).sum()


class Epochs:
    """Which photos a step takes: each epoch a new order of all of them, without the rest that fills no batch."""

    def __init__(self, photos: int, batch: int, seed: int) -> None:
        self.photos, self.batch, self.seed = photos, min(batch, photos), seed
        self.steps = photos // self.batch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Indices of the photos of a step."""
        epoch, place = divmod(step, self.steps)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.photos)
        return order[place * self.batch : (place + 1) * self.batch]


def whole(frames: Frames, z: Tensor, epochs: Epochs, device: torch.device) -> Draw:
    """Batches of whole frames [N, side, side, 3], whose standardised logits z [N, K, 1000] are known."""

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows = epochs.rows(step)
        return pixels_of(frames[rows], device), z[torch.from_numpy(rows).to(z.device)].to(device)

    return draw


def cropped(
    frames: Frames, side: int, each: int, teachers: list[Teacher], standard: Standard, epochs: Epochs,
    device: torch.device,
) -> Draw:  # fmt: skip
    """Batches of `each` random crops a photo; the teachers look at every crop when it is drawn.

    frames: [N, H, W, 3], larger than `side`. Each crop has a place of its own; the authors' code draws one for a batch.
    """
    room = np.array(frames.shape[1:3]) - side + 1

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows = np.repeat(epochs.rows(step), each)
        corners = np.random.default_rng((epochs.seed, step, each)).integers(0, room, (len(rows), 2))
        crops = np.stack(
            [frames[n, y : y + side, x : x + side] for n, (y, x) in zip(rows, corners.tolist(), strict=True)]
        )
        pixels = pixels_of(crops, device)
        with torch.no_grad():
            return pixels, standard(logits_of(teachers, pixels))

    return draw
