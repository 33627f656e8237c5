"""Events for whoever asks: rows of CSV, JSON lines, and a folder of their pictures."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from mtkd_edge.device.events.record import Event
from mtkd_edge.errors import DataError

COLUMNS = (
    *("id", "kind", "source", "seq", "time", "state", "score", "threshold", "regions", "reason", "path"),
    *("engine", "seal", "image", "heat", "latched", "about", "boot", "monotonic", "part"),
)
UNSAFE = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula: a file name is not trusted that far."""


def time_of(event: Event) -> str:
    """When the frame was captured, as the machine believed: ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(event.wall, timezone.utc).isoformat(timespec="milliseconds")


def to_csv(events: Iterable[Event]) -> str:
    """A header and one row an event; `regions` is their number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for event in events:
        values = {**msgspec.structs.asdict(event), "time": time_of(event), "regions": len(event.regions)}
        writer.writerow([_cell(values[column]) for column in COLUMNS])
    return out.getvalue()


def to_jsonl(events: Iterable[Event]) -> bytes:
    """One JSON object a line, with the keys of `record.Event`."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def copy_pictures(root: Path, events: Sequence[Event], out: Path) -> int:
    """Copy the pictures of the events into one folder, under their ids -> how many. Raises DataError.

    A picture that retention has deleted meanwhile is left out.
    """
    copied = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        for event in events:
            for name in filter(None, (event.image, event.heat)):
                try:
                    shutil.copyfile(root / name, out / Path(name).name)
                except FileNotFoundError:
                    continue
                copied += 1
    except OSError as error:
        raise DataError(f"pictures cannot be copied to {out}: {error.strerror}", "choose another place") from error
    return copied


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(UNSAFE):
        return f"'{value}"
    return getattr(value, "value", value)
