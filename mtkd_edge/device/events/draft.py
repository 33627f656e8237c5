"""From what the line knows of a frame to the event that is written: pictures coded, engine and threshold named."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtkd_edge.device.events import pictures
from mtkd_edge.device.events.clock import Stamp
from mtkd_edge.device.events.pictures import Pictures
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.sinks import Map
from mtkd_edge.frames import FrameSpec, Photo
from mtkd_edge.threshold import Threshold, seal
from mtkd_edge.verdict import Verdict


def size_of(photo: Photo) -> tuple[int, int]:
    """(width, height)."""
    return photo.shape[1], photo.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """An event before its pictures are coded. `stamp` is the moment at which the verdict was given.

    `frame`: (width, height) of the frame where its photo is not at hand.
    """

    kind: Kind
    verdict: Verdict
    photo: Photo | None
    values: Map | None
    stamp: Stamp
    reason: str = ""
    latched: bool = False
    skipped: int = 0
    mm: tuple[tuple[float, ...], ...] = ()
    part: str = ""
    frame: tuple[int, int] = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frame in whose pixels the regions are; zeros where nobody knows."""
        return self.frame if self.photo is None else size_of(self.photo)

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return (0 if self.photo is None else self.photo.nbytes) + (0 if self.values is None else self.values.nbytes)

    def bare(self, why: str) -> Draft:
        """The same without pictures, and why."""
        reason = f"{self.reason or self.verdict.reason}; no picture: {why}".lstrip("; ")
        return replace(self, photo=None, values=None, reason=reason, frame=self.size)


class Maker:
    """Makes events of one engine: `engine` is the sha256 of its manifest."""

    def __init__(self, spec: FrameSpec, threshold: Threshold, engine: str) -> None:
        self._spec, self._threshold, self._engine, self._seal = spec, threshold, engine, seal(threshold)

    def make(self, draft: Draft) -> tuple[Event, Pictures]:
        """The event, still without an id, and its pictures. Raises DataError where they cannot be coded."""
        verdict = draft.verdict
        coded = pictures.code(draft.photo, draft.values, self._spec, self._threshold)
        since_capture = (verdict.latency_ms.get("total", 0.0) - verdict.latency_ms.get("decode", 0.0)) / 1e3
        event = Event(
            id="",
            kind=draft.kind,
            source=verdict.source,
            seq=verdict.seq,
            wall=verdict.captured,
            monotonic=draft.stamp.monotonic - max(0.0, since_capture),
            boot=draft.stamp.boot,
            state=verdict.state.value,
            score=verdict.score,
            threshold=verdict.threshold,
            regions=verdict.regions,
            reason=draft.reason or verdict.reason,
            path=verdict.path,
            engine=self._engine,
            seal=self._seal,
            bytes=coded.nbytes,
            frame=draft.size,
            latched=draft.latched,
            skipped=draft.skipped,
            mm=draft.mm,
            part=draft.part,
        )
        return event, coded
