"""One cell of the published protocol: train on crops of good photos, score every crop of the test photos.

At full size a photo of MVTec AD costs 25 crops x (teachers + student); the trio of the publication and ResNet-18 are
930 GMAC a photo. The teachers' logits of the test photos are computed once and kept, however often the oracle looks.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from mtkd_edge.bundle import write_file
from mtkd_edge.errors import BundleError
from mtkd_edge.lab import paper_terms
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Oracle, Outcome
from mtkd_edge.lab.benchmark.suites import Task
from mtkd_edge.lab.benchmark.views import Views
from mtkd_edge.lab.logits import student_names
from mtkd_edge.lab.paper_loop import Draw, Epochs, cropped, distil, whole
from mtkd_edge.lab.paper_method import check_students, load_teachers, mixed
from mtkd_edge.lab.paper_nets import Networks, Standard
from mtkd_edge.lab.paper_terms import Labels, Terms
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.lab.train import CHECKPOINT
from mtkd_edge.metrics import auroc


def run(job: Job, task: Task) -> Outcome:
    """Train, score, and only then look at the labels. `job.folder` keeps what a stopped cell needs to go on.

    Raises UsageError for teachers without logits and unknown students, BundleError for a damaged checkpoint.
    """
    began = time.monotonic()
    settings = job.settings
    check_students(job.variant.teachers, settings.student)
    teachers = load_teachers(job.variant.teachers, settings.teacher_input, job.device, job.progress)
    torch.manual_seed(job.seed)
    learn = job.variant.weights == "learned"
    nets = Networks(len(teachers), student_names(settings.student), settings.crop, learn).to(job.device)
    found = trained(job, task, teachers, nets)
    last = found.by_epoch[-1]
    scores = paper_terms.honest(last, found.normal, settings.terms if teachers else paper_terms.RECONSTRUCTION)
    labels = task.labels()  # nothing before this line has seen them
    single = {**paper_terms.single(last, labels), "size of z_T": auroc(labels, found.size)}
    sides = {"train": len(task.train), "tune": len(task.tune)}
    return Outcome(
        variant=job.variant.name,
        category=task.name,
        seed=job.seed,
        image_auroc=_area(auroc(labels, scores)),
        oracle=chosen(job, task, found.by_epoch, labels) if settings.protocol == "oracle" else None,
        single={name: _area(value) for name, value in single.items()} if teachers else {},
        importance={t.name: (w,) for t, w in zip(teachers, nets.weights().tolist(), strict=True)},
        photos={**sides, "good": int((~labels).sum()), "anomalous": int(labels.sum()), "left_out": task.left_out},
        scores=tuple(scores.tolist()),
        seconds=round(time.monotonic() - began, 1),
    )


class Measured(NamedTuple):
    """Terms of the test photos at each epoch that is looked at, and those of the tune photos at the last one.

    `size`: mean z_T^2 of each test photo's worst crop, [N]; what the first term is while the student gives zeros.
    """

    by_epoch: list[Terms]
    normal: Terms
    size: NDArray[np.float32]


def trained(job: Job, task: Task, teachers: list[Teacher], nets: Networks) -> Measured:
    """Train the networks from look to look."""
    settings, progress = job.settings, job.progress
    corners = [(0, 0)] if task.train.shape[1] == settings.crop else settings.corners()
    views = Views(corners, settings.crop, settings.batch, job.device)
    raw = views.logits(teachers, task.train, progress)
    standard = Standard(raw)
    shown, normal = (standard(views.logits(teachers, side, progress)) for side in (task.test, task.tune))
    draw, per_epoch = batches(job, task, teachers, raw, standard)
    found = []
    for epoch in settings.looks():
        path = job.folder / f"terms-{epoch}.safetensors"
        if path.is_file() and epoch < settings.looks()[-1]:
            found.append(load_file(path)["terms"])
            continue
        steps = epoch * per_epoch
        checkpoints = job.folder / CHECKPOINT
        history = distil(nets, draw, steps, job.seed, checkpoints, progress, mixed(job.device))
        if len(history) != steps:
            raise BundleError(f"{checkpoints} is at step {len(history)}, wanted {steps}", f"delete {job.folder}")
        found.append(views.terms(nets, task.test, shown, progress))
        write_file(path, save({"terms": found[-1]}))
    with torch.no_grad():
        size = (nets.mix(shown.to(job.device)) ** 2).mean(1).view(len(task.test), -1).amax(1)
    return Measured(found, views.terms(nets, task.tune, normal, progress), size.cpu().numpy())


def batches(job: Job, task: Task, teachers: list[Teacher], raw: torch.Tensor, standard: Standard) -> tuple[Draw, int]:
    """The training batches, and how many an epoch has. Photos no larger than a crop have known logits (`raw`)."""
    settings, frames = job.settings, task.train
    if frames.shape[1] == settings.crop:
        epochs = Epochs(len(frames), settings.batch, job.seed)
        return whole(frames, standard(raw), epochs, job.device), epochs.steps
    epochs = Epochs(len(frames), max(1, settings.batch // settings.crops), job.seed)
    there = standard.to(job.device)
    return cropped(frames, settings.crop, settings.crops, teachers, there, epochs, job.device), epochs.steps


def chosen(job: Job, task: Task, by_epoch: list[Terms], labels: Labels) -> Oracle:
    """What the test labels like best."""
    found = paper_terms.oracle(dict(zip(job.settings.looks(), by_epoch, strict=True)), labels)
    return Oracle(_area(found.auroc), found.epochs, found.r)


def _area(value: float | None) -> float:
    assert value is not None, "the suite has demanded both kinds of test photos"
    return value
