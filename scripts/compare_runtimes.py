"""FP32, FP16 and INT8 of one model by OpenVINO and by ONNX Runtime on this CPU, and the floor under each.

    python scripts/compare_runtimes.py RUN INT8_ENGINE [--seconds 3] [--threads 2]

Two modes: latency (one frame at a time on all threads: median and best milliseconds) and throughput (as many frames at
once as there are threads, one thread each: frames a second). The runtimes take turns frame by frame, so that other work
on the machine hurts all of them alike; `best` is what a quiet machine would show.

The floor is the operations of a frame by the rate of a large matrix product here, FP32 and INT8 each for its share.
Nothing convolves faster than that with these instructions, and nothing real reaches it. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mtkd_edge.bundle import FEATURES, HEAD
from mtkd_edge.device.bench import multiply_rate
from mtkd_edge.device.engines.openvino import PRECISIONS, join, read_features
from mtkd_edge.lab.explain import explain
from mtkd_edge.lab.half import halve
from mtkd_edge.places import bundle_of

Frames = NDArray[np.uint8]
Run = Callable[[Frames], object]
WARM_UP = 3


def by_openvino(features: Path, head: Path, precision: str, threads: int) -> Run:
    """One frame at a time through features and head as one model."""
    core = openvino.Core()
    model = join(read_features(core, features)[0], core.read_model(head))
    _, height, width, channels = model.input(0).partial_shape
    model.reshape([1, height.get_length(), width.get_length(), channels.get_length()])
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
    compiled = core.compile_model(model, "CPU", config | {"INFERENCE_NUM_THREADS": str(threads)})
    requests = [compiled.create_infer_request()]
    return lambda frame: requests[0].infer([frame])


def by_onnxruntime(features: Path, head: Path, threads: int) -> Run:
    """The same two graphs, one after the other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    first, second = (
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (features, head)
    )
    names = [value.name for value in first.get_outputs()]

    def run(frame: Frames) -> object:
        made = first.run(names, {"frames": frame})
        return second.run(["map", "score"], dict(zip(names, made, strict=True)))

    return run


def latencies(runs: dict[str, Run], frame: Frames, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of single frames, the runtimes in turn, for about `seconds` each."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run(frame)
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds * len(runs):
        for name, run in runs.items():
            start = time.perf_counter()
            run(frame)
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def throughput(make: Callable[[], Run], frame: Frames, threads: int, seconds: float) -> float:
    """Frames a second of `threads` single-threaded copies at once; both runtimes let go of Python's lock."""
    copies = [make() for _ in range(threads)]
    for run in copies:
        run(frame)
    began = time.perf_counter()

    def work(run: Run) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            run(frame)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, copies))
    return done / (time.perf_counter() - began)


def int8_rate(threads: int, size: int = 1024) -> float:
    """Multiply-accumulates a second of an INT8 matrix product through ONNX Runtime, best of ten."""
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    weights = numpy_helper.from_array(np.ones((size, size), np.int8), "b")
    sides = value("a", TensorProto.UINT8, [size, size]), value("c", TensorProto.INT32, [size, size])
    graph = helper.make_graph([node], "product", [sides[0]], [sides[1]], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = np.ones((size, size), np.uint8)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        session.run(None, {"a": a})
        times.append(time.perf_counter() - start)
    return size**3 / min(times)


def measured_rates(threads: int) -> dict[str, float]:
    """Multiply-accumulates a second by precision. CPUs compute an FP16 graph in FP32."""
    single = multiply_rate()
    return {"fp32": single, "fp16": single, "int8": int8_rate(threads)}


def floors(features: Path, head: Path, rates: dict[str, float]) -> float:
    """Milliseconds that the operations of one frame take at these rates."""
    found = explain(onnx.load(features), onnx.load(head), [])
    return sum(share.macs / rates[share.name] for share in found.precisions) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    source, count = bundle_of(given.run), given.threads
    with tempfile.TemporaryDirectory() as scratch:
        half = Path(scratch, FEATURES)
        halve(source / FEATURES, half)
        graphs = {"fp32": source / FEATURES, "fp16": half, "int8": given.int8 / FEATURES}
        head = source / HEAD
        rates = measured_rates(count)
        makers: dict[str, Callable[[int], Run]] = {}
        for name, graph in graphs.items():
            # OpenVINO takes the precision as a setting; a half graph is for runtimes that read it from the file
            own = source / FEATURES if name == "fp16" else graph
            makers[f"OpenVINO {name}"] = lambda n, g=own, p=name: by_openvino(g, head, p, n)  # type: ignore[misc]
            makers[f"ONNX Runtime {name}"] = lambda n, g=graph: by_onnxruntime(g, head, n)  # type: ignore[misc]
        shape = [d.dim_value for d in onnx.load(source / FEATURES).graph.input[0].type.tensor_type.shape.dim][1:]
        frame = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
        times = latencies({name: make(count) for name, make in makers.items()}, frame, given.seconds)
        # again, because a floor measured while the machine was busy is none
        rates = {name: max(rate, rates[name]) for name, rate in measured_rates(count).items()}
        print("| | p50 ms | best ms | frames/s | floor ms |\n|---|--:|--:|--:|--:|")
        rows: list[dict[str, Any]] = []
        for name, make in makers.items():
            rate = throughput(lambda make=make: make(1), frame, count, given.seconds)  # type: ignore[misc]
            least = floors(graphs[name.rpartition(" ")[2]], head, rates)
            row = {"p50": statistics.median(times[name]), "best": min(times[name]), "rate": rate, "floor": least}
            rows.append({"name": name, **row})
            print(f"| {name} | {row['p50']:.1f} | {row['best']:.1f} | {rate:.1f} | {least:.1f} |")
    print(f"\n{count} threads; matrix products: {rates['fp32'] / 1e9:.0f} GMAC/s FP32, {rates['int8'] / 1e9:.0f} INT8")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
