"""The three small teachers that ship inside the package: for a factory whose network reaches no hub.

Each is a frozen feature extractor of its own structure with taps at stride 8 and stride 16. Only Conv, ReLU, Add and
MaxPool remain at run time (BatchNorm is folded into the convolutions), so all three quantise to INT8 without special
cases. `scripts/train_offline_teachers.py` trained the weights on images it makes itself; `docs/offline-teachers.md`
says on what and how good they are. This file knows nothing of training, students or distillation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mtkd_edge.errors import BundleError, UsageError

STRIDES = (8, 16)
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
WEIGHTS = Path(__file__).parent / "weights"
REINSTALL = "reinstall mtkd-edge"


class Unit(nn.Module):
    """Conv, BatchNorm while training (nothing once folded), ReLU unless `relu` is False. Same size for stride 1."""

    def __init__(
        self, inside: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups)
        self.norm: nn.Module = nn.BatchNorm2d(out)
        self.relu: nn.Module = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, out, H / stride, W / stride]."""
        y: Tensor = self.relu(self.norm(self.conv(x)))
        return y


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut, ReLU after the sum (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(Unit(inside, out, stride=stride), Unit(out, out, relu=False))
        same = inside == out and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else Unit(inside, out, 1, stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, out, H / stride, W / stride], never negative."""
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class Inverted(nn.Module):
    """Widen, depthwise 3x3, project without ReLU (MobileNetV2, https://arxiv.org/abs/1801.04381, with plain ReLU)."""

    def __init__(self, inside: int, out: int, widen: int, stride: int = 1) -> None:
        super().__init__()
        wide = inside * widen
        depthwise = Unit(wide, wide, stride=stride, groups=wide)
        self.body = nn.Sequential(Unit(inside, wide, 1), depthwise, Unit(wide, out, 1, relu=False))
        self.add = inside == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, out, H / stride, W / stride], of either sign."""
        y: Tensor = self.body(x)
        return x + y if self.add else y


class OfflineTeacher(nn.Module):
    """A trunk in two stages. `channels` maps stride to channels; `mean` and `std` are for RGB in 0..1."""

    def __init__(self, to8: nn.Sequential, to16: nn.Sequential, channels: dict[int, int]) -> None:
        super().__init__()
        self.to8, self.to16 = to8, to16
        self.channels = channels
        self.mean, self.std = MEAN, STD

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised float [N, 3, H, W] -> [[N, c8, H/8, W/8], [N, c16, H/16, W/16]]; H, W multiples of 16."""
        eighth = self.to8(x)
        return [eighth, self.to16(eighth)]


def _res() -> OfflineTeacher:
    to8 = nn.Sequential(
        Unit(3, 24, stride=2), nn.MaxPool2d(3, 2, 1), Residual(24, 24), Residual(24, 64, 2), Residual(64, 64)
    )
    return OfflineTeacher(to8, nn.Sequential(Residual(64, 112, 2), Residual(112, 112)), {8: 64, 16: 112})


def _plain() -> OfflineTeacher:
    to8 = nn.Sequential(Unit(3, 24, 5, stride=2), nn.MaxPool2d(2), Unit(24, 48), nn.MaxPool2d(2), Unit(48, 80, 5))
    return OfflineTeacher(to8, nn.Sequential(nn.MaxPool2d(2), Unit(80, 128, 5), Unit(128, 128)), {8: 80, 16: 128})


def _depthwise() -> OfflineTeacher:
    to8 = nn.Sequential(
        Unit(3, 24, stride=2),
        Unit(24, 32, stride=2),
        Inverted(32, 32, 3),
        Inverted(32, 64, 4, 2),
        Inverted(64, 64, 4),
        Inverted(64, 64, 4),
    )
    to16 = nn.Sequential(Inverted(64, 128, 4, 2), Inverted(128, 128, 3), Inverted(128, 128, 3))
    return OfflineTeacher(to8, to16, {8: 64, 16: 128})


_BUILDERS: dict[str, Callable[[], OfflineTeacher]] = {
    "offline-res": _res,
    "offline-plain": _plain,
    "offline-depthwise": _depthwise,
}
NAMES: tuple[str, ...] = tuple(_BUILDERS)


def _known(name: str) -> str:
    if name not in _BUILDERS:
        raise UsageError(f"no offline teacher is called {name!r}", f"choose from {', '.join(NAMES)}")
    return name


def untrained(name: str) -> OfflineTeacher:
    """The architecture with fresh weights and live BatchNorm, for the training script. UsageError for another name."""
    return _BUILDERS[_known(name)]()


def fold(net: OfflineTeacher) -> OfflineTeacher:
    """Fold every BatchNorm into the convolution before it, in place; the outputs in eval mode stay the same.

    The net is left in eval mode: folding takes the running statistics, which training mode would not use.
    """
    net.eval()
    for unit in net.modules():
        if isinstance(unit, Unit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv, unit.norm = fuse_conv_bn_eval(unit.conv, unit.norm), nn.Identity()
    return net


def weights_path(name: str) -> Path:
    """Where the weights of `name` lie inside the package. Raises UsageError for another name."""
    return WEIGHTS / f"{_known(name)}.safetensors"


def create(name: str) -> OfflineTeacher:
    """The teacher `name` with its weights: float32, frozen, folded, in eval mode.

    Raises UsageError for a name that is not in NAMES, BundleError when the installed package lacks or damaged its file.
    """
    data = _bytes(name)
    net = fold(untrained(name))
    try:
        net.load_state_dict({key: value.float() for key, value in load(data).items()})
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"the weights of {name} do not fit: {error}", REINSTALL) from error
    return net.requires_grad_(False)


def _bytes(name: str) -> bytes:
    path = weights_path(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"the weights of {name} cannot be read at {path}: {error.strerror}", REINSTALL) from error
