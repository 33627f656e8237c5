"""One of anomalib's methods, trained and run in anomalib's own environment. compare_rivals.py starts it.

    python rivals_child.py RIVAL FRAMES OUT --weights FOLDER --seed 0 [--steps N --batch N | --coreset R] [--onnx FILE]

FRAMES holds train.npy and test.npy, uint8 [N, H, W, 3]. There are no labels and no masks in it, so none can be used.
OUT gets maps.npy float32 [n, H, W], scores.npy [n] and child.json. anomalib's torch models, losses and optimisers are
taken as they are; its trainer, its splits (the test photos are its validation photos) and its scaling of scores are
not. Every network is fed with the whole frame, and whatever asks timm for ImageNet weights gets those of --weights.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from rivals_coreset import farthest_first
from torch import Tensor, nn

BACKBONE, LAYERS = "resnet18", ["layer1", "layer2", "layer3"]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXTRACTING = 8
"""Photos at once where nothing is learned."""


class Whole(nn.Module):
    """Frames uint8 [N, H, W, 3] -> map [N, H, W] and score [N]: what an engine of ours takes and gives."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None) -> None:
        super().__init__()
        self.model = model
        mean, std = mean_std or ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def pixels(self, frames: Tensor) -> Tensor:
        """What the network is fed with."""
        return (frames.permute(0, 3, 1, 2).contiguous().float() - self.mean) / self.std

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The answer in evaluation mode."""
        found = self.model(self.pixels(frames))
        return found.anomaly_map[:, 0], found.pred_score.flatten()


def offline(weights: Path) -> None:
    """From here on `timm.create_model(..., pretrained=True)` reads `weights`, a folder in timm's hub format."""
    create = timm.create_model

    @functools.wraps(create)
    def local(name: str, *args: Any, **options: Any) -> Any:
        if options.get("pretrained"):
            options.pop("pretrained_cfg", None)
            name = f"local-dir:{weights}"
        return create(name, *args, **options)

    timm.create_model = local


def create(rival: str, side: int) -> Whole:
    """The model of that name as anomalib has it, with ResNet-18 where a backbone is chosen."""
    if rival == "padim":
        from anomalib.models.image.padim.torch_model import PadimModel

        return Whole(PadimModel(BACKBONE, LAYERS), IMAGENET)
    if rival == "patchcore":
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        return Whole(PatchcoreModel(LAYERS[1:], BACKBONE), IMAGENET)
    if rival == "stfpm":
        from anomalib.models.image.stfpm.torch_model import STFPMModel

        return Whole(STFPMModel(LAYERS, BACKBONE), IMAGENET)
    if rival == "rd":
        from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
        from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

        mode = AnomalyMapGenerationMode.ADD
        return Whole(ReverseDistillationModel(BACKBONE, (side, side), LAYERS, mode), IMAGENET)
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel

    return Whole(EfficientAdModel(), None)  # it normalises by itself


def fit(rival: str, whole: Whole, frames: np.ndarray, given: argparse.Namespace) -> None:
    """Train `whole` in place."""
    model: Any = whole.model.train()
    if rival in ("padim", "patchcore"):
        for batch in batches(frames, EXTRACTING):
            model(whole.pixels(batch))
        if rival == "padim":
            model.fit()
        else:
            select_faster()
            model.subsample_embedding(given.coreset)
    elif rival == "stfpm":
        from anomalib.models.image.stfpm.loss import STFPMLoss

        student = model.student_model.parameters()
        optimizer: torch.optim.Optimizer = torch.optim.SGD(student, lr=0.4, momentum=0.9, weight_decay=0.001)
        learn(whole, STFPMLoss(), optimizer, frames, given)
    elif rival == "rd":
        from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

        learned = [*model.decoder.parameters(), *model.bottleneck.parameters()]
        optimizer = torch.optim.Adam(learned, lr=0.005, betas=(0.5, 0.99))
        learn(whole, ReverseDistillationLoss(), optimizer, frames, given)


def learn(
    whole: Whole, loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer, frames: np.ndarray,
    given: argparse.Namespace,
) -> None:  # fmt: skip
    """`given.steps` steps over shuffled photos; learning rates stay as they are, as anomalib has them."""
    rng = np.random.default_rng(given.seed)
    order: list[int] = []
    for _ in range(given.steps):
        if len(order) < given.batch:
            order = [int(row) for row in rng.permutation(len(frames))]
        rows, order = order[: given.batch], order[given.batch :]
        optimizer.zero_grad()
        loss(*whole.model(whole.pixels(torch.from_numpy(frames[rows])))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def select_faster() -> None:
    """anomalib's coreset selects the same patches in a fraction of the time."""
    from anomalib.models.components import KCenterGreedy

    def select(self: Any) -> list[int]:
        self.model.fit(self.embedding)
        features = self.model.transform(self.embedding)
        first = int(torch.randint(high=self.n_observations, size=(1,)))
        return [int(index) for index in farthest_first(features, self.coreset_size, first)]

    KCenterGreedy.select_coreset_idxs = select


def batches(frames: np.ndarray, size: int) -> Iterator[Tensor]:
    """Frames in order, as tensors."""
    for start in range(0, len(frames), size):
        yield torch.from_numpy(frames[start : start + size])


def predict(whole: Whole, frames: np.ndarray, out: Path) -> list[float]:
    """Write maps and scores; returns the milliseconds of processor time of each frame, one at a time."""
    whole.eval()
    maps = np.lib.format.open_memmap(out / "maps.npy", "w+", np.float32, frames.shape[:3])
    scores, spent = np.empty(len(frames), np.float64), []
    with torch.no_grad():
        for number, frame in enumerate(batches(frames, 1)):
            began = time.process_time()
            values, score = whole(frame)
            spent.append((time.process_time() - began) * 1e3)
            maps[number], scores[number] = values[0].numpy(), float(score[0])
    maps.flush()
    np.save(out / "scores.npy", scores)
    return spent


def export(whole: Whole, side: int, path: Path) -> None:
    """One self-contained ONNX file for one frame."""
    frame = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    torch.onnx.export(
        whole.eval(), (frame,), str(path), input_names=["frames"], output_names=["map", "score"], external_data=False,
        dynamo=True, verbose=False,
    )  # fmt: skip


def main() -> None:
    """Train, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival", choices=("padim", "patchcore", "stfpm", "rd", "efficientad"))
    parser.add_argument("frames", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--onnx", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    random.seed(given.seed)
    np.random.seed(given.seed)  # scikit-learn, and with it anomalib's projection, draws from this
    torch.manual_seed(given.seed)
    offline(given.weights.resolve())
    train, test = (np.load(given.frames / f"{side}.npy", mmap_mode="c") for side in ("train", "test"))
    whole = create(given.rival, train.shape[1])
    began, wall = time.process_time(), time.monotonic()
    fit(given.rival, whole, train, given)
    found = {"train_seconds": time.process_time() - began, "train_wall": time.monotonic() - wall}
    found |= {"torch_ms": statistics.median(predict(whole, test, given.out))}
    found |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # the export is not the method's
    if given.onnx:
        export(whole, train.shape[1], given.onnx)
    (given.out / "child.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
