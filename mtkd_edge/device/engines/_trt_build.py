"""ONNX file -> TensorRT plan, by the one sequence of calls that TensorRT 10.3 to 11 and TensorRT for RTX share.

Three habits of this API decide the code: the numbers of its enums moved in version 11, so members are looked up by
name; failures are return values (`None`, `False`) and lines in a log, so each is turned into a BackendError with those
lines; networks are strongly typed, so the precision is what the file says.

The vendor's module is an argument: `tensorrt.py` and `tensorrt_rtx.py` import it.
"""

from __future__ import annotations

import contextlib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mtkd_edge.bundle import FEATURES, HEAD, write_file
from mtkd_edge.device.engines import _trt_plans
from mtkd_edge.device.engines._cache import user_cache
from mtkd_edge.device.targets import Batch, Target, TensorrtRecipe
from mtkd_edge.errors import BackendError, BundleError

HINT = "mtkd-edge doctor"
PLANS = {"plan.features": FEATURES, "plan.head": HEAD}
"""The plans of an engine folder and the graphs they are made of; the head stays its own, so that it stays exact."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build. `exact`: no TF32, and NaN stays NaN. `timings`: a file of measurements kept between builds."""

    batch: Batch
    recipe: TensorrtRecipe
    exact: bool
    timings: Path | None = None


def build_plans(
    trt: ModuleType, folder: Path, target: Target, precision: str, gpu: str, timings: Path | None = None
) -> dict[str, str]:
    """Write both plans into an engine folder that holds the graphs; what `check_machine` will want to know of them.

    A plan of an earlier build is taken where graph, recipe, TensorRT and GPU are the same.
    """
    for plan, graph in PLANS.items():
        order = Order(target.batch, target.tensorrt, graph == HEAD or precision == "fp32", timings)
        builder = f"{trt.__name__} {trt.__version__}"
        wanted = _trt_plans.key(folder / graph, order.batch, order.recipe, order.exact, builder, gpu)
        build = functools.partial(build_plan, trt, folder / graph, order)
        write_file(folder / plan, _trt_plans.kept_or_built(wanted, build))
    yes = {True: "yes", False: "no"}
    return {
        "version": str(trt.__version__),
        "gpu": gpu,
        "version_compatible": yes[target.tensorrt.version_compatible],
        "hardware_compatible": yes[target.tensorrt.hardware_compatible],
        "cuda_graph": yes[target.tensorrt.cuda_graph],
    }


def build_plan(trt: ModuleType, graph: Path, order: Order) -> bytes:
    """The serialised engine. Raises BackendError with the words of the parser or the builder."""
    log = make_log(trt)
    builder = trt.Builder(log)
    network = made(builder.create_network(strongly_typed(trt)), "a network", log)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BackendError(f"{trt.__name__} {trt.__version__} does not take {graph}: {reasons or log.reason()}", HINT)
    config = configure(trt, builder, order)
    profile = made(builder.create_optimization_profile(), "a profile", log)
    sizes = order.batch.min, order.batch.opt, order.batch.max
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        profile.set_shape(tensor.name, *((size, *tuple(tensor.shape)[1:]) for size in sizes))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{trt.__name__} refuses batches of {sizes} for {graph}: {log.reason()}", HINT)
    plan = made(builder.build_serialized_network(network, config), f"a plan of {graph}", log)
    if order.timings is not None and (cache := config.get_timing_cache()) is not None:
        # the plan is made: measurements that cannot be kept only make the next build slower
        with contextlib.suppress(OSError, BundleError):
            order.timings.parent.mkdir(parents=True, exist_ok=True)
            write_file(order.timings, bytes(cache.serialize()))
    return bytes(plan)


def configure(trt: ModuleType, builder: Any, order: Order) -> Any:
    """The builder's configuration of a recipe."""
    config, recipe = builder.create_builder_config(), order.recipe
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mib << 20)
    config.builder_optimization_level = recipe.optimization_level
    if order.exact:
        config.clear_flag(member(trt, "BuilderFlag", "TF32"))
        # without it the builder may assume that no value is NaN, and a NaN must reach the score
        if (strict := member(trt, "BuilderFlag", "STRICT_NANS", required=False)) is not None:
            config.set_flag(strict)
    if recipe.version_compatible:
        config.set_flag(member(trt, "BuilderFlag", "VERSION_COMPATIBLE"))
    if recipe.hardware_compatible:
        config.hardware_compatibility_level = member(trt, "HardwareCompatibilityLevel", "AMPERE_PLUS")
    if order.timings is not None:
        known = order.timings.read_bytes() if order.timings.is_file() else b""
        cache = config.create_timing_cache(known)
        # a cache of another version or GPU is refused, and the build then starts from an empty one
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config


def timings_file(trt: ModuleType, gpu: str) -> Path:
    """Where the measurements of one TensorRT on one GPU are kept."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{trt.__name__}-{trt.__version__}-{gpu}").strip("-")
    return user_cache() / f"{slug}.timings"


def strongly_typed(trt: ModuleType) -> int:
    """The flags of `create_network`; STRONGLY_TYPED is 1 in TensorRT 10 and 0 in 11."""
    return 1 << int(member(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"))


def member(trt: ModuleType, enum: str, name: str, required: bool = True) -> Any:
    """A member of one of the module's enums by its name. Raises BackendError where a required one is absent."""
    found = getattr(getattr(trt, enum), "__members__", {}).get(name)
    if found is None and required:
        raise BackendError(f"{trt.__name__} {trt.__version__} has no {enum}.{name}", "use a release from 10.3 to 11")
    return found


def made(result: Any, what: str, log: Any) -> Any:
    """TensorRT's `None` as the error that it is."""
    if result is None:
        raise BackendError(f"TensorRT did not make {what}: {log.reason()}", HINT)
    return result


def make_log(trt: ModuleType) -> Any:
    """A logger that keeps the errors. A class cannot be written before its base, which the module brings, is known."""
    severe = {member(trt.ILogger, "Severity", name) for name in ("INTERNAL_ERROR", "ERROR")}

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                self.errors.append(message.strip())

        def reason(self) -> str:
            return "; ".join(self.errors[-3:]) or "it gave no reason"

    return Log()
