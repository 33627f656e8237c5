"""Everything a benchmark can be told, as frozen values; the defaults are the published protocol at full size.

Needs neither torch nor photos, so that the command line can show the defaults at once.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mtkd_edge.errors import UsageError
from mtkd_edge.lab.config import (
    MULTI,
    NO_TEACHER,
    PRESETS,
    STUDENT,
    TrainConfig,
    check_teachers,
    check_terms,
    short_name,
)

SuiteName = Literal["mvtec", "cifar10", "folder"]
Method = Literal["map", "paper"]
Protocol = Literal["honest", "oracle"]
Ablate = Literal["teachers", "weights"]
PHOTOS = {"size": 1024, "crop": 224, "stride": 200, "crops": 16, "batch": 64, "epochs": 500}
"""MVTec AD as published: 1024 pixels, 16 random crops a photo to train on, 5 x 5 crops to test."""
CIFAR10 = {"size": 256, "crop": 224, "stride": 224, "crops": 1, "batch": 32, "epochs": 500}
"""CIFAR-10 as published: 256 pixels, the crop in the middle."""
MAP = {"size": 256, "crop": 0, "stride": 0, "crops": 0, "batch": 8, "epochs": None}
"""`--method map` runs as `mtkd-edge train` does."""
PAPER_ONLY = ("crop", "stride", "crops", "every", "terms", "teacher_input")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all cells of a benchmark have in common; two benchmarks in one folder must agree in all of it.

    Sizes are in pixels: photos are resized to `size`; `crop` is the side of a crop, `stride` the step between the test
    crops, `crops` the random crops of a photo in an epoch. `batch` counts crops (photos for `map`). `every`: epochs
    between two looks of the oracle. `train_photos` and `test_photos` limit a category, evenly spread; None means all.
    """

    suite: SuiteName
    root: str
    method: Method = "map"
    protocol: Protocol = "honest"
    teachers: tuple[str, ...]
    student: str
    size: int
    crop: int
    stride: int
    crops: int
    batch: int
    epochs: int | None
    every: int = 50
    terms: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    teacher_input: Literal["own", "published"] = "own"
    train_photos: int | None = None
    test_photos: int | None = None
    device: str = "auto"

    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of the test crops; the last one in a row ends at the border, whatever the stride leaves over."""
        room = self.size - self.crop
        steps = [*range(0, room, self.stride), room]
        return [(top, left) for top in steps for left in steps]

    def looks(self) -> tuple[int, ...]:
        """The epochs after which test photos are scored: the last, and for the oracle all the authors look at."""
        if self.epochs is None:
            raise ValueError("map has no epochs to look at")
        before = range(self.every, self.epochs, self.every) if self.protocol == "oracle" else ()
        return (*before, self.epochs)

    def training(self) -> TrainConfig:
        """What every cell of `map` tells `train`; photos, folder, seed and variant are the cell's own."""
        return TrainConfig(
            data=self.root,
            out="",
            teachers=self.teachers,
            student=self.student,
            size=self.size,
            epochs=self.epochs,
            batch=self.batch,
            device=self.device,
        )

    def check(self) -> None:
        """Raises UsageError for settings that make no sense, before anything is read."""
        check_teachers(self.teachers)
        check_terms(self.terms)
        if self.method == "map" and self.protocol == "oracle":
            raise UsageError("the oracle is the published method's protocol, map has none", "--method paper")
        if self.method == "map" and self.suite != "cifar10" and (self.train_photos or self.test_photos):
            raise UsageError("map takes a folder as it is: no --train-photos, no --test-photos", "--method paper")
        limits = (self.train_photos, self.test_photos)
        if any(limit is not None and limit < 20 for limit in limits):
            raise UsageError(f"at least 20 photos to train on and to test, got {limits}", "--train-photos 200")
        if self.method == "paper":
            self._check_crops()
        else:
            self.training().check()
        if self.student == MULTI and NO_TEACHER in self.teachers:
            raise UsageError(f"without a teacher there is one student, got {MULTI!r}", f"--student {STUDENT['paper']}")

    def _check_crops(self) -> None:
        if self.crop % 32 or not 32 <= self.crop <= self.size or self.size % 32:
            raise UsageError(
                f"crop and size are multiples of 32, the crop no larger: got {self.crop} of {self.size}",
                "--size 512 --crop 224",
            )
        if min(self.stride, self.crops, self.every, self.epochs or 0) < 1 or self.batch < 2:
            raise UsageError("stride, crops, epochs and every are at least 1, a batch at least 2", "--batch 32")


class Variant(msgspec.Struct, frozen=True):
    """One row of an ablation: its name (also that of its folder), its teachers, its importance weights."""

    name: str
    teachers: tuple[str, ...]
    weights: Literal["learned", "equal"] = "learned"


def complete(suite: SuiteName, root: str, given: dict[str, Any]) -> Settings:
    """What was given over the defaults of the method and the suite. Raises UsageError for an unknown preset."""
    method = given.get("method", "map")
    if method == "map" and (foreign := [name for name in PAPER_ONLY if name in given]):
        raise UsageError(f"{', '.join(foreign)}: settings of the published method, map has none", "--method paper")
    defaults: dict[str, Any] = dict(MAP if method == "map" else CIFAR10 if suite == "cifar10" else PHOTOS)
    preset = given.pop("preset", "edge" if method == "map" else "paper")
    if preset not in PRESETS:
        raise UsageError(f"no preset is called {preset!r}", f"choose from {', '.join(PRESETS)}")
    defaults |= {"teachers": PRESETS[preset], "student": STUDENT[method]}
    settings = Settings(suite=suite, root=root, **{**defaults, **given})
    settings.check()
    return settings


def variants(settings: Settings, ablate: Ablate | None) -> tuple[Variant, ...]:
    """The rows: the method as it is, and what the ablation takes away.

    Without any teacher only one student of the published method is trained: `map` and `multi` have no row for it.
    Raises UsageError for the weights of one teacher, whose weight is 1; alone it is the method as it is.
    """
    whole = Variant("all", settings.teachers)
    if ablate is None:
        return (whole,)
    if ablate == "weights":
        if len(settings.teachers) == 1:
            raise UsageError("--ablate weights: one teacher has nothing to be weighed against", "--teachers A,B,C")
        return whole, Variant("equal", settings.teachers, "equal")
    several = settings.teachers if len(settings.teachers) > 1 else ()
    alone = tuple(Variant(f"only-{short_name(name)}", (name,)) for name in several)
    possible = settings.method == "paper" and settings.student != MULTI
    nobody = (Variant("none", (NO_TEACHER,)),) if possible else ()
    return whole, *alone, *nobody
