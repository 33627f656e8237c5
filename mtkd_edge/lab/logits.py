"""Networks that end in class logits: the published method's teachers, and its students."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtkd_edge.errors import UsageError
from mtkd_edge.lab import offline, teachers
from mtkd_edge.lab.teachers import Teacher

CLASSES = 1000


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


def load_logits(name: str) -> Teacher:
    """The classifier called `name`, in the forms of `teachers`. Raises UsageError for a network without logits."""
    if name in offline.NAMES:
        raise UsageError(f"{name} has no class logits, the published method needs them", "--method map")
    net, source, mean, std = teachers.classifier(name)
    with torch.no_grad():
        shape = net.eval()(torch.zeros(1, 3, 224, 224)).shape
    if len(shape) != 2 or shape[1] < CLASSES:
        raise UsageError(f"{name} gives {list(shape)}, wanted the logits of 1000 classes", "--method map")
    return LogitTeacher(name.rstrip("/").rpartition("/")[2], source, _Logits(net), mean, std)


class LogitStudent(nn.Module):
    """The paper's student: ResNet-18, not pretrained, as wide as the mix. Pixels 0..255 -> [N, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model("resnet18", pretrained=False, num_classes=classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """z_S."""
        out: Tensor = self.net(pixels / 127.5 - 1)
        return out
