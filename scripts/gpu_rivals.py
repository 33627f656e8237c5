"""The same score on the same tensors by others: plain torch, torch.compile and the ONNX head, timed beside the kernel.

Everything runs on torch's tensors on one GPU; the kernel takes their addresses. Whoever is not installed is named.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from gpu_cases import Arrays, features
from gpu_rows import NotHereError, Row, attempt, demand
from gpu_runners import Compile, loaded
from numpy.typing import NDArray

from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel.layout import layout
from mtkd_edge.score import ScoreSpec, oracle

BATCHES = (1, 8, 32, 64)
NAMES = "kernel", "eager", "compiled", "onnx"
PROVIDER = "CUDAExecutionProvider"
Timed = tuple[NDArray[np.floating], float]
"""Scores of the batch, and microseconds of one call."""


def missing() -> str:
    """Why nothing can be compared here, or nothing."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def compare(
    device: _cuda.Device, compile_kernel: Compile, spec: ScoreSpec, batches: Sequence[int] = BATCHES
) -> Iterator[Row]:
    """A row an implementation and batch, the kernel's first: microseconds, and how many times the kernel's.

    Whoever fails, or computes another score than the oracle, has a reason in place of a time. The slow ones to compile
    come last, so that they cannot take the time of the others.
    """
    ready: dict[int, tuple[NDArray[np.floating], dict[str, Callable[[], Timed]]]] = {}
    for batch in batches:
        found = attempt(partial(rivals_of, device, compile_kernel, spec, batch))
        if isinstance(found, dict):
            yield {"batch": batch, **found}
        else:
            ready[batch] = found
    ours: dict[int, float] = {}
    for name, (batch, (wanted, rivals)) in product(NAMES, ready.items()):
        row = {"batch": batch, "by": name, **attempt(partial(judged, rivals[name], wanted))}
        if name == "kernel" and "us" in row:
            ours[batch] = row["us"]
        if "us" in row and batch in ours:
            row["times_the_kernel"] = row["us"] / ours[batch]
        yield row


def rivals_of(
    device: _cuda.Device, compile_kernel: Compile, spec: ScoreSpec, batch: int
) -> tuple[NDArray[np.floating], dict[str, Callable[[], Timed]]]:
    """The oracle's scores of one batch, and whoever computes them by name."""
    import torch

    from mtkd_edge.lab.graph import ScoreHead

    given = features(spec, batch)
    tensors = [torch.from_numpy(array).cuda() for arrays in given for array in arrays]
    head = ScoreHead(spec).cuda().eval()
    rivals = (
        partial(by_kernel, device, compile_kernel, spec, given, tensors), partial(by_torch, head, tensors),
        partial(by_compiler, head, tensors), partial(by_onnx, head, tensors),
    )  # fmt: skip
    return oracle(spec, *given)[1], dict(zip(NAMES, rivals, strict=True))


def judged(rival: Callable[[], Timed], wanted: NDArray[np.floating]) -> Row:
    """The time of a rival. Raises CheckError where it computes another score."""
    scores, microseconds = rival()
    demand(np.allclose(scores, wanted, rtol=1e-4, atol=1e-5), f"another score: {scores[:3]} instead of {wanted[:3]}")
    return {"us": microseconds}


def by_kernel(
    device: _cuda.Device, compile_kernel: Compile, spec: ScoreSpec, given: tuple[Arrays, Arrays], tensors: Sequence[Any]
) -> Timed:
    """Our own, on torch's tensors."""
    found = layout(spec)
    with device.current() as cuda, loaded(cuda, compile_kernel(found), found, *given) as session:
        session.addresses = [tensor.data_ptr() for tensor in tensors]
        microseconds = timed(session.launch, cuda_of_torch().ExternalStream(session.stream.handle))
        return session.results().scores, microseconds


def by_torch(module: Any, tensors: Sequence[Any]) -> Timed:
    """The head as it is, or compiled."""
    import torch

    with torch.no_grad():
        scores = module(*tensors)[1].cpu().numpy()
        return scores, timed(partial(module, *tensors), cuda_of_torch().current_stream())


def by_compiler(head: Any, tensors: Sequence[Any]) -> Timed:
    """The head by torch.compile. Raises NotHereError without Triton."""
    import torch

    if importlib.util.find_spec("triton") is None:
        raise NotHereError("Triton is not installed, in which torch.compile writes its kernels")
    # for this batch alone: from the second size on torch would compile one slower kernel for all of them
    return by_torch(torch.compile(head, dynamic=False), tensors)


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


def by_onnx(head: Any, tensors: Sequence[Any]) -> Timed:
    """head.onnx in ONNX Runtime on the GPU, bound to the tensors' memory. Raises NotHereError where it has no GPU."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotHereError("ONNX Runtime is not installed")
    import onnxruntime
    import torch

    if PROVIDER not in onnxruntime.get_available_providers():
        raise NotHereError("this ONNX Runtime has no CUDA provider")
    names = [f"feature_{number}" for number in range(len(tensors))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        axes = {name: {0: "N"} for name in (*names, "map", "score")}
        torch.onnx.export(
            head, tuple(tensors), path, input_names=names, output_names=["map", "score"], dynamic_axes=axes,
            opset_version=18, dynamo=False,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), providers=[(PROVIDER, {"use_tf32": "0"})])
    # one whose libraries do not load is left out with a line in the log, and the CPU would be timed
    if PROVIDER not in session.get_providers():
        raise NotHereError("ONNX Runtime's CUDA provider does not load; it would compute on the CPU")
    binding = session.io_binding()
    for name, tensor in zip(names, tensors, strict=True):
        binding.bind_input(name, "cuda", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
    for name in ("map", "score"):
        binding.bind_output(name, "cuda")
    # it works on a stream of its own, so a call is waited for
    waited = timed(lambda: session.run_with_iobinding(binding), cuda_of_torch().current_stream())
    return binding.copy_outputs_to_cpu()[1], waited
