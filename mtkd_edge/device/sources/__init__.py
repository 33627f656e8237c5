"""From what a user types to a source. Nothing is guessed: what fits no form is refused, with the forms named."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path

from mtkd_edge import frames
from mtkd_edge.device.sources import pipeline
from mtkd_edge.device.sources.address import SCHEMES, redact, scheme
from mtkd_edge.device.sources.base import Captured, Source, SourceOptions
from mtkd_edge.device.sources.isolated import Isolated
from mtkd_edge.device.sources.messages import Plan
from mtkd_edge.device.sources.photos import Listing, Photos, is_photo, walk
from mtkd_edge.device.sources.video import SUFFIXES as VIDEOS
from mtkd_edge.errors import SourceError

__all__ = ["Captured", "Source", "SourceOptions", "open_source", "open_sources"]

FORMS = "a folder, a glob in quotes, a photo, a video, a camera (0, /dev/video0), rtsp://camera/1 or 'gst:PIPELINE'"
DEFAULT = SourceOptions()


def open_sources(texts: Sequence[str], follow: bool = False, options: SourceOptions = DEFAULT) -> list[Source]:
    """All sources of one command line, with names that differ. Single photos, as a shell's `*.png` gives them, are one.

    Raises SourceError for the first that is wrong, and for one that is given twice.
    """
    if not texts:
        raise SourceError("no source was given", f"give {FORMS}")
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise SourceError(f"{redact(text)} is given twice", "give every source once")
    photos = [] if follow else [text for text in texts if is_photo(Path(text).name or ".") and Path(text).is_file()]
    sources: list[Source] = []
    if len(photos) > 1:
        sources.append(Photos(f"{len(photos)} photos", lambda: [Path(text) for text in photos], options))
    sources += [open_source(text, follow, options) for text in texts if len(photos) < 2 or text not in photos]
    names: dict[str, int] = {}
    for source in sources:
        names[source.name] = count = names.get(source.name, 0) + 1
        if count > 1:  # two logins at one address look alike once the login is hidden
            source.name = f"{source.name} #{count}"
    return sources


def open_source(text: str, follow: bool = False, options: SourceOptions = DEFAULT) -> Source:
    """What `text` names, ready to be read. `follow` keeps waiting for new photos in a folder or glob.

    Raises SourceError naming what was given and what would have been understood.
    """
    path = Path(text)
    if text.startswith(pipeline.PREFIX):
        return _pipeline(text, options)
    if scheme(text):
        return _stream(text, options)
    if text.isdecimal():
        if path.exists():
            raise SourceError(f"{text} is a camera's number and also a path here", f"./{text} or /dev/video{text}")
        return _camera(Path(f"/dev/video{int(text)}"), text, options)
    if text and path.is_dir():
        return _photos(text, lambda: walk(path), options, follow, path)
    if path.is_file():
        return _file(path, text, follow, options)
    if path.is_relative_to("/dev"):
        return _camera(path, text, options)
    if glob.has_magic(text):
        return _glob(text, follow, options)
    raise SourceError(f"nothing is at {text!r}" if text else "a source is empty", f"give {FORMS}")


def _stream(text: str, options: SourceOptions) -> Source:
    if scheme(text) not in SCHEMES or len(text) <= len(scheme(text)) + 3:
        wanted = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceError(f"{redact(text)} is no address of a stream; wanted one of {wanted}", "rtsp://camera/1")
    ending = Path(text.partition("?")[0]).suffix.lower()
    if scheme(text) in ("http", "https") and ending in (VIDEOS - {".ts"}) | frames.SUFFIXES:
        raise SourceError(f"{redact(text)} is a file, not a stream", "download it, then give the file")
    return Isolated(Plan("stream", text, redact(text), options))


def _pipeline(text: str, options: SourceOptions) -> Source:
    words = text.removeprefix(pipeline.PREFIX)
    pipeline.split(words)
    return Isolated(Plan("pipeline", words, redact(text, pipeline=True), options))


def _camera(path: Path, text: str, options: SourceOptions) -> Source:
    if not path.is_char_device():
        present = ", ".join(map(str, _matches("/dev/video*") + _matches("/dev/v4l/by-id/*"))) or "none"
        raise SourceError(f"there is no camera at {path} (given {text!r}); cameras here: {present}", "v4l2-ctl -L")
    return Isolated(Plan("camera", str(path), str(path), options))


def _file(path: Path, text: str, follow: bool, options: SourceOptions) -> Source:
    if follow:
        raise SourceError(f"{text} is one file and cannot be followed", "give its folder, or leave --follow out")
    ending = path.suffix.lower()
    if ending in VIDEOS:
        return Isolated(Plan("video", str(path), text, options))
    if ending in frames.SUFFIXES:
        return Photos(text, lambda: [path], options)
    endings = " ".join(sorted(frames.SUFFIXES | VIDEOS))
    raise SourceError(f"{text} is neither a photo nor a video by its ending", f"wanted one of {endings}")


def _glob(text: str, follow: bool, options: SourceOptions) -> Source:
    video = next((path for path in _matches(text) if path.suffix.lower() in VIDEOS), None)
    if video:
        raise SourceError(f"{text} matches videos ({video})", "without the quotes: each video is its own source")
    fixed = itertools.takewhile(lambda name: not glob.has_magic(name), Path(text).parts)
    return _photos(
        text, lambda: [path for path in _matches(text) if is_photo(path.name)], options, follow, Path(*fixed)
    )


def _matches(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern before Python 3.13
    return sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207


def _photos(text: str, listing: Listing, options: SourceOptions, follow: bool, within: Path) -> Source:
    if not follow and not listing():
        raise SourceError(
            f"no photo is at {text}; photos end in {' '.join(sorted(frames.SUFFIXES))}", "--follow waits for the first"
        )
    return Photos(text, listing, options, follow, within)
