"""What `watch` is asked for, as one configuration: from a file, or from the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.sources.base import Source
    from mtkd_edge.device.station.config import Config


def from_file(path: Path, words: Mapping[str, object]) -> tuple[Config, list[Source]]:
    """The configuration and its sources. Raises UsageError for words that the file says as well."""
    from mtkd_edge.device.station import config
    from mtkd_edge.device.station.station import open_all

    if given := [word for word, value in words.items() if value]:
        raise UsageError(f"--config says all there is to say, and {', '.join(given)} was given too", f"--config {path}")
    found = config.read(path)
    return found, open_all(found, path.parent)


def from_words(texts: list[str], follow: bool, out: Path | None) -> tuple[Config, list[Source]]:
    """The configuration that the command line stands for, and its sources. Raises UsageError or SourceError."""
    from mtkd_edge.device.sources import open_sources
    from mtkd_edge.device.station.config import Config, Events
    from mtkd_edge.device.station.config import Source as Wanted

    if not texts:
        raise UsageError("watch wants a SOURCE or --config", "mtkd-edge watch /dev/video0")
    sources = open_sources(texts, follow)
    events = Events(folder=str(out.absolute())) if out is not None else None
    wanted = tuple(Wanted(address=source.name) for source in sources)
    return Config(source=wanted, events=events), sources
