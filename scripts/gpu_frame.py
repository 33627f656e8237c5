"""A whole frame on a GPU: pixels up, features, score, map down. A network of random weights in torch stands in for the
TensorRT plan of the features, so that the share of the score can be seen where TensorRT is not installed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
from gpu_cases import DEFAULT, features
from gpu_rivals import cuda_of_torch
from gpu_rows import Row, attempt, demand
from gpu_runners import Compile, loaded

from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel.layout import layout

STAGES = "upload", "features", "score", "download"


def stand_in() -> Any:
    """uint8 [N, 256, 256, 3] -> the four feature maps of the default method: students, then references."""
    import torch
    from torch import nn

    channels = [level.channels for level in DEFAULT.levels] * 2

    class StandIn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 32, 64, 128)
            steps = [(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(widths)]
            self.trunk = nn.Sequential(*(layer for step in steps for layer in step))
            self.heads = nn.ModuleList([nn.Conv2d(widths[-1], count, 1) for count in channels])

        def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
            # as a plan's features lie in memory; a permuted input would give them channels last, and the kernel others
            shared = self.trunk(frames.permute(0, 3, 1, 2).float().contiguous() / 255)
            return [head(shared) for head in self.heads]

    torch.manual_seed(0)
    return StandIn().cuda().eval()


def frame_rows(device: _cuda.Device, compile_kernel: Compile, batches: tuple[int, ...] = (1, 8)) -> Iterator[Row]:
    """Milliseconds by stage and of the whole call, with the kernel and with torch's own head."""
    for batch, scorer in product(batches, ("kernel", "torch head")):
        yield {"batch": batch, "scorer": scorer, **attempt(partial(frame_row, device, compile_kernel, batch, scorer))}


def frame_row(device: _cuda.Device, compile_kernel: Compile, batch: int, scorer: str, times: int = 100) -> Row:
    """Medians over `times` calls of `batch` frames, one stream for network and scorer.

    Raises CheckError where the kernel and torch do not score these features the same.
    """
    import torch

    from mtkd_edge.lab.graph import ScoreHead

    net, head = stand_in(), ScoreHead(DEFAULT).cuda().eval()
    found, given = layout(DEFAULT), features(DEFAULT, batch)
    with torch.no_grad(), device.current() as cuda, loaded(cuda, compile_kernel(found), found, *given) as session:
        stream = cuda_of_torch().ExternalStream(session.stream.handle)
        pinned = [torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8).pin_memory()]

        def upload() -> torch.Tensor:
            return pinned[0].cuda(non_blocking=True)

        def score(maps: list[torch.Tensor]) -> Callable[[], np.ndarray]:
            if scorer != "kernel":
                made = head(*maps)
                return lambda: [one.cpu().numpy() for one in made][1]
            session.addresses = [one.data_ptr() for one in maps]
            session.launch()
            return lambda: session.results().scores

        def same_score() -> None:
            with cuda_of_torch().stream(stream):
                maps = net(upload())
                wanted = head(*maps)[1].cpu().numpy()
                found = score(maps)()
            demand(np.allclose(found, wanted, rtol=1e-3, atol=1e-4), f"the kernel scores {found}, torch {wanted}")

        try:
            same_score()
            rows = [one_call(stream, upload, net, score) for _ in range(times + 10)][10:]
        finally:
            # torch lets go of pinned memory by an event on each stream that has read it, so it goes before the stream;
            # nobody else holds it, or the frames of a traceback would keep it
            pinned.clear()
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {"batch": batch, "scorer": scorer, **{f"{name}_ms": value for name, value in middle.items()}}


def one_call(
    stream: Any, upload: Callable[[], Any], net: Any, score: Callable[..., Callable[[], np.ndarray]]
) -> dict[str, float]:
    """Milliseconds of each stage by events, and of the call by the host's clock."""
    torch_cuda = cuda_of_torch()
    events = [torch_cuda.Event(enable_timing=True) for _ in range(len(STAGES) + 1)]
    began = time.perf_counter()
    with torch_cuda.stream(stream):
        events[0].record(stream)
        frames = upload()
        events[1].record(stream)
        maps = net(frames)
        events[2].record(stream)
        download = score(maps)
        events[3].record(stream)
        scores = download()
        events[4].record(stream)
        events[4].synchronize()
    whole = (time.perf_counter() - began) * 1e3
    if not np.isfinite(scores).all():
        raise ValueError("a frame has no finite score")
    times = [float(a.elapsed_time(b)) for a, b in pairwise(events)]
    return {**dict(zip(STAGES, times, strict=True)), "call": whole}
