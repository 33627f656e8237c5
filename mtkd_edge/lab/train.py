"""A training run from the first photo to the bundle.

runs/<name>/   config.json  data.json  inputs.json  metrics.json  checkpoint/  plots/  bundle/
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import torch

from mtkd_edge import __version__, bundle, dataset, threshold
from mtkd_edge.aspect import aspects_of
from mtkd_edge.bundle import Manifest, TeacherInfo, make_folder, sha256, write_file
from mtkd_edge.dataset import Dataset
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab import export, map_method, paper_method, plots, teachers
from mtkd_edge.lab.config import REVISION, TrainConfig
from mtkd_edge.lab.framing import frame_spec, view_of
from mtkd_edge.lab.map_method import Frames, Inputs, Teaching, Trained
from mtkd_edge.lab.photos import load_frames
from mtkd_edge.lab.teachers import Teacher
from mtkd_edge.listing import photos_under
from mtkd_edge.places import BUNDLE_FOLDER, CONFIG, LISTING, METRICS
from mtkd_edge.progress import Progress, silent
from mtkd_edge.score import oracle
from mtkd_edge.synthetic import paste_defect

CHECKPOINT = "checkpoint"
INPUTS = "inputs.json"
"""sha256 of what is read besides the photos."""
GOLDEN_FRAMES = 4


def train(config: TrainConfig, progress: Progress = silent) -> Path:
    """Run the configured method and write the run folder; returns it.

    Raises UsageError for a configuration that makes no sense or differs from the run to be resumed, DataError for
    photos or weights, GateError when the exported graphs and torch disagree.
    """
    config.check()
    device = pick_device(config.device)
    run = Path(config.out)
    _claim(run, config)
    try:
        return _train(run, config, torch.device(device), progress)
    except Exception as error:
        if not config.resume:
            _let_go(run)
        if isinstance(error, torch.OutOfMemoryError):
            what = f"{device} has too little memory for {config.batch} frames of {config.size} pixels at a time"
            raise UsageError(what, f"--batch {max(2, config.batch // 2)}, and another --out") from error
        raise


def _train(run: Path, config: TrainConfig, device: torch.device, progress: Progress) -> Path:
    began = time.monotonic()
    listing = dataset.scan(Path(config.data), progress, part=config.part)
    if config.resume:
        _same_photos(run / LISTING, listing)
    write_file(run / LISTING, dataset.encode(listing))
    frame = frame_spec(config, listing)
    sides = [
        load_frames(listing.side(side), frame, progress, "reading photos") for side in ("train", "tune", "held-out")
    ]
    generic = generic_frames(Path(config.generic), frame, progress) if config.generic else None
    _same_inputs(run / INPUTS, inputs_of(config, generic), config.resume)
    inputs = Inputs(sides[0], sides[1], generic, view_of(config, frame))
    trained = _method(config, inputs, device, run / CHECKPOINT, progress)
    held_out = sides[2]
    manifest, limit = _bundle(run, config, listing, frame, trained, held_out)
    plots.save(run / "plots", trained.histories, list(trained.asked))
    metrics = {
        "photos": {side: len(frames) for side, frames in zip(("train", "tune", "held_out"), sides, strict=True)},
        "problems": len(listing.problems),
        "importance": {name: list(shares) for name, shares in trained.asked.items()},
        "at_the_edge": [teacher.name for teacher in manifest.teachers],
        "synthetic_auroc": trained.choices,
        "chosen": trained.chosen,
        "level_weights": {level.name: level.weight for level in trained.score.levels},
        "loss": trained.histories["student"][-1]["loss"],
        "threshold": limit.score,
        "threshold_method": limit.method,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_file(run / METRICS, msgspec.json.format(msgspec.json.encode(metrics), indent=1) + b"\n")
    return run


def _method(config: TrainConfig, inputs: Inputs, device: torch.device, folder: Path, progress: Progress) -> Trained:
    if config.method == "paper":
        return paper_method.train(inputs, config, device, folder, progress)
    found: list[Teacher] = []
    for i, name in enumerate(names := config.teacher_names()):
        found.append(teachers.load(name))
        progress("loading teachers", i + 1, len(names))
    steps = map_method.STEPS if config.epochs is None else config.epochs * -(-len(inputs.train) // config.batch)
    teaching = Teaching(config.weights == "equal", config.prune, config.merge)
    return map_method.train(
        inputs, found, config.student, steps, config.batch, config.seed, device, folder, progress, teaching
    )


def generic_frames(folder: Path, frame: FrameSpec, progress: Progress) -> Frames:
    """All pictures under a folder, as frames. Raises DataError for none, and for one that cannot be used."""
    folder = folder.resolve()  # a link to a file inside of it stays inside
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "--generic takes a folder of pictures")
    names, problems = photos_under(folder, "")
    if problems:
        raise DataError(f"{folder}: {problems[0].path}: {problems[0].what}", "--generic takes a folder of pictures")
    if not names:
        raise DataError(f"{folder} holds no pictures", "--generic takes a folder of pictures")
    # the white of the good parts says nothing about other pictures
    plain = msgspec.structs.replace(frame, white=65535)
    return load_frames([folder / name for name in names], plain, progress, "reading generic pictures")


def pick_device(asked: str) -> str:
    """`auto` is the GPU where torch sees one. Raises UsageError for a GPU that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if count else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", asked)
    if found is None:
        raise UsageError(f"--device is auto, cpu, cuda or cuda:N, got {asked!r}", "--device auto")
    if asked != "cpu" and int(found[1] or 0) >= count:
        seen = f"{count} CUDA GPUs here, cuda:0 the first" if count else "no CUDA GPU here"
        raise UsageError(f"--device {asked}: torch sees {seen}", "--device cuda" if count else "--device cpu")
    return asked


def _claim(run: Path, config: TrainConfig) -> None:
    """Make the run folder, or check that the one to be resumed was started with the same configuration."""
    path = run / CONFIG
    fresh = msgspec.structs.replace(config, resume=False, revision=REVISION)
    if config.resume:
        try:
            old = msgspec.json.decode(path.read_bytes(), type=TrainConfig)
        except (OSError, *UNREADABLE) as error:
            raise BundleError(f"{run} cannot be resumed: {error}", "mtkd-edge train without --resume") from error
        if old.revision != REVISION:
            what = f"{run} was begun by a version of mtkd-edge whose method computes other features"
            raise UsageError(what, "mtkd-edge train without --resume, to another --out")
        # `out` may differ: a run may be moved, and is found from wherever it is named
        fields = [field for field in TrainConfig.__struct_fields__ if field != "out"]
        changed = [field for field in fields if getattr(old, field) != getattr(fresh, field)]
        if changed:
            raise UsageError(
                f"{run} was started with another {', '.join(changed)}", f"repeat its options, they are in {path}"
            )
        return
    if path.exists():
        raise UsageError(f"{run} holds a run already", f"--resume to continue it, or another --out than {run}")
    make_folder(run)
    write_file(path, msgspec.json.format(msgspec.json.encode(fresh), indent=1) + b"\n")


def _let_go(run: Path) -> None:
    """What was refused before it had learned anything does not keep the folder, nor its name."""
    if not (run / CHECKPOINT).exists():
        for name in (CONFIG, LISTING, INPUTS):
            (run / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something else in it
            run.rmdir()


def _same_photos(path: Path, listing: Dataset) -> None:
    """Raises DataError for photos other than the run was begun with: they would be learned from, or set its threshold.

    A run that was stopped before it had looked at any has no list, and takes what there is.
    """
    if not path.exists():
        return
    before, now = (
        {(photo.path, photo.sha256, photo.side) for photo in each.photos}
        for each in (dataset.decode(path.read_bytes(), str(path)), listing)
    )
    if other := sorted(before ^ now):
        what = f"{len(other)} photos have come, gone or changed, the first is {other[0][0]}"
        raise DataError(f"{path.parent} was begun with other photos: {what}", "mtkd-edge train without --resume")


def inputs_of(config: TrainConfig, generic: Frames | None) -> dict[str, str]:
    """What is read besides the photos -> its sha256: teachers' weights on this disk, and the generic pictures."""
    files = {name: teachers.weights_file(name) for name in config.teacher_names()}
    found = {name: sha256(path) for name, path in files.items() if path and path.is_file()}
    return found if generic is None else {**found, "generic": hashlib.sha256(generic.tobytes()).hexdigest()}


def _same_inputs(path: Path, now: dict[str, str], resume: bool) -> None:
    """Raises DataError for others than a run to be resumed was begun with; runs of before have not told theirs."""
    if resume and path.exists():
        try:
            before = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except UNREADABLE as error:
            raise BundleError(f"{path.parent} cannot be resumed: {path.name}: {error}") from error
        if other := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
            what = f"{path.parent} was begun with other files: {', '.join(other)}"
            raise DataError(what, "mtkd-edge train without --resume")
    write_file(path, msgspec.json.format(msgspec.json.encode(now), indent=1) + b"\n")


def _bundle(
    run: Path, config: TrainConfig, listing: Dataset, frame: FrameSpec, trained: Trained, held_out: Frames,
) -> tuple[Manifest, threshold.Threshold]:  # fmt: skip
    folder = run / BUNDLE_FOLDER
    folder.mkdir(exist_ok=True)
    features = trained.features.cpu().eval()
    export.write_graphs(folder, features, trained.score, frame, golden_frames(held_out, config.seed))
    scores, peaks = _measure(features, trained, held_out)
    limit = threshold.fit(scores, peaks, config.false_alarms, engine="torch")
    manifest = Manifest(
        name=run.resolve().name,  # of "." as well
        method=config.method,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        seed=config.seed,
        frame=frame,
        score=trained.score,
        teachers=tuple(_info(t, w) for t, w in zip(trained.teachers, trained.importance, strict=True)),
        student=config.student,
        photos=sum(photo.side == "train" for photo in listing.photos),
        held_out=len(held_out),
        aspects=aspects_of((photo.height, photo.width) for photo in listing.photos),
        files=bundle.seal(folder),
    )
    bundle.save(folder, manifest, limit)
    return manifest, limit


def golden_frames(held_out: Frames, seed: int) -> Frames:
    """Two good frames and two with a pasted defect: what `check` replays on every engine."""
    rng = np.random.default_rng(seed)
    good = held_out[: GOLDEN_FRAMES // 2]
    return np.concatenate([good, np.stack([paste_defect(frame, rng)[0] for frame in good])])


def _measure(features: torch.nn.Module, trained: Trained, frames: Frames) -> tuple[Frames, Frames]:
    names, count = export.feature_names(trained.score), len(trained.score.levels)
    scores, peaks = [], []
    for start in range(0, len(frames), 8):
        out = export.run_torch(features, frames[start : start + 8], names)
        maps, score = oracle(trained.score, [out[n] for n in names[:count]], [out[n] for n in names[count:]])
        scores.append(score)
        peaks.append(maps.max((1, 2)))
    return np.concatenate(scores), np.concatenate(peaks)


def _info(teacher: Teacher, weights: tuple[float, ...]) -> TeacherInfo:
    taps = tuple(f"stride{stride}" for stride in teacher.strides) or ("logits",)
    mean, std = teacher.mean_std
    return TeacherInfo(teacher.name, teacher.source, teacher.digest(), taps, weights, mean, std)
