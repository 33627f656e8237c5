"""What `watch` is asked for, as one configuration: from a file, or from the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mtkd_edge.cli import console
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.device.serve.state import Watcher
    from mtkd_edge.device.sources.base import Source
    from mtkd_edge.device.station.config import Config
    from mtkd_edge.device.station.station import Judge, Station

UNLIMITED = 1e6


def from_file(path: Path, words: Mapping[str, object]) -> Config:
    """The configuration. Raises UsageError for words of the command line that say what the file says as well."""
    from mtkd_edge.device.station import config

    if given := [word for word, value in words.items() if value]:
        raise UsageError(f"--config says all there is to say, and {', '.join(given)} was given too", f"--config {path}")
    return config.read(path)


def from_words(texts: list[str], follow: bool, out: Path | None, serve: str) -> tuple[Config, list[Source]]:
    """The configuration that the command line stands for, and its sources. Raises UsageError or SourceError."""
    import msgspec

    from mtkd_edge.device.sources import open_sources
    from mtkd_edge.device.station.config import Config, Events, Serve
    from mtkd_edge.device.station.config import Source as Wanted

    sources = open_sources(texts, follow)
    try:
        shown = msgspec.convert({"address": serve}, Serve) if serve else None
    except msgspec.ValidationError as error:
        raise UsageError(f"--serve: {error}", "--serve 127.0.0.1:8080") from error
    # whoever names a folder for one run wants all of it; limits are for stations that run for weeks
    events = Events(folder=str(out.absolute()), gigabytes=UNLIMITED) if out is not None else None
    wanted = tuple(Wanted(address=source.name) for source in sources)
    return Config(source=wanted, events=events, serve=shown), sources


@contextmanager
def page(
    config: Config, base: Path, station: Station, judge: Judge, engine: str, sources: Sequence[Source]
) -> Iterator[Watcher | None]:
    """The page that was asked for, until the end of the block; None where none was."""
    if config.serve is None:
        yield None
        return
    from mtkd_edge.device.serve.open import Page

    live = [source.live for source in sources]
    with closing(Page(config.serve, base, station, judge, config.station, engine, live)) as shown:
        console.note(f"the page: {shown.address}")
        yield shown.watcher
