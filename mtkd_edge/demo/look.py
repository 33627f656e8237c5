"""What the demo's engine says of the rendered line: verdicts by kind, the video by parts, a sheet of overlays."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec

from mtkd_edge.bundle import Manifest, write_file
from mtkd_edge.demo.line import Truth
from mtkd_edge.device import overlay
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.sinks import JsonLines, Map, Sink
from mtkd_edge.device.sources import open_sources
from mtkd_edge.device.watch import watch
from mtkd_edge.frames import Frame, Photo
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import State, Verdict

EACH = 4
"""Overlays of each kind on the contact sheet."""


class VideoReport(msgspec.Struct, frozen=True):
    """The video by parts. A part counts as called anomalous where most of its frames are."""

    frames: int
    verdicts: int
    parts: int
    defective: int
    found: int
    false_alarms: int


@dataclass(frozen=True)
class Seen:
    """`verdicts`: kind -> state -> photos of line/test. `pictures`: kind -> its first EACH overlays."""

    verdicts: dict[str, dict[str, int]]
    pictures: dict[str, list[Frame]]
    video: VideoReport


def watch_line(engine: Engine, model: Manifest, threshold: Threshold, out: Path) -> Seen:
    """Watch <out>/line/test, then <out>/line/line.mkv; the verdicts go to <out>/verdicts/ as well."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    pictures: dict[str, list[Frame]] = defaultdict(list)
    anomalous: set[int] = set()

    def photos(verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        kind = Path(verdict.path).parent.name
        counts[kind][verdict.state.value] += 1
        if len(pictures[kind]) < EACH:
            pictures[kind].append(overlay.draw(photo, values, verdict, threshold, model.frame))

    def frames(verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        if verdict.state is State.ANOMALOUS:
            anomalous.add(verdict.seq)

    def watched(source: Path, name: str, sink: Sink) -> int:
        sinks: list[Sink] = [sink, JsonLines(out / "verdicts" / f"{name}.jsonl")]
        done = watch(engine, model, threshold, open_sources([str(source)]), sinks, threading.Event())
        return sum(one.scored + one.invalid for one in done.sources)

    watched(out / "line" / "test", "test", photos)
    verdicts = watched(out / "line" / "line.mkv", "video", frames)
    truth = msgspec.json.decode((out / "line" / "line.json").read_bytes(), type=Truth)
    return Seen({kind: dict(count) for kind, count in counts.items()}, pictures, by_part(truth, anomalous, verdicts))


def by_part(truth: Truth, anomalous: set[int], verdicts: int) -> VideoReport:
    """Frames called anomalous -> parts called anomalous, and whether rightly."""
    called = []
    for part in truth.parts:
        frames = range(part.first, part.last + 1)
        called.append((part.kind != "good", 2 * len(anomalous.intersection(frames)) > len(frames)))
    return VideoReport(
        frames=truth.frames,
        verdicts=verdicts,
        parts=len(called),
        defective=sum(defective for defective, _ in called),
        found=sum(defective and found for defective, found in called),
        false_alarms=sum(found and not defective for defective, found in called),
    )


def contact_sheet(pictures: Mapping[str, Sequence[Frame]], path: Path) -> Path:
    """One row a kind, good parts first, as a JPEG. Returns its path; raises BundleError where it cannot be written."""
    kinds = sorted(pictures, key=lambda kind: (kind != "good", kind))
    sheet = overlay.sheet([picture for kind in kinds for picture in pictures[kind]], columns=EACH)
    _, data = cv2.imencode(".jpg", sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    write_file(path, data.tobytes())
    return path
