"""The report of `gpu_report.py` on the disk: report.json and report.md, whole after every addition."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_rows import Row

from mtkd_edge.bundle import write_file

JSON, MARKDOWN = "report.json", "report.md"
TITLES = {
    "copy": "Copy bandwidth", "empty_launch": "An empty launch", "default": "Default method", "paper": "Paper's method",
    "blocks": "Block sizes", "rivals": "The same score by others",
    "frame": "A whole frame, a network in torch standing in", "pipeline": "Two batches under way, and CUDA graphs",
    "resources": "What a thread takes", "seconds": "Seconds that each section took",
}  # fmt: skip


class Report:
    """What has been found so far. Whatever ends this process, what was added before is on the disk.

    `again`: the rest of the report that is there is kept. Raises BundleError where the disk does not take it.
    """

    def __init__(self, out: Path, about: Row, again: bool = False) -> None:
        before: Row = json.loads((out / JSON).read_text()) if again and (out / JSON).is_file() else {}
        self.found: Row = {"checks": {}, **before, **about}
        self._out = out

    def took(self, name: str, began: float) -> None:
        """Add the seconds of a section that began then, by time.monotonic(), and tell whoever looks on."""
        seconds = time.monotonic() - began
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)
        self.add({"seconds": {name: seconds}})

    def grow(self, name: str, rows: Iterable[Row]) -> None:
        """Add a table, row by row as they come."""
        found: list[Row] = []
        self.add({name: found})
        for row in rows:
            found.append(row)
            self.add({name: found})

    def check(self, name: str, row: Row) -> None:
        """Add the row of a check."""
        self.add({"checks": {name: row}})

    def add(self, found: Row) -> None:
        """Add sections, or new rows of those that are sections by name: checks and seconds."""
        for key, value in found.items():
            before = self.found.get(key)
            self.found[key] = {**before, **value} if key in ("checks", "seconds") and before else value
        # a number of some library must not keep the rest from the disk
        text = json.dumps(self.found, indent=1, default=str) + "\n"
        write_file(self._out / JSON, text.encode())
        write_file(self._out / MARKDOWN, markdown(self.found).encode())


def markdown(report: Row) -> str:
    """The report for people."""
    compiler = report.get("compiler", "none")
    lines = [f"# Scoring kernel on {report['gpu']}", "", f"{report['machine']}, compiler {compiler}", ""]
    lines += table([{"check": name, **row} for name, row in report["checks"].items()])
    if "copy_gb_per_s" in report:
        lines += ["", f"Copy bandwidth {report['copy_gb_per_s']:.0f} GB/s, read and written counted."]
    for key, title in TITLES.items():
        if key in report:
            value = report[key]
            lines += ["", f"## {title}", "", *table(value if isinstance(value, list) else [value])]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Rows as a Markdown table; "none" for none."""
    if not rows:
        return ["none"]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    body = [f"| {' | '.join(cell(row.get(key, '')) for key in keys)} |" for row in rows]
    return [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}", *body]


def cell(value: Any) -> str:
    """A value in a table, on one line whatever an error says."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(str(value).split()).replace("|", "\\|")
