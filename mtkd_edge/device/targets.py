"""Target recipes: what `build-engine --target NAME` means, one TOML file each.

A recipe says which runtime, which precision and batch, how much memory the builder may use, and what the gate demands.
This file knows nothing of graphs or engines. A slip in a recipe is a UsageError that names the key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from mtkd_edge.errors import UsageError
from mtkd_edge.files import UNREADABLE

PACKAGE = Path(__file__).resolve().parent.parent
HINT = "mtkd-edge build-engine --target cpu"


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The batch sizes a plan must serve, and the one it is tuned for. OpenVINO engines use `max` alone."""

    min: int = 1
    opt: int = 1
    max: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"wanted 1 <= min <= opt <= max, got {self.min}, {self.opt}, {self.max}")


class OpenvinoRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`threads`: 0 = all. `hint`: one frame soonest ("latency"), or most frames a second ("throughput")."""

    hint: Literal["latency", "throughput"] = "latency"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (all) or more, got {self.threads}")


class TensorrtRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What TensorRT's builder is told. `workspace_mib` bounds the scratch memory of any one tactic.

    `optimization_level` 0 builds fastest, 5 searches longest. `version_compatible` plans run on later TensorRT
    versions, `hardware_compatible` ones on other GPUs of the same or a later generation; both cost speed, and the first
    hold code for the CPU, which may run when they are opened. `cuda_graph` is of the run and not of the plan: a batch
    is launched as one graph, where that works.
    """

    workspace_mib: int = 1024
    optimization_level: int = 3
    version_compatible: bool = False
    hardware_compatible: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.workspace_mib < 16:
            raise ValueError(f"workspace_mib must be at least 16, got {self.workspace_mib}")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level goes from 0 to 5, got {self.optimization_level}")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a quantised engine must reach against the FP32 graph; the figures are explained in `device/gate.py`."""

    spearman: float = 0.99
    auroc_drop: float = 0.002
    flips: float = 0.005


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recipe. Tables that do not concern its backend are allowed, and not used."""

    name: str
    backend: Literal["openvino", "tensorrt", "tensorrt_rtx"]
    precision: Literal["int8", "fp16", "fp32"] = "int8"
    batch: Batch = Batch()
    openvino: OpenvinoRecipe = OpenvinoRecipe()
    tensorrt: TensorrtRecipe = TensorrtRecipe()
    gate: Limits = Limits()


def folders() -> tuple[Path, ...]:
    """Where recipes are looked for, in order: the user's own, the installed package's, the checkout's."""
    return Path("engines"), PACKAGE / "targets", PACKAGE.parent / "engines"


def known() -> tuple[str, ...]:
    """The names of all recipes that can be found."""
    return tuple(sorted({path.stem for folder in folders() for path in folder.glob("*.toml")}))


def load(name: str) -> Target:
    """A recipe by its name ("cpu"), or by the path of a TOML file. Raises UsageError for an unknown or wrong one."""
    if name.endswith(".toml") or "/" in name:
        return read(Path(name))
    for folder in folders():
        if (folder / f"{name}.toml").is_file():
            return read(folder / f"{name}.toml")
    raise UsageError(f"no target is called {name!r}; known are: {', '.join(known()) or 'none'}", HINT)


def read(path: Path) -> Target:
    """A recipe from its file. Raises UsageError naming the file, the key and what is wrong with it."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Target)
    except OSError as error:
        raise UsageError(f"the target {path} cannot be read: {error.strerror}", HINT) from error
    except UNREADABLE as error:
        raise UsageError(f"{path} is not a target recipe: {error}", "compare it with engines/cpu.toml") from error
