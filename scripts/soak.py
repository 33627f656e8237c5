"""A station of two cameras, a hot folder, MQTT and a webhook, broken every few seconds; then: what has it kept?

    python scripts/soak.py --minutes 3                  prints its progress, then the report; ends with 1 if broken
    python scripts/soak.py --minutes 60 --out measured/soak

Everything is real but the network in the engine: `mtkd-edge watch --config`, GStreamer's RTSP server, mosquitto, HTTP,
a disk of its own. Needs scripts/install_test_tools.sh and the extras `dev` and `train` (onnx makes the engine). Filling
the disk takes root or user namespaces, setting the clock g++; without, those faults are left out, as the report says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec
import soak_disk
import soak_judge
import soak_report
import soak_run

HOUR = 3600.0


def main() -> None:
    """Run, report, and end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for report.md, report.json and record.json")
    parser.add_argument("--apart", type=float, help="seconds between two ends of the station [see `apart`]")
    parser.add_argument("--bounds", default="{}", help='other bounds, as JSON: {"back": 4}')
    parser.add_argument("--record", type=Path, help="judge the record.json of an earlier soak again, and run nothing")
    words = parser.parse_args()
    bounds = msgspec.json.decode(words.bounds, type=soak_judge.Bounds)
    seconds = words.minutes * 60
    if words.record:
        record = msgspec.json.decode(words.record.read_bytes(), type=soak_run.Record)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
            record = soak_run.soak(Path(folder), seconds, words.seed, words.apart or apart(seconds), say)
    if words.out:  # first: what was seen is kept whatever comes of it
        words.out.mkdir(parents=True, exist_ok=True)
        (words.out / "record.json").write_bytes(msgspec.json.encode(record))
    checks = soak_judge.judge(record, bounds)
    text = soak_report.markdown(record, checks)
    if words.out:
        (words.out / "report.md").write_text(text)
        report = msgspec.json.encode(soak_report.report(record, checks))
        (words.out / "report.json").write_bytes(msgspec.json.format(report, indent=1) + b"\n")
    print(text)
    if failed := soak_judge.broken(checks):
        sys.exit("broken: " + "; ".join(check.name for check in failed))


def apart(seconds: float) -> float:
    """A quarter of the time, 50 s at least; from an hour on three quarters, or no life were long enough for memory."""
    return 0.75 * seconds if seconds >= HOUR else max(50.0, seconds / 4)


def say(text: str) -> None:
    """Progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    soak_disk.enter_namespace()
    main()
