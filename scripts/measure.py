"""Measure the whole chain on labelled data: train, build FP32 and INT8, evaluate, bench, watch the test photos.

    python scripts/measure.py DATA --seeds 0,1,2 --out measured/NAME [train options, e.g. --preset offline]

Every step is the command a user types, each in its own process, so that its seconds and its peak memory are its own.
Writes OUT/measured.json and prints a Markdown table: mean and standard deviation over the seeds. A gate that refuses an
INT8 build stops the script: a table without that row would be a lie. Chooses nothing; test labels are read by
`mtkd-edge evaluate` alone. Data without masks have no figures per pixel: a dash.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "int8")
COLUMNS = ("image_auroc", "pixel_auroc", "aupro", "false_alarm_rate", "detection_rate", "p50_ms")


def run(arguments: list[str]) -> tuple[str, dict[str, float]]:
    """One command in a process of its own: its stdout, its seconds and its peak resident MB. Exits where it fails."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "mtkd_edge", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"mtkd-edge {' '.join(arguments)} ended with {code}: {text}")
    return text, {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(usage.ru_maxrss / 1024)}


def measure(data: Path, seed: int, out: Path, options: list[str]) -> dict[str, Any]:
    """One seed: everything measured, by step and by precision."""
    folder = out / f"seed{seed}"
    model = folder / "run"
    result: dict[str, Any] = {"seed": seed}
    result["train"] = run(["train", str(data), "--out", str(model), "--seed", str(seed), *options])[1]
    for precision in PRECISIONS:
        engine = folder / precision
        build = ["build-engine", str(model), f"--{precision}", "--out", str(engine)]
        built = run([*build, "--target", "cpu", "--calibration", str(folder / "calibration"), "--json"])
        found = json.loads(run(["evaluate", str(engine), str(data), "--json"])[0])
        bench = json.loads(run(["bench", str(engine), "--batch", "1", "--json"])[0])
        figures = {key: found[key] for key in COLUMNS if key in found}
        gate = json.loads(built[0])["gate"]
        result[precision] = {**figures, "p50_ms": total_p50(bench), "gate": gate, "build": built[1]}
    verdicts, watched = run(["watch", str(data / "test"), "--engine", str(folder / "int8"), "--json"])
    result["watch"] = {"verdicts": len(verdicts.splitlines()), **watched}
    return result


def total_p50(bench: dict[str, Any]) -> float:
    """Median milliseconds of one frame through engine and score, from `bench --json`."""
    return float(bench["rows"][0]["call"]["p50"])


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, as Markdown; a dash for what the photos do not allow."""
    lines = ["| | " + " | ".join(PRECISIONS) + " |", "|---|" + "--:|" * len(PRECISIONS)]
    for column in COLUMNS:
        cells = [spread([result[precision][column] for result in results]) for precision in PRECISIONS]
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation. A figure is None where `evaluate` has none: per pixel, there are no masks."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.mean(known):.4f} ± {statistics.stdev(known) if len(known) > 1 else 0.0:.4f}"


def main() -> None:
    """Measure all seeds; each is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    known, options = parser.parse_known_args()
    if not (known.data / "test").is_dir():
        sys.exit(
            f"{known.data} has no test/: wanted train/good/, test/good/, test/<defect>/, and masks for pixel figures"
        )
    results = []
    for seed in map(int, known.seeds.split(",")):
        results.append(measure(known.data, seed, known.out, options))
        (known.out / "measured.json").write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
