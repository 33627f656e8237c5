"""Plans that were built before: a build of the same graph, recipe, TensorRT and GPU takes seconds and not minutes.

    <user cache>/plans/<key>.plan    32 bytes of sha256, then the plan

The key is of everything that a plan depends on, and never of a plan's bytes: two builds of one graph differ in them.
A file that is cut off or damaged is no plan, and is built again. What counts for an engine is the manifest beside it;
this folder only saves time and may be deleted at any moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from mtkd_edge.bundle import sha256, write_file
from mtkd_edge.device.engines._cache import user_cache
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import BundleError

KEPT = 16
"""So many plans, the newest, are kept: two for each of eight engines."""
DIGEST = 32


class Key(msgspec.Struct, frozen=True):
    """What a plan depends on. `builder` is the module and its version, `gpu` the device or "none"."""

    graph: str
    batch: Batch
    recipe: TensorrtRecipe
    exact: bool
    builder: str
    gpu: str

    def digest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


def key(graph: Path, batch: Batch, recipe: TensorrtRecipe, exact: bool, builder: str, gpu: str) -> Key:
    """The key for a graph file. Raises BundleError where it cannot be read."""
    plain = msgspec.structs.replace(recipe, cuda_graph=False)  # the same plan is run with and without
    return Key(sha256(graph), batch, plain, exact, builder, gpu)


def kept_or_built(wanted: Key, build: Callable[[], bytes], folder: Path | None = None) -> bytes:
    """The plan of an earlier build, or that of `build`, which is then kept. Raises what `build` raises."""
    place = folder or user_cache() / "plans"
    path = place / f"{wanted.digest()}.plan"
    plan = read(path)
    if plan is None:
        plan = build()
        keep(path, plan)
    return plan


def read(path: Path) -> bytes | None:
    """The plan in a file; None where there is none or it is not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    plan = data[DIGEST:]
    return plan if plan and hashlib.sha256(plan).digest() == data[:DIGEST] else None


def keep(path: Path, plan: bytes) -> None:
    """Write a plan, all or nothing, and forget the oldest beyond `KEPT`. A folder that takes none is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, hashlib.sha256(plan).digest() + plan)
        known = sorted(path.parent.glob("*.plan"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for old in known[KEPT:]:
            old.unlink(missing_ok=True)
    except (OSError, BundleError):
        # the plan is made: where it cannot be kept, only the next build is slower
        return
