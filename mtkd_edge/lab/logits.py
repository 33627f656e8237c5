"""Networks that end in class logits: the published method's teachers, and its students."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtkd_edge.errors import UsageError
from mtkd_edge.lab import offline, teachers
from mtkd_edge.lab.config import MULTI, NO_TEACHER, short_name
from mtkd_edge.lab.teachers import Teacher, Triple

CLASSES = 1000
STUDENTS = ("resnet18", "vgg11", "densenet121")
"""The students of Ma et al. 2023, by their timm names."""
HALF: Triple = (0.5, 0.5, 0.5)
VGG_DROPOUT = 0.5
TeacherInput = Literal["own", "published"]


class _Logits(nn.Module):
    """A classifier of the 1000 ImageNet classes; the background class of TensorFlow's nets (index 0) is dropped."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] normalised -> one tensor [N, 1000]."""
        out: Tensor = self.net(x)
        return [out[:, -CLASSES:]]


class LogitTeacher(Teacher):
    """A teacher whose one tap is its logits."""

    strides: tuple[int, ...] = ()


def load_logits(name: str, teacher_input: TeacherInput = "own") -> Teacher:
    """The classifier called `name`, in the forms of `teachers`.

    `teacher_input` "own" feeds it with the mean and deviation it was trained with; "published" with 0.5 and 0.5
    whatever it was trained with, as the authors' code does. Raises UsageError for a network without logits.
    """
    if name in offline.NAMES:
        raise UsageError(f"{name} has no class logits, the published method needs them", "--method map")
    net, source, mean, std = teachers.classifier(name)
    with torch.no_grad():
        shape = net.eval()(torch.zeros(1, 3, 224, 224)).shape
    if len(shape) != 2 or shape[1] < CLASSES:
        raise UsageError(f"{name} gives {list(shape)}, wanted the logits of 1000 classes", "--method map")
    if teacher_input == "published":
        mean, std = HALF, HALF
    return LogitTeacher(short_name(name), source, _Logits(net), mean, std)


def is_none(names: tuple[str, ...]) -> bool:
    """Whether the ablation without a teacher is asked for. Raises UsageError for "none" beside other teachers."""
    if NO_TEACHER in names and len(names) > 1:
        raise UsageError(f"--teachers {NO_TEACHER} stands alone, got {','.join(names)}", f"--teachers {NO_TEACHER}")
    return names == (NO_TEACHER,)


def student_names(student: str) -> tuple[str, ...]:
    """`multi` is the three of the publication; any other name is that of one network."""
    return STUDENTS if student == MULTI else (student,)


def check_student(name: str) -> None:
    """Raises UsageError for a name that timm does not know."""
    import timm

    if not timm.is_model(name):
        known = ", ".join((*STUDENTS, MULTI))
        raise UsageError(f"no student of the published method is called {name!r}", f"choose from {known}")


class LogitStudent(nn.Module):
    """A classifier as timm builds it, not pretrained, as wide as the mix. Pixels 0..255 -> [N, classes].

    Raises UsageError for a name that timm does not know.
    """

    def __init__(self, name: str, classes: int = CLASSES) -> None:
        super().__init__()
        import timm

        check_student(name)
        self.net = timm.create_model(name, pretrained=False, num_classes=classes, **_as_torchvision(name))

    def forward(self, pixels: Tensor) -> Tensor:
        """z_S."""
        out: Tensor = self.net(pixels / 127.5 - 1)
        return out


def _as_torchvision(name: str) -> dict[str, Any]:
    """What makes timm's network the one of torchvision, which the authors train."""
    if name.startswith("vgg"):
        return {"drop_rate": VGG_DROPOUT}  # before its two hidden layers; timm's has none
    if name.startswith("resnet"):
        return {"zero_init_last": False}  # timm begins with every block as the identity
    return {}
