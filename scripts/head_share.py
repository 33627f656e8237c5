"""How much of a frame the scoring head takes on a CPU: joined model, features alone and head alone, in turns.

    OMP_NUM_THREADS=2 python scripts/head_share.py engines/NAME-cpu --threads 2

Runs are interleaved, so that what disturbs one disturbs all. The share is that of the head as a model of its own: by
the fastest run of each, and by the median of the processor time, which does not count what other programs take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mtkd_edge.bundle import FEATURES, HEAD, load_engine
from mtkd_edge.device.engines import openvino


def measure(folder: Path, threads: int, calls: int) -> dict[str, float]:
    """Milliseconds of one frame: the fastest run and the median processor time of each, and the shares of the head."""
    manifest = load_engine(folder)
    core = openvino.core()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": openvino.PRECISIONS[manifest.precision],
        "INFERENCE_NUM_THREADS": str(threads),
    }
    features, _ = openvino.read_features(core, folder / FEATURES)
    joined = openvino.join(features.clone(), core.read_model(folder / HEAD))
    head = core.read_model(folder / HEAD)
    spec, frame = manifest.model.score, manifest.model.frame
    maps = {n: [1, one.channels, one.height, one.width] for n, one in zip(
        manifest.model.feature_names(), (*spec.levels, *spec.levels), strict=True)}  # fmt: skip
    head.reshape(maps)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, frame.height, frame.width, 3), dtype=np.uint8)
    runs: dict[str, Callable[[], object]] = {}
    for name, model in (("joined", joined), ("features", features), ("head", head)):
        if name != "head":
            model.reshape(list(pixels.shape))
        request = core.compile_model(model, "CPU", config).create_infer_request()
        given = [pixels] if name != "head" else [rng.normal(size=s).astype(np.float32) for s in maps.values()]
        runs[name] = partial(request.infer, given, share_inputs=True, share_outputs=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(calls):
        for name, run in runs.items():
            began, worked = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - began) * 1e3)
            cpu[name].append((time.process_time() - worked) * 1e3)
    best = {name: min(values) for name, values in times.items()}
    work = {f"{name} cpu": statistics.median(values) for name, values in cpu.items()}
    shares = {"share": best["head"] / best["joined"], "share of cpu time": work["head cpu"] / work["joined cpu"]}
    return {key: round(value, 4) for key, value in {**best, **work, **shares}.items()}


def main() -> None:
    """Print one JSON object an engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=300)
    given = parser.parse_args()
    for folder in given.engine:
        print(json.dumps({"engine": folder.name, **measure(folder, given.threads, given.calls)}))


if __name__ == "__main__":
    main()
