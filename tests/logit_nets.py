"""Classifiers with 1000 classes that are made in a moment: real folders in timm's hub format, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

SMALL = ("test_resnet", "test_efficientnet", "test_byobnet")
"""Architectures that timm has for its own tests: 0.3 to 0.5 million weights, 1000 classes."""


def write_teachers(root: Path, count: int = 2) -> tuple[str, ...]:
    """`count` teacher folders under `root`; the names to give to --teachers."""
    names = []
    for seed, name in enumerate(SMALL[:count]):
        torch.manual_seed(seed)
        folder = root / name
        folder.mkdir(parents=True)
        net = timm.create_model(name, pretrained=False)
        save_file(net.state_dict(), folder / "model.safetensors")
        config = {"num_classes": 1000, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
        (folder / "config.json").write_text(json.dumps({"architecture": name, **config, "pretrained_cfg": config}))
        names.append(f"local-dir:{folder}")
    return tuple(names)
