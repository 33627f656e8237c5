"""Train the three teachers that ship inside the package (`mtkd_edge/lab/weights`), from pictures made here.

    python scripts/train_offline_teachers.py            # 17 minutes on two CPU cores with bfloat16
    python scripts/train_offline_teachers.py --quick --out DIR    # the same path in seconds: a test, no good teachers

Textures are rendered by `offline_textures`; CIFAR-10 training photos join as mosaics when `--cifar` exists. A picture
is up to two of them divided by a random shape, with a small flaw pasted in. Every cell of both taps learns what it
belongs to, whether a flaw lies in it, and the colour, contrast and edge statistics under it. No labels of any
inspection data set and no other network take part. `docs/offline-teachers.md` has the reasons and the results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from offline_tasks import CLASSES, STATISTICS, Batch, Pools, Targets, compose, make_pools, targets
from safetensors.torch import save_file
from torch import Tensor, nn

from mtkd_edge.lab import offline

ROOT = Path(__file__).parents[1]
CIFAR = ROOT.parent / "shared" / "data" / "cifar10" / "train_airplane_cat_horse.npz"
VALIDATION_PHOTOS = 1000


@dataclass(frozen=True)
class Plan:
    """How much of everything; `peak` is the highest learning rate of the one cycle."""

    textures: int
    steps: int
    batch: int
    peak: float = 4e-3
    validation_batches: int = 8


FULL = Plan(textures=12_000, steps=2000, batch=64)
QUICK = Plan(textures=64, steps=3, batch=8, validation_batches=1)


def split(predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A head's channels -> class logits, flaw logit, statistics."""
    classes, flawed, numbers = torch.split(predicted.float(), [CLASSES, 1, STATISTICS], dim=1)
    return classes, flawed, numbers


def loss_of(predicted: Tensor, target: Targets) -> Tensor:
    """The sum of the three tasks at one tap."""
    classes, flawed, numbers = split(predicted)
    label, flaw_here, wanted = target
    found = F.binary_cross_entropy_with_logits(flawed, flaw_here, pos_weight=torch.tensor(4.0))
    return F.cross_entropy(classes, label) + found + 2 * F.smooth_l1_loss(numbers, wanted)


def heads_for(net: offline.OfflineTeacher) -> nn.ModuleList:
    """One head a tap. Their hidden layer absorbs what only the tasks need, so that the taps stay general."""
    out = CLASSES + 1 + STATISTICS
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(net.channels[s], 128, 1), nn.ReLU(), nn.Conv2d(128, out, 1)) for s in offline.STRIDES
    )


def validate(net: offline.OfflineTeacher, heads: nn.ModuleList, batches: list[Batch]) -> dict[str, float]:
    """On pictures from another seed and other photos, per stride: class accuracy, flaw accuracy (mean of hits and of
    correct silence) and the share of the statistics' variance explained.
    """
    net.eval()
    sums: dict[str, list[float]] = {}
    with torch.inference_mode():
        for batch in batches:
            for stride, tap, head in zip(offline.STRIDES, net(batch.image), heads, strict=True):
                classes, flawed, numbers = split(head(tap))
                label, flaw_here, wanted = targets(batch, stride)
                here, said = flaw_here > 0.5, flawed > 0
                values = {
                    "class": (classes.argmax(1) == label).float().mean(),
                    "flaw": (said[here].float().mean() + (~said[~here]).float().mean()) / 2,
                    "statistics": 1 - F.mse_loss(numbers, wanted) / wanted.var(),
                }
                for key, value in values.items():
                    sums.setdefault(f"{key}_{stride}", []).append(float(value))
    return {key: round(sum(values) / len(values), 4) for key, values in sums.items()}


class Pupil:
    """One teacher while it learns: net, heads, optimiser and schedule; `mean` is the running mean of its loss."""

    def __init__(self, name: str, plan: Plan, seed: int) -> None:
        torch.manual_seed(seed)  # for each: a teacher trained alone starts like one trained beside others
        self.net = offline.untrained(name).to(memory_format=torch.channels_last).train()
        self.heads = heads_for(self.net)
        weights = [*self.net.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(weights, lr=plan.peak, weight_decay=0.02)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, plan.peak, total_steps=plan.steps, pct_start=0.15
        )
        self.mean = 0.0

    def learn(self, batch: Batch, wanted: list[Targets], step: int) -> None:
        """One step of AdamW in bfloat16 autocast: seven times as fast as float32 on a CPU that has it."""
        with torch.autocast("cpu", torch.bfloat16):
            said = [head(tap) for head, tap in zip(self.heads, self.net(batch.image), strict=True)]
        loss = torch.stack([loss_of(one, target) for one, target in zip(said, wanted, strict=True)]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        self.mean += (loss.item() - self.mean) / min(step + 1, 100)


def train(names: Sequence[str], pools: Pools, plan: Plan, seed: int) -> dict[str, Pupil]:
    """The teachers from fresh weights. They see the same pictures: making those takes as long as learning from them."""
    rng = torch.Generator().manual_seed(seed)
    pupils = {name: Pupil(name, plan, seed) for name in names}
    began = time.monotonic()
    for step in range(plan.steps):
        batch = compose(pools, plan.batch, rng)
        wanted = [targets(batch, stride) for stride in offline.STRIDES]
        for pupil in pupils.values():
            pupil.learn(batch, wanted, step)
        if step % 100 == 99 or step + 1 == plan.steps:
            losses = " ".join(f"{name} {pupil.mean:.3f}" for name, pupil in pupils.items())
            print(f"{step + 1}/{plan.steps} {time.monotonic() - began:.0f} s; {losses}", flush=True)
    return pupils


def save(net: offline.OfflineTeacher, path: Path, facts: dict[str, object]) -> None:
    """Folded weights as float16, with what they were trained on beside them in the file's own metadata."""
    state = {key: value.half().contiguous() for key, value in offline.fold(net).state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"training": json.dumps(facts, sort_keys=True)})


def main() -> None:
    """Train the teachers named by the arguments and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=offline.NAMES, help=f"default: {' '.join(offline.NAMES)}")
    parser.add_argument("--out", type=Path, default=offline.WEIGHTS)
    parser.add_argument("--cifar", type=Path, default=CIFAR, help="CIFAR-10 training archive; left out where missing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny settings: checks the path, makes no good teacher")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == offline.WEIGHTS:
        parser.error("--quick makes no good teachers: give --out another folder")
    torch.set_num_threads(arguments.threads)
    plan = QUICK if arguments.quick else FULL
    cifar = arguments.cifar if arguments.cifar.is_file() else None
    print(f"rendering; CIFAR-10: {cifar.name if cifar else 'not there, textures only'}", flush=True)
    photos = 64 if arguments.quick else None
    learn = slice(VALIDATION_PHOTOS, photos and VALIDATION_PHOTOS + photos)
    pools = make_pools(arguments.seed, plan.textures, cifar, learn)
    unseen = make_pools(arguments.seed + 1, plan.textures // 8, cifar, slice(VALIDATION_PHOTOS))
    rng = torch.Generator().manual_seed(arguments.seed + 1)
    batches = [compose(unseen, 64, rng) for _ in range(plan.validation_batches)]
    for name, pupil in train(arguments.names, pools, plan, arguments.seed).items():
        facts = {
            "validation": validate(pupil.net, pupil.heads, batches),
            "seed": arguments.seed,
            "steps": plan.steps,
            "cifar10": cifar is not None,
        }
        save(pupil.net, arguments.out / f"{name}.safetensors", facts)
        print(name, json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
