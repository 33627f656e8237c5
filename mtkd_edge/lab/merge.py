"""K teachers in training, one at the edge: the weighted mix of all teachers, taught to one small network.

The edge teacher starts as a copy of the cheapest teacher and learns what all of them say together, in the space in
which the autoencoders compare (`projection`). It looks at good parts, at good parts with a pasted defect, and at
generic pictures where there are any: an edge teacher that had seen good parts alone would know no other answer.

    loss = mean_n  mean_c f_c^2 (M(x_n) - P mix(x_n))_c^2 / max(1, E_n)

f_c is 1 / the root energy of channel c on good parts, E_n the energy of the target so scaled: a picture that is unlike
all good parts counts by its relative error. All later stages (student, autoencoders, statistics, threshold) are fitted
to what the edge teacher says, not to what it was taught.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_edge.lab.distil import distil
from mtkd_edge.lab.graph import nchw
from mtkd_edge.lab.letterbox import WHOLE, View
from mtkd_edge.lab.mix import Mix, resize
from mtkd_edge.lab.projection import projection
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress
from mtkd_edge.synthetic import paste_defect

STEPS = 400
PEAK_RATE = 1e-3
WIDTH = 128
NAME = "merged"
Frames = NDArray[np.uint8]


class Head(nn.Module):
    """Taps at strides 8 and 16 -> [N, out, H/8, W/8]: a linear part, and a small correction that starts at nothing."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        eighth, sixteenth = channels
        self.linear8, self.linear16 = nn.Conv2d(eighth, out, 1), nn.Conv2d(sixteenth, out, 1, bias=False)
        self.wide8, self.wide16 = nn.Conv2d(eighth, WIDTH, 1), nn.Conv2d(sixteenth, WIDTH, 1, bias=False)
        self.around = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH)
        self.last = nn.Conv2d(WIDTH, out, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        """1x1 convolutions commute with the resize, and come first."""
        side = (eighth.shape[2], eighth.shape[3])
        wide = self.wide8(eighth) + resize(self.wide16(sixteenth), side)
        curved = self.last(torch.relu(self.around(torch.relu(wide))))
        out: Tensor = self.linear8(eighth) + curved + resize(self.linear16(sixteenth), side)
        return out


class Trunk(nn.Module):
    """A teacher's trunk with a head: normalised pixels -> one map at stride 8, as a list."""

    def __init__(self, trunk: nn.Module, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [[N, C, H/8, W/8]]."""
        return [self.head(*self.trunk(x))]


class EdgeTeacher(Teacher):
    """A teacher that says at stride 8, already weighted and projected, what several teachers say."""

    strides = (8,)


class EdgeMix(nn.Module):
    """In the place of `Mix`: pixels [N, 3, H, W] in 0..255 -> [N, C, H/8, W/8]. Nothing is left to align or weigh."""

    def __init__(self, teacher: EdgeTeacher, view: View = WHOLE) -> None:
        super().__init__()
        self.view = view
        self.teachers = nn.ModuleList([teacher])
        self.channels = teacher.channels[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """The edge teacher's one map."""
        return self.view.placed(self.teachers[0](self.view.seen(pixels))[0], pixels)


@dataclass(frozen=True, eq=False)
class Lesson:
    """Frames uint8 [N, H, W, 3], and what the teachers say of them, [N, C, h, w] float16."""

    frames: Frames
    target: Tensor


def work(net: nn.Module, side: int = 64) -> int:
    """Multiply-accumulates of a network's convolutions for one frame of `side` pixels."""
    total = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += out.numel() * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side, device=next(net.parameters()).device))
    for hook in hooks:
        hook.remove()
    return total


def beginning(teachers: Sequence[Teacher], out: int, names: Sequence[str], seed: int) -> EdgeTeacher:
    """An edge teacher that has learned nothing yet: the cheapest teacher's trunk, copied, with a fresh head."""
    base = min(teachers, key=work)
    torch.manual_seed(seed)
    mean, std = base.mean_std
    # the constructor freezes it, as it does all teachers; `taught` thaws it while it learns
    trunk = Trunk(copy.deepcopy(base.trunk).cpu(), Head(base.channels, out))
    return EdgeTeacher(NAME, f"{base.name}, taught by {' + '.join(names)}", trunk, mean, std)


@torch.no_grad()
def lessons(
    mix: Mix,
    factors: Tensor,
    blocks: Tensor,
    frames: Frames,
    generic: Frames,
    batch: int,
    seed: int,
    progress: Progress,
) -> list[Lesson]:
    """What is to be learned: good parts (`blocks` are theirs), the same with a pasted defect, and generic pictures."""
    device = factors.device
    scale = factors.view(1, -1, 1, 1)
    project = projection(lambda: (blocks[i : i + 64].float().to(device) * scale for i in range(0, len(blocks), 64)))

    def said(of: Frames) -> Tensor:
        parts = []
        for start in range(0, len(of), batch):
            pixels = nchw(torch.from_numpy(of[start : start + batch]).to(device))
            parts.append(project(mix(pixels) * scale).half().cpu())
            progress("lessons for the edge teacher", min(start + batch, len(of)), len(of))
        return torch.cat(parts)

    known = [project(blocks[i : i + 64].float().to(device) * scale).half().cpu() for i in range(0, len(blocks), 64)]
    rng = np.random.default_rng((seed, len(frames)))
    spoilt = np.stack([paste_defect(frame, rng)[0] for frame in frames])
    found = [Lesson(frames, torch.cat(known)), Lesson(spoilt, said(spoilt))]
    return [*found, Lesson(generic, said(generic))] if len(generic) else found


@torch.no_grad()
def fit_linear(mix: EdgeMix, lessons: Sequence[Lesson], batch: int, device: torch.device) -> None:
    """The head's linear part by least squares: what the cheapest teacher knows already is known from the start."""
    teacher = mix.teachers[0]
    assert isinstance(teacher, EdgeTeacher)
    head, trunk = teacher.trunk.head, teacher.trunk.trunk
    assert isinstance(head, Head) and isinstance(trunk, nn.Module)
    gram = moment = torch.zeros((), dtype=torch.float64)
    for lesson in lessons:
        for frames, target in _batches(lesson, batch, device):
            eighth, sixteenth = trunk((mix.view.seen(frames) - teacher.mean) / teacher.std)
            taps = torch.cat([eighth, resize(sixteenth, (eighth.shape[2], eighth.shape[3]))], 1)
            rows = nn.functional.pad(mix.view.placed(taps, frames).permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
            wanted = target.permute(0, 2, 3, 1).flatten(0, 2)
            share = 1 / (len(lesson.frames) * float(target.square().mean().clamp_min(1)))
            gram = gram + share * (rows.T @ rows).double().cpu()
            moment = moment + share * (rows.T @ wanted).double().cpu()
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    solved = torch.linalg.solve(gram, moment).float().T  # [out, taps and a constant]
    split = head.linear8.in_channels
    head.linear8.weight.copy_(solved[:, :split, None, None])
    head.linear16.weight.copy_(solved[:, split:-1, None, None])
    assert head.linear8.bias is not None
    head.linear8.bias.copy_(solved[:, -1])


def _batches(lesson: Lesson, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(lesson.frames), batch):
        some = slice(start, start + batch)
        pixels = nchw(torch.from_numpy(lesson.frames[some]).to(device))
        yield pixels, lesson.target[some].to(device).float()


def relative(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both scaled, [N, C, h, w] -> (loss, mean squared error). More energy than good parts have is divided out."""
    error = ((predicted - target) ** 2).mean((1, 2, 3))
    energy = target.square().mean((1, 2, 3)).clamp_min(1)
    return (error / energy).mean(), error.mean()


def taught(
    teacher: EdgeTeacher, lessons: Sequence[Lesson], steps: int, batch: int, seed: int, device: torch.device,
    folder: Path, progress: Progress, view: View = WHOLE,
) -> tuple[EdgeMix, list[dict[str, float]]]:  # fmt: skip
    """The edge teacher after so many steps, each with frames of every lesson, as many as fit; its history.

    Resumes as `distil` does.
    """
    net = EdgeMix(teacher, view).to(device)
    fit_linear(net, lessons, batch, device)
    energy = lessons[0].target.float().square().mean((0, 2, 3))
    factors = energy.clamp_min(1e-3 * float(energy.mean())).rsqrt().to(device)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((seed, step))
        begin = step * batch if batch < len(lessons) else 0  # where not all fit into a step they take turns
        picked = [(lessons[(begin + i) % len(lessons)], int(rng.integers(2**31))) for i in range(batch)]
        frames = np.stack([lesson.frames[number % len(lesson.frames)] for lesson, number in picked])
        target = torch.stack([lesson.target[number % len(lesson.frames)] for lesson, number in picked])
        return nchw(torch.from_numpy(frames).to(device)), target.to(device).float()

    net.requires_grad_(True)
    history = distil(net, draw, factors, steps, folder, progress, "edge teacher", PEAK_RATE, relative)
    net.requires_grad_(False)
    return net, history
