"""Engines on CPUs through OpenVINO: features.onnx and head.onnx joined into one compiled model.

The inference precision is always stated. Left alone, OpenVINO computes FP32 graphs in bfloat16 on processors that can
(AMX, AVX512_BF16), and the same engine would give other scores on another machine.

Knows nothing of thresholds, verdicts or how a graph was quantised. The only file that imports openvino.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import onnx_data
from mtkd_edge.bundle import FEATURES, HEAD, EngineManifest
from mtkd_edge.device.engine import EngineOptions, Frames, Inference, check_frames
from mtkd_edge.device.engines import _blobs
from mtkd_edge.device.engines._cache import user_cache
from mtkd_edge.errors import BackendError

if TYPE_CHECKING:
    import openvino

PRECISIONS = {"fp32": "f32", "int8": "f32", "fp16": "f16"}
"""What is computed in where the graph itself does not say INT8."""
HINT = "mtkd-edge doctor"


class OpenvinoEngine:
    """One model, compiled for one frame (least latency) and, when first asked for, for `batch` frames.

    A call with N frames runs as many full batches as fit and the rest one by one: on a CPU a padded batch costs more.
    Raises BackendError with OpenVINO's words for a graph it does not take.
    """

    def __init__(
        self,
        features: Path,
        head: Path,
        *,
        batch: int = 1,
        precision: str = "fp32",
        hint: str = "latency",
        threads: int = 0,
        cache: Path | None = None,
        name: str = "openvino",
    ) -> None:
        self.name, self.batch = name, batch
        self._config = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = str(threads)
        self._cache, self._path = cache, features
        self._requests: dict[int, Any] = {}
        self._features: Any = None
        onnx_data.demand(features)
        onnx_data.demand(head)
        try:
            self._core = core()
            graph, self._names = read_features(self._core, features)
            self._model = join(graph, self._core.read_model(head))
            _, height, width, _ = self._model.input(0).partial_shape
            self._frame = height.get_length(), width.get_length(), 3
            self._request(1)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {features.parent}: {words(error)}", HINT) from error

    def infer(self, frames: Frames) -> Inference:
        """frames: [N, height, width, 3] uint8. Raises BackendError with OpenVINO's own words."""
        self._check(frames)
        began = time.perf_counter()
        outputs = [self._run(frames[start:stop]) for start, stop in slices(len(frames), self.batch)]
        maps, scores = (np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*outputs, strict=True))
        return Inference(maps, scores, {"infer": (time.perf_counter() - began) * 1e3})

    def features(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """The outputs of the feature graph by name; compiled when first asked for. Errors as in `infer`."""
        self._check(frames)
        try:
            if self._features is None:
                # read again: the first copy became a part of the joined model
                graph, _ = read_features(self._core, self._path)
                self._features = self._core.compile_model(graph, "CPU", self._config)
            found = self._features(frames)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refused the features: {words(error)}", HINT) from error
        return {name: np.array(found[name]) for name in self._names}

    def precision(self) -> str:
        """What the compiled model really computes in, in OpenVINO's words."""
        return str(self._requests[1].get_compiled_model().get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def macs(self) -> int:
        """Multiply-accumulates of one frame, counted in the graph: convolutions and matrix products."""
        model = self._model.clone()
        model.reshape([1, *self._frame])
        return sum(_macs(node) for node in model.get_ops())

    def close(self) -> None:
        """Frees the compiled models. Calling it twice is harmless."""
        self._requests.clear()
        self._features = self._core = self._model = None

    def __enter__(self) -> OpenvinoEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, frames: Frames) -> None:
        if self._core is None:
            raise BackendError(f"the engine {self.name} is closed")
        check_frames(frames, self._frame, self.batch)

    def _run(self, frames: Frames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            request = self._request(len(frames))
            request.infer([np.ascontiguousarray(frames)], share_inputs=True, share_outputs=True)
            # shared outputs are the request's own memory, which the next call overwrites
            return request.get_tensor("map").data.copy(), request.get_tensor("score").data.copy()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refused {len(frames)} frames: {words(error)}", HINT) from error

    def _request(self, count: int) -> Any:
        """The infer request for exactly `count` frames: fixed shapes are what OpenVINO runs fastest."""
        if count not in self._requests:
            model = self._model.clone()
            model.reshape([count, *self._frame])
            cache = _blobs.usable(self._cache) if self._cache else None
            config = self._config | ({"CACHE_DIR": str(cache)} if cache else {})
            self._requests[count] = self._core.compile_model(model, "CPU", config).create_infer_request()
            if cache:
                _blobs.seal(cache)
        return self._requests[count]


def open_engine(folder: Path, manifest: EngineManifest, options: EngineOptions) -> OpenvinoEngine:
    """An engine folder whose manifest is read already -> engine. Raises BackendError."""
    return OpenvinoEngine(
        folder / FEATURES,
        folder / HEAD,
        batch=manifest.batch[2],
        precision=manifest.precision,
        hint=options.hint or manifest.built.get("hint", "latency"),
        threads=options.threads or int(manifest.built.get("threads", "0")),
        cache=options.cache or cache_folder(folder),
        name=f"{manifest.model.name}-{manifest.target}",
    )


def core() -> openvino.Core:
    """OpenVINO's entry point. Raises BackendError where the package is missing or broken."""
    try:
        import openvino
    except ImportError as error:
        raise BackendError(f"OpenVINO cannot be imported: {error}", "pip install openvino") from error
    return openvino.Core()


def versions() -> dict[str, str]:
    """{"openvino": version, "device": processor}, for the manifest of an engine."""
    import openvino

    return {
        "openvino": openvino.get_version(),
        "device": str(core().get_property("CPU", "FULL_DEVICE_NAME")).strip(),
    }


def read_features(core: openvino.Core, path: Path) -> tuple[openvino.Model, list[str]]:
    """features.onnx ready to compile, and the names of its outputs.

    Every Concat that is quantised afterwards gets a second user, a slice of one value. Without it OpenVINO 2026.4 moves
    the quantisation before the Concat and then rounds its inputs to whole numbers: 28 % error, found by the gate.
    """
    from openvino import opset8

    model = core.read_model(path)
    names = [output.any_name for output in model.outputs]
    for node in model.get_ordered_ops():
        users = {user.get_node().get_type_name() for out in node.outputs() for user in out.get_target_inputs()}
        if node.get_type_name() == "Concat" and "FakeQuantize" in users:
            one = opset8.slice(node.output(0), *([value] for value in (0, 1, 1, 1)))
            model.add_results([opset8.result(one)])
    return model, names


def join(features: openvino.Model, head: openvino.Model) -> openvino.Model:
    """pixels -> features, features -> map and score: one model, joined by the names of the features."""
    import openvino

    made = {name: output.get_node().input_value(0) for output in features.outputs for name in output.names}
    for wanted in head.inputs:
        if wanted.any_name not in made:
            raise BackendError(
                f"head.onnx wants {wanted.any_name!r}, features.onnx makes {', '.join(sorted(made))}",
                "build the bundle again: its two graphs do not belong together",
            )
        for user in wanted.get_node().output(0).get_target_inputs():
            user.replace_source_output(made[wanted.any_name])
    unnamed = [output.get_node() for output in features.outputs if not output.names]
    return openvino.Model([*head.get_results(), *unnamed], features.get_parameters(), "joined")


def slices(count: int, batch: int) -> list[tuple[int, int]]:
    """How `count` frames are run: full batches, then single frames."""
    full = count - count % batch
    return [(i, i + batch) for i in range(0, full, batch)] + [(i, i + 1) for i in range(full, count)]


def cache_folder(folder: Path) -> Path:
    """Where compiled models are kept for the next start: with the engine, or with the user where that is read-only."""
    if os.access(folder, os.W_OK):
        return folder / "cache"
    return user_cache() / "openvino"


def words(error: Exception) -> str:
    """The line of OpenVINO's stack of messages that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Exception from")), type(error).__name__)


def _macs(node: Any) -> int:
    """Multiply-accumulates of one node of a model with fixed shapes."""
    kind = node.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        weight, out = node.input_value(1).get_shape(), node.output(0).get_shape()
        # Convolution: [out, in, kh, kw]; GroupConvolution: [groups, out, in, kh, kw]
        return int(math.prod(weight[-3:]) * math.prod(out))
    if kind == "MatMul":
        left, transposed = node.input_value(0).get_shape(), node.get_attributes()["transpose_a"]
        return int(left[-2 if transposed else -1] * math.prod(node.output(0).get_shape()))
    return 0
