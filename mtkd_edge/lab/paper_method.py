"""The method as published: Ma, Jiang, Guan, Yi 2023, doi:10.1016/j.sysarc.2023.102861, section 3; as `train` runs it.

Teachers give class logits. Each is standardised on the normal photos, the mix is their softmax-weighted sum, a decoder
rebuilds the photo from it, and the student learns the mix:

    z_k = (T_k(x) - mu_k) / sigma_k      z_T = sum_k softmax(a)_k z_k
    training   `paper_loop`              score   `paper_terms`

Two differences, each for a reason: every teacher gets its own mean and deviation (the authors feed all with 0.5:
`teacher_input="published"`), and the frame is one whole photo (their 25 crops of MVTec AD and their choice of epoch and
of r by test labels belong to `mtkd-edge benchmark`). Smaller ones are listed in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from mtkd_edge.errors import UsageError
from mtkd_edge.lab import normalise, paper_terms
from mtkd_edge.lab.config import TrainConfig, short_name
from mtkd_edge.lab.export import feature_names, run_torch
from mtkd_edge.lab.graph import nchw
from mtkd_edge.lab.logits import CLASSES, TeacherInput, check_student, is_none, load_logits, student_names
from mtkd_edge.lab.map_method import Frames, Inputs, Trained, pixels_of
from mtkd_edge.lab.paper_loop import Epochs, distil, whole
from mtkd_edge.lab.paper_nets import Networks, Standard, logits_of, unit
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.progress import Progress
from mtkd_edge.score import Level, ScoreSpec

EPOCHS = 50
VGG_SIDE = 224
LARGEST = 2_000_000_000
"""Bytes of an ONNX file: protobuf ends at 2 GiB."""


class PaperFeatures(nn.Module):
    """Frames uint8 [N, H, W, 3] -> the pairs of the terms, those of the students first; see `levels`."""

    def __init__(self, teachers: list[Teacher], nets: Networks, standard: Standard) -> None:
        super().__init__()
        self.teachers, self.nets, self.standard = nn.ModuleList(teachers), nets, standard

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """student_ and reference_ of every level, in the order of `levels`."""
        pixels = nchw(frames)
        mix = self.nets.mix(self.standard(logits_of(self.teachers, pixels)))
        students, references = [], []
        for student in self.nets.students:
            seen = student(pixels)
            if len(self.teachers):
                students += [seen[:, :, None, None]] * 2
                references += [mix[:, :, None, None]] * 2
            students.append(self.nets.decoder(seen))
            references.append(unit(pixels))
        return (*students, *references)


def levels(students: tuple[str, ...], teachers: int, side: int) -> tuple[Level, ...]:
    """The terms of each student, not normalised yet; without teachers the reconstruction alone."""
    found = []
    for student in students:
        ending = f"_{student}" if len(students) > 1 else ""
        if teachers:
            found += [
                Level(f"logits{ending}", "squared", CLASSES, 1, 1, 1.0),
                Level(f"direction{ending}", "cosine", CLASSES, 1, 1, 1.0),
            ]
        found.append(Level(f"reconstruction{ending}", "squared", 3, side, side, 1.0))
    return tuple(found)


def load_teachers(
    names: tuple[str, ...], teacher_input: TeacherInput, device: torch.device, progress: Progress
) -> list[Teacher]:
    """The classifiers by name; none for the name "none"."""
    found: list[Teacher] = []
    for i, name in enumerate(() if is_none(names) else names):
        found.append(load_logits(name, teacher_input).to(device))
        progress("loading teachers", i + 1, len(names))
    return found


def train(inputs: Inputs, config: TrainConfig, device: torch.device, folder: Path, progress: Progress) -> Trained:
    """The whole method on whole photos.

    Raises UsageError for teachers without logits, an unknown student, and networks that cannot be exported.
    """
    check_students(config.teacher_names(), config.student)
    check_vgg((*config.teacher_names(), *student_names(config.student)), config.size)
    found = load_teachers(config.teacher_names(), config.teacher_input, device, progress)
    torch.manual_seed(config.seed)
    nets = Networks(len(found), student_names(config.student), config.size, config.weights == "learned").to(device)
    check_size([*found, nets])
    logits = all_logits(found, inputs.train, config.batch, device, progress)
    standard = Standard(logits)
    epochs = Epochs(len(logits), config.batch, config.seed)
    steps = (config.epochs or EPOCHS) * epochs.steps
    draw = whole(inputs.train, standard(logits), epochs, device)
    history = distil(nets, draw, steps, config.seed, folder, progress, mixed(device))
    features = PaperFeatures(found, nets, standard).to(device).eval()
    weights: tuple[tuple[float, ...], ...] = tuple((w,) for w in nets.weights().tolist())
    asked = dict(zip((t.name for t in found), weights, strict=True))
    score = _score(features, inputs.tune, config)
    return Trained(features, score, tuple(found), weights, asked, {"student": history}, {})


def check_students(teachers: tuple[str, ...], student: str) -> None:
    """Raises UsageError for an unknown student, and for several without a teacher: each would need its own decoder."""
    if is_none(teachers) and len(student_names(student)) > 1:
        raise UsageError(f"without a teacher there is one student, got {student!r}", "--student resnet18")
    for name in student_names(student):
        check_student(name)


def check_vgg(names: tuple[str, ...], side: int) -> None:
    """Raises UsageError for a VGG on small frames: it pools them to 7 x 7 cells in a way that ONNX does not have."""
    small = [name for name in names if short_name(name).startswith("vgg")] if side < VGG_SIDE else []
    if small:
        raise UsageError(f"{small[0]} cannot be exported for frames of {side} pixels", f"--size {VGG_SIDE}")


def mixed(device: torch.device) -> bool:
    """Whether the networks train in bfloat16: where the GPU computes in it, not where torch would emulate it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def check_size(networks: Sequence[nn.Module]) -> None:
    """Raises UsageError where the networks do not fit one ONNX file, before they are trained for nothing."""
    size = sum(4 * p.numel() for net in networks for p in net.parameters())
    if size > LARGEST:
        raise UsageError(
            f"teachers and students have {size / 1e9:.1f} GB of weights, an ONNX file holds 2 GB",
            "--student resnet18, or fewer --teachers; `mtkd-edge benchmark` has no such limit",
        )


@torch.no_grad()
def all_logits(teachers: list[Teacher], frames: Frames, batch: int, device: torch.device, progress: Progress) -> Tensor:
    """Logits of all teachers on all frames, [N, K, 1000], on the CPU."""
    parts = []
    for start in range(0, len(frames), batch):
        parts.append(logits_of(teachers, pixels_of(frames[start : start + batch], device)).cpu())
        progress("teachers' logits", min(start + batch, len(frames)), len(frames))
    return torch.cat(parts)


def _score(features: PaperFeatures, tune: Frames, config: TrainConfig) -> ScoreSpec:
    """r1, r2, r3 times the terms; the sum of each student divided by its deviation on good photos: all count alike."""
    students = student_names(config.student)
    bare = levels(students, len(features.teachers), config.size)
    # the map is as large as the photo: then its mean is the mean over the pixels, as published
    shape = ScoreSpec(bare, config.size, config.size, 0.0, 1.0)
    maps = normalise.distances(bare, run_torch(features, tune, feature_names(shape)))
    terms = np.stack([found.mean((1, 2)) for found in maps], 1).reshape(len(tune), len(students), -1)
    r = np.asarray(config.terms if len(features.teachers) else paper_terms.RECONSTRUCTION[-1:])
    weights = r / np.maximum((terms @ r).std(0), paper_terms.SMALLEST)[:, None]
    filled = [msgspec.structs.replace(level, weight=float(w)) for level, w in zip(bare, weights.flat, strict=True)]
    return msgspec.structs.replace(shape, levels=tuple(filled))
