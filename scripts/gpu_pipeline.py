"""The runtime's own engine on a GPU: two batches under way, maps copied as wanted, one CUDA graph a batch.

The engine is `TensorrtEngine` itself. Where no engine folder is given, a network of random weights in torch takes
TensorRT's place behind it (`TorchTensorrt`), so that upload, kernel, streams, events and graphs are the real ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
from gpu_cases import DEFAULT
from gpu_frame import stand_in
from gpu_rivals import cuda_of_torch
from gpu_rows import NotHereError, Row, attempt, demand
from gpu_runners import Compile

from mtkd_edge.bundle import load_engine
from mtkd_edge.device.engine import STEADY, Bounds, EngineOptions, Frames, Inference
from mtkd_edge.device.engines import _cuda, open_engine
from mtkd_edge.device.engines._trt_run import Fusion, TensorrtEngine
from mtkd_edge.device.kernel.build import Fused
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.errors import UsageError

SIDE = 256
WAYS = "alone", "overlapped", "overlapped, scores only"
NAMES = tuple(f"{side}_{number}" for side in ("student", "reference") for number in range(len(DEFAULT.levels)))
Open = Callable[[bool], TensorrtEngine]
"""Whether as a CUDA graph -> engine."""


def tensor_at(address: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> Any:
    """A torch tensor over device memory that is not torch's."""
    import torch

    interface = {"data": (address, False), "shape": shape, "typestr": kind.str, "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")


class TorchTensorrt:
    """As much of TensorRT's module as `TensorrtEngine` uses."""

    __name__, __version__ = "torch in place of tensorrt", ""
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        """As TensorRT's."""

        Severity = SimpleNamespace(__members__={"INTERNAL_ERROR": 0, "ERROR": 1})

    def nptype(self, kind: type) -> type:
        """Types are numpy's already."""
        return kind

    def Runtime(self, log: object) -> Any:  # noqa: N802 - TensorRT's name
        """Its only plan is the stand-in."""
        return SimpleNamespace(deserialize_cuda_engine=lambda data: TorchPlan())


class TorchPlan:
    """Engine and execution context in one: uint8 frames in, the feature maps of the default method out."""

    def __init__(self) -> None:
        self._net = stand_in()
        features = [(level.channels, level.height, level.width) for level in DEFAULT.levels] * 2
        self._shapes = {"frames": (SIDE, SIDE, 3), **dict(zip(NAMES, features, strict=True))}
        self._addresses: dict[str, int] = {}
        self._count = 0
        # made once: a capture may find no work that is not queued
        self._tensor = cache(tensor_at)
        self.num_io_tensors = len(self._shapes)

    def create_execution_context(self) -> TorchPlan:
        """Itself."""
        return self

    def get_tensor_name(self, index: int) -> str:
        """As TensorRT's."""
        return list(self._shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        """As TensorRT's."""
        return "input" if name == "frames" else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """As TensorRT's."""
        return -1, *self._shapes[name]

    def get_tensor_dtype(self, name: str) -> type:
        """A numpy type."""
        return np.uint8 if name == "frames" else np.float32

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """As TensorRT's."""
        self._count = shape[0]
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        """As TensorRT's."""
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        """As TensorRT's."""
        import torch

        torch_cuda = cuda_of_torch()
        with torch.no_grad(), torch_cuda.stream(torch_cuda.ExternalStream(handle)):
            for name, values in zip(NAMES, self._net(self._at("frames")), strict=True):
                self._at(name).copy_(values)
        return True

    def _at(self, name: str) -> Any:
        shape = self._count, *self._shapes[name]
        return self._tensor(self._addresses[name], shape, np.dtype(self.get_tensor_dtype(name)))


def torch_engines(device: _cuda.Device, compile_kernel: Compile, batch: int = 8) -> Open:
    """Engines with the stand-in."""
    found = layout(DEFAULT)
    fusion = Fusion(Fused(compile_kernel(found), found), NAMES)
    trt = cast(ModuleType, TorchTensorrt())
    return lambda graph: TensorrtEngine(trt, device, [b"", b""], batch=batch, fusion=fusion, cuda_graph=graph)


def folder_engines(folder: Path) -> tuple[Open, tuple[int, int, int]]:
    """Engines of a folder that was built here, and the shape of its frames. Raises BundleError, UsageError."""
    manifest = load_engine(folder)
    frame = manifest.model.frame
    if manifest.backend == "openvino":
        raise UsageError(f"{folder} is an engine for {manifest.backend}, which needs no GPU")

    def opened(graph: bool) -> TensorrtEngine:
        engine = open_engine(folder, manifest, EngineOptions(cuda_graph=graph))
        assert isinstance(engine, TensorrtEngine), "every other backend is TensorRT's"
        return engine

    return opened, (frame.height, frame.width, 3)


def batches(shape: tuple[int, ...], count: int, batch: int) -> list[Frames]:
    """Frames of noise."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (batch, *shape), dtype=np.uint8) for _ in range(count)]


def overlapped(engine: TensorrtEngine, given: Sequence[Frames], bounds: Bounds | None = None) -> Iterator[Inference]:
    """Each batch is given before the result of the one in front of it is asked for."""
    before: int | None = None
    for frames in given:
        ticket = engine.submit(frames, bounds)
        if before is not None:
            yield engine.collect(before)
        before = ticket
    if before is not None:
        yield engine.collect(before)


def try_out(opened: Open, shape: tuple[int, ...]) -> str:
    """An engine opens, and scores one frame."""
    with opened(False) as engine:
        made = engine.infer(batches(shape, 1, 1)[0])
        demand(bool(np.isfinite(made.scores).all()), "the score of a frame of noise is not finite")
        return f"{engine.name} takes batches of 1 to {engine.batch}, in {', '.join(made.stages)}"


def two_batches(opened: Open, shape: tuple[int, ...]) -> str:
    """Overlapped batches have the bits of single ones, and the maps that are not wanted are not copied."""
    with opened(False) as engine:
        given = batches(shape, 20, min(2, engine.batch))
        single = [engine.infer(frames) for frames in given]
        same_results(list(overlapped(engine, given)), single, "overlapped")
        scores = np.concatenate([one.scores for one in single])
        bounds = Bounds(float(np.median(scores)), math.inf)
        for ours, theirs in zip(overlapped(engine, given, bounds), single, strict=True):
            demand(ours.scores.tobytes() == theirs.scores.tobytes(), "other scores with bounds")
            wanted = theirs.scores > bounds.score
            has_map = ours.has_map if ours.has_map is not None else np.ones_like(wanted)
            demand(bool((has_map >= wanted).all()), "a map that is wanted was not copied")
            demand(ours.maps[has_map].tobytes() == theirs.maps[has_map].tobytes(), "another map with bounds")
    return f"{len(given)} batches of {len(given[0])}: the same bits overlapped as alone, and the maps that were wanted"


def graphs(opened: Open, shape: tuple[int, ...]) -> str:
    """A CUDA graph of the batch has the bits of its steps. Raises NotHereError where there can be none."""
    with opened(False) as engine:
        given = batches(shape, STEADY + 20, min(2, engine.batch))
        single = [engine.infer(frames) for frames in given]
        smaller = [engine.infer(frames[:1]) for frames in given[:3]]  # a network's bits may depend on the batch
    with opened(True) as engine:
        found = list(overlapped(engine, given))
        same_results(found, single, "as a graph")
        if engine.remark:
            raise NotHereError(engine.remark)
        demand(list(found[-1].stages) == ["graph"], "no graph was launched")
        same_results([engine.infer(frames[:1]) for frames in given[:3]], smaller, "in a smaller batch")
    return f"{len(given) - STEADY} graphs, overlapped: the same bits as step by step; another size after it"


def same_results(ours: Sequence[Inference], theirs: Sequence[Inference], how: str) -> None:
    """Raises CheckError unless the bits are the same."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        same = one.maps.tobytes() == other.maps.tobytes() and one.scores.tobytes() == other.scores.tobytes()
        demand(same, f"batch {number} has other bits {how}")


def pipeline_rows(
    opened: Open, shape: tuple[int, ...], sizes: Sequence[int] = (1, 8), times: int = 200
) -> Iterator[Row]:
    """Milliseconds a batch and frames a second: step by step or as a graph, one at a time or overlapped."""
    for graph in (False, True):
        rows = engine_rows(opened, graph, shape, sizes, times)
        while (row := attempt(partial(next, rows, None))) is not None:
            yield {"graph": "yes" if graph else "no", **row}


def engine_rows(opened: Open, graph: bool, shape: tuple[int, ...], sizes: Sequence[int], times: int) -> Iterator[Row]:
    """The rows of one engine."""
    with opened(graph) as engine:
        for size in [size for size in sizes if size <= engine.batch]:
            few = batches(shape, 4, size)
            warm, given = (few * STEADY)[: STEADY + 4], few * (times // 4)
            for way in WAYS:
                work(engine, warm, way)
                began = time.perf_counter()
                done = work(engine, given, way)
                each = (time.perf_counter() - began) / len(done)
                # what was asked for as a graph and launched step by step is no figure of a graph
                kind = ("yes" if "graph" in done[-1].stages else "refused") if graph else "no"
                row = {"graph": kind, "batch": size, "batches": way, "ms": each * 1e3, "frames_per_s": size / each}
                yield {**row, "remark": engine.remark}


def work(engine: TensorrtEngine, frames: Sequence[Frames], way: str) -> list[Inference]:
    """Infer all batches in one of WAYS."""
    if way == "alone":
        return [engine.infer(one) for one in frames]
    bounds = Bounds(math.inf, math.inf) if way.endswith("only") else None
    return list(overlapped(engine, frames, bounds))
