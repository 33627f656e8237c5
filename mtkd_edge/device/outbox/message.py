"""An event as the bytes that leave the machine: JSON with the keys of `events/record.py`, with its photo if asked."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from mtkd_edge.device.events.record import Event


def encode(event: Event, station: str, root: Path | None = None) -> bytes:
    """One JSON object. `station` says which one sent it; with `root`, the store's folder, `image_jpeg` is the photo in
    base64, and null where it cannot be read: retention may have deleted it meanwhile, and an alarm counts more.
    """
    body = {"station": station, **msgspec.to_builtins(event)}
    if root is not None:
        body["image_jpeg"] = _photo(root / event.image) if event.image else None
    return msgspec.json.encode(body)


def _photo(path: Path) -> str | None:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None
