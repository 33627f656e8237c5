"""Frozen teachers: any network of timm or torchvision, a local folder, or the three that ship with the package.

    resnet18                                a timm name; weights from the hub or its cache
    hf-hub:timm/resnet18.a1_in1k            a model of the Hugging Face hub
    local-dir:./weights/resnet18            a folder in timm's hub format (config.json, model.safetensors)
    torchvision:squeezenet1_1               what timm lacks; weights from the hub or its cache
    torchvision:squeezenet1_1:./w.safetensors   the same, weights from a file
    offline-res                             ships inside the package

A teacher gives two feature maps, at strides 8 and 16, and is fed with its own mean and standard deviation. This file
knows nothing of how features are aligned, mixed or learned from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mtkd_edge.errors import DataError, MtkdError, UsageError
from mtkd_edge.lab import offline
from mtkd_edge.lab.config import short_name

STRIDES = (8, 16)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]
WEIGHTS = "model.safetensors"
AGAIN = "check the path, and copy the files of the model again"


class Teacher(nn.Module):
    """Pixels in 0..255 [N, 3, H, W] -> one feature map a stride, [N, C, H/stride, W/stride]. Frozen, eval mode."""

    mean: Tensor
    std: Tensor
    strides: tuple[int, ...] = STRIDES

    def __init__(self, name: str, source: str, trunk: nn.Module, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.name, self.source = name, source
        self.mean_std = (mean, std)
        self.trunk = trunk.eval().requires_grad_(False)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        with torch.no_grad():
            shapes = [tap.shape for tap in self(torch.zeros(1, 3, 64, 64))] if self.strides else []
        if tuple(64 // shape[-1] for shape in shapes) != self.strides:
            raise UsageError(f"{name} gives {[list(s) for s in shapes]} for 64 pixels, wanted strides {self.strides}")
        self.channels = tuple(int(shape[1]) for shape in shapes)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """The taps, ordered by stride."""
        return list(self.trunk((pixels - self.mean) / self.std))

    def train(self, mode: bool = True) -> Teacher:
        """A teacher never trains: its batch statistics stay what they are, whatever the module around it does."""
        return super().train(False)

    def digest(self) -> str:
        """sha256 over all weights: what a bundle names as this teacher."""
        total = hashlib.sha256()
        for key, value in sorted(self.trunk.state_dict().items()):
            total.update(key.encode())
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()


def load(name: str) -> Teacher:
    """The teacher called `name`, in one of the forms above.

    Raises UsageError for a name nobody knows or a network without maps at strides 8 and 16, DataError for weights that
    cannot be had: then it names the ways that need no network.
    """
    if name in offline.NAMES:
        net = offline.create(name)
        return Teacher(name, "package", net, net.mean, net.std)
    if name.startswith("torchvision:"):
        return _torchvision(name)
    return _timm(name)


def weights_file(name: str) -> Path | None:
    """Where the weights of a teacher lie that was named by a place on this disk; None for any other."""
    if name.startswith("local-dir:"):
        return Path(name.removeprefix("local-dir:"), WEIGHTS)
    return Path(name.split(":", 2)[2]) if name.startswith("torchvision:") and name.count(":") > 1 else None


def classifier(name: str) -> tuple[nn.Module, str, Triple, Triple]:
    """The whole network with its classes, where it came from, mean and std. Raises as `load` does."""
    import timm

    if name.startswith("torchvision:"):
        return *_torchvision_net(name), IMAGENET_MEAN, IMAGENET_STD
    if name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")), name)
    try:
        net = timm.create_model(name, pretrained=True)
    except (OSError, SafetensorError) as error:
        raise _missing(name, error) from error
    except (RuntimeError, ValueError) as error:
        raise _refused(name, error) from error
    return net, "local-dir" if name.startswith("local-dir:") else "hub", *_mean_std(name, net)


def _timm(name: str) -> Teacher:
    import timm

    if name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")), name)
    try:
        plan = timm.create_model(name, pretrained=False, features_only=True).feature_info.reduction()
        taps = tuple(max(i for i, r in enumerate(plan) if r == stride) for stride in STRIDES if stride in plan)
        if len(taps) != len(STRIDES):
            raise UsageError(f"{name} has maps at strides {plan}, wanted {list(STRIDES)}", "choose a convolutional net")
        net = timm.create_model(name, pretrained=True, features_only=True, out_indices=taps)
    except (OSError, SafetensorError) as error:
        raise _missing(name, error) from error
    except (RuntimeError, ValueError) as error:
        raise _refused(name, error) from error
    source = "local-dir" if name.startswith("local-dir:") else "hub"
    return Teacher(short_name(name), source, net, *_mean_std(name, net))


def _mean_std(name: str, net: nn.Module) -> tuple[Triple, Triple]:
    """Mean and standard deviation the weights were trained with: from the folder itself, else from timm."""
    if name.startswith("local-dir:"):
        config = _config(Path(name.removeprefix("local-dir:")), name)
        found = config.get("pretrained_cfg", config)
    else:
        found = getattr(net, "pretrained_cfg", None) or {}
    mean, std = (found.get(key) or default for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    return _triple(mean, name), _triple(std, name)


def _triple(values: Sequence[float], name: str) -> Triple:
    try:
        first, second, third = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: three numbers wanted as mean and as std, got {values}", AGAIN) from error
    return first, second, third


def _config(folder: Path, name: str) -> dict[str, Any]:
    """config.json of a folder in timm's hub format. Raises DataError for another."""
    try:
        found: Any = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: config.json cannot be read: {_reason(error)}", AGAIN) from error
    config: dict[str, Any] = found if isinstance(found, dict) else {}
    if not isinstance(config.get("architecture"), str) or not isinstance(config.get("pretrained_cfg", {}), dict):
        what = f"{name}: config.json is not in timm's hub format, which names an architecture and its pretrained_cfg"
        raise DataError(what, "copy config.json and model.safetensors of a model of timm into one folder")
    return config


def _check_folder(folder: Path, name: str) -> None:
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise DataError(
                f"{name}: {folder / file} is missing, wanted a folder in timm's hub format",
                "copy config.json and model.safetensors of the model into one folder",
            )
    _config(folder, name)


def _torchvision_net(name: str) -> tuple[nn.Module, str]:
    """The whole network, and where its weights came from."""
    import torchvision

    _, model, *path = name.split(":", 2)
    try:
        net = torchvision.models.get_model(model, weights=None if path else "DEFAULT")
        if path:
            net.load_state_dict({key: value.float() for key, value in load_file(path[0]).items()})
    except (OSError, SafetensorError) as error:
        raise _unreachable(name, error) from error
    except (RuntimeError, ValueError) as error:
        raise _refused(name, error) from error
    return net, path[0] if path else "hub"


def _torchvision(name: str) -> Teacher:
    net, source = _torchvision_net(name)
    model = short_name(name)
    layers = getattr(net, "features", None)
    if not isinstance(layers, nn.Sequential):
        raise UsageError(f"{name} has no plain sequence of feature layers to tap", f"try the timm name {model!r}")
    return Teacher(model, source, _Tapped(layers), IMAGENET_MEAN, IMAGENET_STD)


class _Tapped(nn.Module):
    """The last layer of a sequence at each stride, found by feeding it once."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        last: dict[int, int] = {}
        x = torch.zeros(1, 3, 512, 512)
        with torch.no_grad():
            for index, layer in enumerate(layers.eval()):
                x = layer(x)
                # pooling without padding loses a row here and there: 31 of 32 is still stride 16
                last[2 ** round(math.log2(512 / x.shape[-1]))] = index
        missing = [stride for stride in STRIDES if stride not in last]
        if missing:
            raise UsageError(f"this network has maps at strides {sorted(last)}, wanted {list(STRIDES)}")
        self.taps = [last[stride] for stride in STRIDES]
        self.layers = layers[: self.taps[-1] + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Layer by layer, keeping the tapped ones; pooling that rounds down is padded to a whole stride."""
        side = x.shape[-2:]
        taps: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                stride = STRIDES[len(taps)]
                taps.append(nn.functional.interpolate(x, (side[0] // stride, side[1] // stride), mode="bilinear"))
        return taps


def _unreachable(name: str, error: Exception) -> DataError:
    ways = (
        "without a network: --preset offline, or --teachers local-dir:./folder,..., or copy the hub's cache "
        "(~/.cache/huggingface/hub, ~/.cache/torch/hub) from a machine that has it"
    )
    return DataError(f"the weights of {name} cannot be had: {_reason(error)}", AGAIN if _on_disk(name) else ways)


def _missing(name: str, error: Exception) -> MtkdError:
    """The hub answered that it has no such model, or nobody answered."""
    from huggingface_hub.errors import RepositoryNotFoundError

    return _refused(name, error) if isinstance(error, RepositoryNotFoundError) else _unreachable(name, error)


def _refused(name: str, error: Exception) -> MtkdError:
    """Nothing was missing: a name that nobody knows, with those near it, or weights of something else."""
    import timm
    import torchvision

    if name.startswith("torchvision:"):
        prefix, model, known = "torchvision:", short_name(name).lower(), torchvision.models.list_models()
    else:
        prefix, model, known = "", name, [*timm.list_pretrained(), *offline.NAMES]
    bare = {full.partition(".")[0] for full in known}
    if name.startswith("local-dir:") or (_on_disk(name) and model in known):
        return DataError(f"{name} cannot be loaded: {_reason(error)}", AGAIN)
    if model in known or model in bare or name.startswith("hf-hub:"):
        return UsageError(f"{name} cannot be loaded: {_reason(error)}", "choose another teacher: --teachers A,B,C")
    near = [prefix + each for each in difflib.get_close_matches(model, sorted(known if "." in model else bare))]
    hint = f"the nearest names are {', '.join(near)}" if near else "a model of timm, hf-hub:NAME or local-dir:FOLDER"
    return UsageError(f"no model with weights is called {name!r}: {_reason(error)}", hint)


def _on_disk(name: str) -> bool:
    return name.startswith("local-dir:") or (name.startswith("torchvision:") and name.count(":") > 1)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
