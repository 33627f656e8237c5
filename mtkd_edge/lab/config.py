"""Everything a training run can be told, as one frozen value; and the presets of teachers."""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from mtkd_edge import __version__
from mtkd_edge.errors import UsageError

PRESETS: dict[str, tuple[str, ...]] = {
    "paper": ("resnet152.tv_in1k", "vgg19.tv_in1k", "densenet201.tv_in1k"),
    "edge": ("resnet18", "mobilenetv2_100", "mobilenetv1_100"),
    "offline": ("offline-res", "offline-plain", "offline-depthwise"),
}
"""`paper` is the trio of Ma et al. 2023 with torchvision's weights, as they have it; `edge` runs on a Jetson; `offline`
ships inside the package."""
STUDENT = {"map": "compact", "paper": "resnet18"}
"""Each method's own student."""
WIDTHS = {"small": 32, "compact": 48, "wide": 96}
"""The students of `map`, and how wide they are."""
MULTI = "multi"
"""As the student of the published method: all three of the publication."""
NO_TEACHER = "none"
"""As the only teacher of the published method: the ablation without one."""
PAPER_ONLY = ("terms", "teacher_input")
"""Settings that `map` has not."""
MAP_ONLY = ("prune", "merge", "generic")
"""Settings that the published method has not."""


def short_name(teacher: str) -> str:
    """How a teacher is called in tables and file names: "resnet18" of "local-dir:./weights/resnet18"."""
    if teacher.startswith("torchvision:"):
        return teacher.split(":")[1]
    return teacher.removeprefix("local-dir:").rstrip("/").rpartition("/")[2]


def check_teachers(teachers: tuple[str, ...]) -> None:
    """Raises UsageError for two teachers with one short name, under which the figures of one would hide the other's."""
    by_name: dict[str, str] = {}
    for teacher in teachers:
        if other := by_name.get(name := short_name(teacher)):
            what = f"{teacher} is given twice" if other == teacher else f"{other} and {teacher} are both called {name}"
            raise UsageError(f"--teachers: {what}", "name each teacher once, and rename one of two folders of one name")
        by_name[name] = teacher


def check_terms(terms: tuple[float, float, float]) -> None:
    """Raises UsageError for r1, r2, r3 that make no score: not finite, negative, or all 0."""
    if not all(math.isfinite(r) and r >= 0 for r in terms) or not any(terms):
        raise UsageError(f"r1, r2 and r3 are finite, not negative and not all 0, got {terms}", "--terms 1,1,1")


REVISION = 7
"""Of what the methods compute; increased when a stopped run could not go on as it began."""
PROGRAM = f"{__version__}, method {REVISION}"
"""What computed a figure: those of two programs do not belong in one table."""


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`size`: the side of a square frame that is all photo, in pixels, and `fit`: how photos get there (`framing.py`).

    `teachers` empty means those of the preset; `epochs` None means the method's own number; `part` is a pattern that
    finds in a photo's path which part it shows (`dataset.scan`).

    `student` empty becomes the method's own. `weights`: of the teachers, learned or equal. For `method` "paper" alone:
    r1, r2, r3 of its three terms; what the teachers are fed with (`logits.load_logits`). For "map" alone: the
    importance below which a teacher is dropped; whether those left are merged into one; a folder of generic pictures to
    merge them on. Written to `config.json` of the run, with the REVISION that it was begun with (runs from before there
    was one have none, so 1); a resumed run must have the same.
    """

    data: str
    out: str
    part: str = ""
    method: Literal["map", "paper"] = "map"
    preset: str = "edge"
    teachers: tuple[str, ...] = ()
    student: str = ""
    size: int = 256
    fit: Literal["squash", "letterbox", "auto"] = "auto"
    epochs: int | None = None
    batch: int = 8
    seed: int = 0
    device: str = "auto"
    false_alarms: float = 1e-3
    resume: bool = False
    weights: Literal["learned", "equal"] = "learned"
    terms: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    teacher_input: Literal["own", "published"] = "own"
    prune: float = 0.0
    merge: bool = False
    generic: str = ""
    revision: int = 1

    def __post_init__(self) -> None:
        if not self.student:
            msgspec.structs.force_setattr(self, "student", STUDENT[self.method])

    def teacher_names(self) -> tuple[str, ...]:
        """The teachers asked for by name, else the preset's. Raises UsageError for an unknown preset."""
        if self.teachers:
            return self.teachers
        if self.preset not in PRESETS:
            raise UsageError(f"no preset is called {self.preset!r}", f"choose from {', '.join(PRESETS)}")
        return PRESETS[self.preset]

    def check(self) -> None:
        """Raises UsageError for numbers that make no sense, before anything is read."""
        from mtkd_edge.threshold import check_rate  # which needs numpy, and --help does not

        check_teachers(self.teacher_names())
        try:
            re.compile(self.part)
        except re.error as error:
            raise UsageError(
                f"--part is a regular expression, got {self.part!r}: {error}", "--part 'tile(\\d+)'"
            ) from error
        if self.size < 64 or self.size % 32:
            raise UsageError(f"--size is a multiple of 32 from 64 on, got {self.size}", "--size 256")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs is at least 1, got {self.epochs}", "--epochs 20")
        if self.batch < 2:
            raise UsageError(f"a batch has at least 2 photos, got {self.batch}")
        if self.seed < 0:
            raise UsageError(f"--seed is not negative, got {self.seed}", "--seed 0")
        check_terms(self.terms)
        self._check_method()
        check_rate(self.false_alarms)

    def _check_method(self) -> None:
        plain = TrainConfig(data="", out="")

        def changed(names: tuple[str, ...]) -> str:
            return ", ".join(name for name in names if getattr(self, name) != getattr(plain, name))

        if self.method == "map" and (foreign := changed(PAPER_ONLY)):
            raise UsageError(f"{foreign}: settings of the published method, map has none", "--method paper")
        if self.method == "paper" and (foreign := changed(MAP_ONLY)):
            raise UsageError(f"{foreign}: settings of map, the published method has none", "--method map")
        if self.method == "paper" and self.fit == "letterbox":
            raise UsageError("the published method cuts crops from squashed photos", "leave --fit out")
        if self.method == "map" and self.student not in WIDTHS:
            raise UsageError(f"no student is called {self.student!r}", f"choose from {', '.join(WIDTHS)}")
        count = len(self.teacher_names())
        if not 0 <= self.prune < 1 / count:
            raise UsageError(
                f"--prune is an importance below 1 / {count}, the mean of {count} teachers, got {self.prune:g}",
                "--prune 0.1",
            )
        if self.prune and self.weights == "equal":
            raise UsageError(
                "--prune drops teachers of little importance, equal weights know none", "--weights learned"
            )
        if self.merge and count == 1:
            raise UsageError("--merge makes one teacher of several, got one", "--teachers A,B,C")
        if self.generic and not self.merge:
            raise UsageError("--generic is a folder to merge teachers on, nothing is to be merged", "--merge")
