"""Exported models timed in turn in one process: ours in INT8 and FP32, the rivals in FP32, all by OpenVINO on this CPU.

Every model takes one uint8 frame, ours of the size that its photos got, and gives its map and score. A frame's time
does not depend on the weights, so STFPM, Reverse Distillation, PaDiM and EfficientAD-S are timed as they are even
where they have not been trained; PatchCore's time depends on its bank, so its graph is one that was filled.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
from compare_runtimes import Run, by_openvino, latencies, processor_time
from rivals_costs import SIDE
from rivals_work import spend

from mtkd_edge.bundle import FEATURES, HEAD, load_bundle, load_engine
from mtkd_edge.frames import FrameSpec
from mtkd_edge.places import bundle_of

UNTRAINED = ("stfpm", "padim", "rd", "efficientad")
ROUNDS = 20


def export_untrained(python: Path, child: Path, weights: Path, out: Path) -> None:
    """Graphs OUT/<rival>.onnx of the methods whose time no training changes, where they are missing."""
    with tempfile.TemporaryDirectory() as scratch:
        noise = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
        for side in ("train", "test"):
            np.save(Path(scratch, f"{side}.npy"), noise)
        for rival in UNTRAINED:
            if not (graph := out / f"{rival}.onnx").exists():
                command = [str(python), str(child), rival, scratch, scratch, "--weights", str(weights)]
                spend([*command, "--onnx", str(graph)], 10, 1)


def from_onnx(path: Path, threads: int) -> Run:
    """One frame at a time through a rival's graph, in FP32 as it was exported."""
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, SIDE, SIDE, 3])
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda frame: request.infer([frame])


def of_ours(folder: Path, frame: FrameSpec, precision: str, threads: int) -> Run:
    """A model of ours, shown a frame of its own size: a letterbox is larger than the rivals' frames."""
    run = by_openvino(folder / FEATURES, folder / HEAD, precision, threads)
    shown = np.random.default_rng(1).integers(1, 256, (1, frame.height, frame.width, 3), dtype=np.uint8)
    return lambda _: run(shown)


def measure(
    ours: Path, graphs: dict[str, Path], threads: int, seconds: float, also: Sequence[Path] = ()
) -> dict[str, dict[str, float]]:
    """Figures by method; `ours` holds run/ and int8/, `also` are more engines of ours, which keep their folder's path.

    Median and best ms on `threads` threads, processor ms on one, and `ratio`: the median over the frames of its time by
    that of our INT8 engine in the same turn.
    """
    bundle = bundle_of(ours / "run")
    size = load_bundle(bundle).frame

    def all_runs(count: int) -> dict[str, Run]:
        runs = {
            "ours-int8": of_ours(ours / "int8", size, "int8", count),
            "ours": of_ours(bundle, size, "fp32", count),
        }
        for engine in also:
            found = load_engine(engine)
            runs[str(engine)] = of_ours(engine, found.model.frame, found.precision, count)
        return runs | {name: from_onnx(path, count) for name, path in graphs.items()}

    frame = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    times = latencies(all_runs(threads), frame, seconds)
    spent = processor_time(all_runs(1), frame, ROUNDS)
    first = times["ours-int8"]
    return {
        name: {
            "p50": statistics.median(found),
            "best": min(found),
            "processor": spent[name],
            "ratio": statistics.median(other / mine for other, mine in zip(found, first, strict=True)),
        }
        for name, found in times.items()
    }


def table(rows: dict[str, dict[str, float]], names: dict[str, str]) -> str:
    """Markdown."""
    lines = ["| one frame, OpenVINO | p50 ms | best ms | processor ms | times ours in INT8 |", "|---|--:|--:|--:|--:|"]
    for method, row in rows.items():
        cells = (f"{row[key]:.1f}" for key in ("p50", "best", "processor"))
        lines.append(f"| {names.get(method, method)} | {' | '.join(cells)} | {row['ratio']:.2f} |")
    return "\n".join(lines)
