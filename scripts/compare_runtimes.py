"""FP32, FP16 and INT8 of one model by OpenVINO and by ONNX Runtime on this CPU, and the floor under each.

    python scripts/compare_runtimes.py RUN INT8_ENGINE [--seconds 3] [--threads 2]

Three figures: latency (one frame at a time on all threads: median and best milliseconds), throughput (as many frames at
once as there are threads, one thread each: frames a second), and the processor time of a frame on one thread. The
runtimes take turns, so that other work on the machine hurts all of them alike, each for some frames in a row, so that
none finds its weights thrown out of the caches by another; processor time is hurt least.

The floor is the processor time of a frame's operations at the rate of a large matrix product here, FP32 and INT8 each
for its share. Nothing convolves faster than that with these instructions, and nothing real reaches it. Prints Markdown.
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
from mtkd_edge.device.engines.openvino import PRECISIONS, join, read_features
from mtkd_edge.lab.explain import explain
from mtkd_edge.lab.half import halve
from mtkd_edge.places import bundle_of

Frames = NDArray[np.uint8]
Run = Callable[[Frames], object]
WARM_UP = 3
IN_A_ROW = 10
"""Frames of a turn that count. One before them does not: it finds the caches full of what others have used."""


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
    """Milliseconds of single frames, the runtimes in turn, for about `seconds` each and at least one turn."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run(frame)
    times: dict[str, list[float]] = {name: [] for name in runs}
    began, over = time.perf_counter(), False
    while not over:
        for name, run in runs.items():
            run(frame)
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                run(frame)
                times[name].append((time.perf_counter() - start) * 1e3)
        over = time.perf_counter() - began >= seconds * len(runs)
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


def processor_time(runs: dict[str, Run], frame: Frames, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time of one frame, the median of `rounds` frames in a row."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        for number in range(rounds + WARM_UP):
            began = time.process_time()
            run(frame)
            if number >= WARM_UP:
                times[name].append((time.process_time() - began) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def rate(work: Callable[[], object], macs: int) -> float:
    """Multiply-accumulates a second of processor time, the best of ten runs."""
    times = []
    for _ in range(10):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return macs / min(times)


def rates(size: int = 1024) -> dict[str, float]:
    """By precision, of a large matrix product on one thread. CPUs compute an FP16 graph in FP32."""
    value = helper.make_tensor_value_info
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = {}
    kinds = {"fp32": ("MatMul", TensorProto.FLOAT, np.float32, np.float32, TensorProto.FLOAT),
             "int8": ("MatMulInteger", TensorProto.UINT8, np.uint8, np.int8, TensorProto.INT32)}  # fmt: skip
    for name, (operator, taken, left, right, given) in kinds.items():
        weights = numpy_helper.from_array(np.ones((size, size), right), "b")
        sides = value("a", taken, [size, size]), value("c", given, [size, size])
        node = helper.make_node(operator, ["a", "b"], ["c"])
        graph = helper.make_graph([node], "product", [sides[0]], [sides[1]], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        a = np.ones((size, size), left)
        found[name] = rate(lambda session=session, a=a: session.run(None, {"a": a}), size**3)  # type: ignore[misc]
    return found | {"fp16": found["fp32"]}


def floor(features: Path, head: Path, fastest: dict[str, float]) -> float:
    """Milliseconds that the operations of one frame take at these rates."""
    found = explain(onnx.load(features), onnx.load(head), [])
    return sum(share.macs / fastest[share.name] for share in found.precisions) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    source, count = bundle_of(given.run), given.threads
    with tempfile.TemporaryDirectory() as scratch:
        half = Path(scratch, FEATURES)
        halve(source / FEATURES, half)
        graphs = {"fp32": source / FEATURES, "fp16": half, "int8": given.int8 / FEATURES}
        head = source / HEAD
        makers: dict[str, Callable[[int], Run]] = {}
        for name, graph in graphs.items():
            # OpenVINO takes the precision as a setting; a half graph is for runtimes that read it from the file
            own = source / FEATURES if name == "fp16" else graph
            makers[f"OpenVINO {name}"] = lambda n, g=own, p=name: by_openvino(g, head, p, n)  # type: ignore[misc]
            makers[f"ONNX Runtime {name}"] = lambda n, g=graph: by_onnxruntime(g, head, n)  # type: ignore[misc]
        shape = [d.dim_value for d in onnx.load(source / FEATURES).graph.input[0].type.tensor_type.shape.dim][1:]
        frame = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
        times = latencies({name: make(count) for name, make in makers.items()}, frame, given.seconds)
        spent = processor_time({name: make(1) for name, make in makers.items()}, frame, given.rounds)
        fastest = rates()
        print("| | p50 ms | best ms | frames/s | processor ms | floor |\n|---|--:|--:|--:|--:|--:|")
        rows: list[dict[str, Any]] = []
        for name, make in makers.items():
            done = throughput(lambda make=make: make(1), frame, count, given.seconds)  # type: ignore[misc]
            least = floor(graphs[name.rpartition(" ")[2]], head, fastest)
            row = {"p50": statistics.median(times[name]), "best": min(times[name]), "rate": done}
            rows.append({"name": name, **row, "processor": spent[name], "floor": least})
            print(f"| {name} | {row['p50']:.1f} | {row['best']:.1f} | {done:.1f} | {spent[name]:.1f} | {least:.1f} |")
    speeds = f"{fastest['fp32'] / 1e9:.0f} GMAC/s FP32, {fastest['int8'] / 1e9:.0f} INT8"
    print(f"\n{count} threads; matrix products on one thread: {speeds}\n{json.dumps(rows)}")


if __name__ == "__main__":
    main()
