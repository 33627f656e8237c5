"""One cell of the feature-map method: `train` and `evaluate` as a user runs them, on the bundle's FP32 graphs."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from mtkd_edge import bundle, dataset, places
from mtkd_edge.device import evaluate
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import DataError
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Outcome
from mtkd_edge.lab.benchmark.suites import demand_both, left_out
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.train import train


def run(job: Job, photos: Path) -> Outcome:
    """Train on the good photos of `photos` (MVTec AD layout) and evaluate on the others.

    Raises what `train` and `evaluate` raise, and DataError for test photos without both good and defective ones.
    """
    began = time.monotonic()
    model = job.folder / "run"
    listing = dataset.scan(photos, job.progress, needed=0)
    demand_both((photo.kind for photo in listing.test), listing.root)
    if not (model / places.BUNDLE_FOLDER / bundle.BUNDLE).is_file():
        train(config(job, photos, model), job.progress)
    folder = places.bundle_of(model)
    manifest = bundle.load_bundle(folder)
    with OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD, name=manifest.name) as engine:
        found = evaluate.evaluate(engine, manifest, bundle.load_threshold(folder), listing, job.progress)
    if found.image_auroc is None:
        raise DataError(
            f"{photos}: no good or no defective test photo could be scored", f"mtkd-edge watch {photos}/test"
        )
    return Outcome(
        variant=job.variant.name,
        category=job.category,
        seed=job.seed,
        image_auroc=found.image_auroc,
        pixel_auroc=found.pixel_auroc,
        aupro=found.aupro,
        importance={teacher.name: teacher.importance for teacher in manifest.teachers},
        photos={
            "train": manifest.photos,
            "tune": len(listing.side("tune")),
            "good": found.good,
            "anomalous": found.defective,
            "left_out": left_out(listing) + len(found.invalid),
        },
        scores=tuple(score.score for score in found.scores),
        seconds=round(time.monotonic() - began, 1),
    )


def config(job: Job, photos: Path, model: Path) -> TrainConfig:
    """The settings as `train` takes them; a run that was stopped is resumed."""
    return msgspec.structs.replace(
        job.settings.training(),
        data=str(photos.resolve()),
        out=str(model),
        teachers=job.variant.teachers,
        weights=job.variant.weights,
        seed=job.seed,
        resume=(model / places.CONFIG).is_file(),
    )
