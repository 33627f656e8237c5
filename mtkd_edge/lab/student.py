"""The student: one compact network that predicts the mix of all teachers from the pixels."""

from __future__ import annotations

from torch import Tensor, nn

from mtkd_edge.lab.config import WIDTHS
from mtkd_edge.lab.letterbox import WHOLE, View


def _unit(inside: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Student(nn.Module):
    """Pixels [N, 3, H, W] in 0..255 -> [N, channels, H/8, W/8]. Plain 3x3 convolutions: they quantise and fuse well.

    It sees stride 16 as its teachers do and comes back to stride 8, where their maps meet. Its one output convolution
    is a head for each block of the mix. `view` as in `Mix`.
    """

    def __init__(self, channels: int, width: int, view: View = WHOLE) -> None:
        super().__init__()
        self.view = view
        self.trunk = nn.Sequential(
            _unit(3, width // 4, 2),
            _unit(width // 4, width // 2, 2),
            _unit(width // 2, width, 2),
            _unit(width, width),
            _unit(width, 2 * width, 2),
            _unit(2 * width, 2 * width),
            _unit(2 * width, 2 * width),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _unit(2 * width, width),
        )
        self.heads = nn.Conv2d(width, channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Blocks in the mix's order, before weighting."""
        return self.view.placed(self.heads(self.trunk((self.view.seen(pixels) - 127.5) / 64)), pixels)


def create(name: str, channels: int, view: View = WHOLE) -> Student:
    """A fresh student; `name` is one of WIDTHS, which TrainConfig has checked."""
    return Student(channels, WIDTHS[name], view)
