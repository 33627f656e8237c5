"""The same score on the same tensors by others: plain torch, torch.compile and the ONNX head, timed beside the kernel.

Everything runs on torch's tensors on one GPU; the kernel takes their addresses. Whoever is not installed is named.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_cases import features
from gpu_runners import Compile, loaded

from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.score import ScoreSpec

BATCHES = (1, 8, 32, 64)


def missing() -> str:
    """Why nothing can be compared here, or nothing."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def compare(
    device: _cuda.Device, compile_kernel: Compile, spec: ScoreSpec, batches: Sequence[int] = BATCHES
) -> list[dict[str, float | str]]:
    """Microseconds of a batch by every implementation, and how often it is slower than the kernel."""
    rows: list[dict[str, float | str]] = []
    for batch in batches:
        times, notes = compare_batch(device, compile_kernel, spec, batch)
        ours = times["kernel"]
        slower = {f"{name}_ratio": value / ours for name, value in times.items() if name != "kernel"}
        rows.append({"batch": batch, **{f"{name}_us": value for name, value in times.items()}, **slower, **notes})
    return rows


def compare_batch(
    device: _cuda.Device, compile_kernel: Compile, spec: ScoreSpec, batch: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Microseconds by implementation, and why one is absent. Raises ValueError where one computes another score."""
    import torch

    from mtkd_edge.lab.graph import ScoreHead

    student, reference = features(spec, batch)
    tensors = [torch.from_numpy(array).cuda() for array in (*student, *reference)]
    head = ScoreHead(spec).cuda().eval()
    found = layout(spec)
    times, scores, notes = {}, {}, {}
    with torch.no_grad():
        with device.current() as cuda, loaded(cuda, compile_kernel(found), found, student, reference) as session:
            session.addresses = [tensor.data_ptr() for tensor in tensors]
            stream = cuda_of_torch().ExternalStream(session.stream.handle)
            times["kernel"] = timed(session.launch, stream)
            scores["kernel"] = session.results().scores
        for name, module in (("eager", head), ("compiled", torch.compile(head))):
            scores[name] = module(*tensors)[1].cpu().numpy()
            times[name] = timed(partial(module, *tensors), cuda_of_torch().current_stream())
    try:
        scores["onnx"], times["onnx"] = onnx_head(head, tensors, spec)
    except (ImportError, RuntimeError) as error:
        notes["onnx"] = f"not compared: {error}"
    for name, made in scores.items():
        if not np.allclose(made, scores["kernel"], rtol=1e-4, atol=1e-5):
            raise ValueError(f"{name} computes another score: {made[:3]} instead of {scores['kernel'][:3]}")
    return times, notes


def cuda_of_torch() -> Any:
    """torch.cuda, whose streams and events are not typed."""
    import torch

    return torch.cuda


def timed(work: Callable[[], object], stream: Any, times: int = 100) -> float:
    """Microseconds of one call, by CUDA events on the stream that it works on."""
    cuda = cuda_of_torch()
    with cuda.stream(stream):
        for _ in range(10):
            work()
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        begin.record(stream)
        for _ in range(times):
            work()
        end.record(stream)
        end.synchronize()
    return float(begin.elapsed_time(end)) / times * 1e3


def onnx_head(head: Any, tensors: Sequence[Any], spec: ScoreSpec) -> tuple[Any, float]:
    """head.onnx in ONNX Runtime on the GPU, bound to the tensors' memory. Raises RuntimeError where it has no GPU."""
    import onnxruntime
    import torch

    from mtkd_edge.lab.export import feature_names

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("this ONNX Runtime has no CUDA provider")
    names = feature_names(spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        axes = {name: {0: "N"} for name in (*names, "map", "score")}
        torch.onnx.export(
            head, tuple(tensors), path, input_names=names, output_names=["map", "score"], dynamic_axes=axes,
            opset_version=18, dynamo=False,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
    binding = session.io_binding()
    for name, tensor in zip(names, tensors, strict=True):
        binding.bind_input(name, "cuda", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
    for name in ("map", "score"):
        binding.bind_output(name, "cuda")
    # it works on a stream of its own, so a call is waited for
    waited = timed(lambda: session.run_with_iobinding(binding), cuda_of_torch().current_stream())
    return binding.copy_outputs_to_cpu()[1], waited
