"""The state of a training run on disk: safetensors and JSON, never a pickle; whole or not at all.

checkpoint/<step>.student.safetensors    weights and optimiser moments of the last saved step
checkpoint/progress.json                 that step, the history, and the sha256 of the file beside it
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load
from safetensors.torch import save as dump
from torch import Tensor, nn

from mtkd_edge.bundle import write_file
from mtkd_edge.errors import BundleError
from mtkd_edge.files import UNREADABLE

STATE, PROGRESS = "student.safetensors", "progress.json"
MODEL, MOMENTS = "model.", "moments."


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `progress.json` holds."""

    step: int
    sha256: str
    history: list[dict[str, float]]


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, history: list[dict[str, float]]
) -> None:
    """Weights first, then the file that vouches for them: a crash in between leaves the pair unmatched, and noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {MODEL + key: value.contiguous() for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{MOMENTS}{index}.{key}": value.contiguous() for key, value in state.items()}
    data = dump(tensors)
    write_file(folder / f"{step}.{STATE}", data)
    saved = Saved(step, hashlib.sha256(data).hexdigest(), history)
    write_file(folder / PROGRESS, msgspec.json.encode(saved))
    for old in folder.glob(f"*.{STATE}"):
        if old.name != f"{step}.{STATE}":
            old.unlink()


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, float]]]:
    """Fill model and optimiser from the last saved step; (0, []) where nothing was saved.

    Raises BundleError for a checkpoint that is damaged or belongs to another network.
    """
    path = folder / PROGRESS
    if not path.exists():
        return 0, []
    hint = f"delete {folder} and train again"
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
        data = (folder / f"{saved.step}.{STATE}").read_bytes()
    except (OSError, *UNREADABLE) as error:
        raise BundleError(f"{path} cannot be used: {error}", hint) from error
    if hashlib.sha256(data).hexdigest() != saved.sha256:
        raise BundleError(f"{folder}/{saved.step}.{STATE} is damaged: its sha256 is not that of {PROGRESS}", hint)
    tensors = load(data)
    try:
        model.load_state_dict({k.removeprefix(MODEL): v for k, v in tensors.items() if k.startswith(MODEL)})
    except RuntimeError as error:
        raise BundleError(f"{folder} belongs to another student: {error}", hint) from error
    restored = optimizer.state_dict()
    restored["state"] = _moments(tensors)
    optimizer.load_state_dict(restored)
    return saved.step, list(saved.history)


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(MOMENTS):
            index, name = key.removeprefix(MOMENTS).split(".")
            states.setdefault(int(index), {})[name] = value
    return states
