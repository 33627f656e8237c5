"""The sink of a station: every verdict steps the rules of its line, and what matters is kept as an event.

A triggered line is stepped by its parts instead: their frames go to `decisions/parts.py`, and every part is one event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.focus import in_mm
from mtkd_edge.device.decisions.line import Alarm
from mtkd_edge.device.decisions.parts import Parts
from mtkd_edge.device.decisions.window import Decision, Shot
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.draft import Draft, size_of
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.events.recorder import EventStoreBehind, Recorder
from mtkd_edge.device.sinks import Map
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict


class Decide:
    """An alarm raised by a frame or part is its event: none is kept twice. `scales`: mm a pixel by source."""

    name = "events"

    def __init__(
        self,
        board: Board,
        recorder: Recorder | None,
        keep: str,
        scales: Mapping[str, float | None],
        clock: Clock,
        closing: Callable[[], None],
        losses: Callable[[], Counter[str]],
        parts: Parts | None = None,
    ) -> None:
        # what a part keeps is its worst frame, which may be a normal one: too few frames make a part invalid
        self.every_map = keep == "all" or bool(parts and parts.sources)
        self._parts = parts
        self._board, self._recorder, self._keep, self._scales = board, recorder, keep, scales
        self._clock, self._closing, self._losses = clock, closing, losses
        self._unkept: Counter[str] = Counter()
        # of each source's last photo: an alarm may come when the photo has gone
        self._sizes: dict[str, tuple[int, int]] = {}

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Step, and keep. Raises EventStoreBehind where there is no room; for an alarm there is."""
        if photo is not None:
            self._sizes[verdict.source] = size_of(photo)
        triggered = self._parts is not None and verdict.source in self._parts.sources
        if self._parts is not None and triggered:
            self._parts.frame(Shot(verdict, photo, values))
        alarm = None if triggered else self._board.step(verdict)
        wanted = self._keep == "all" or (not triggered and verdict.state is not State.NORMAL)
        if self._recorder is None or not (alarm or wanted):
            return
        kind = Kind.ALARM if alarm else Kind.VERDICT
        draft = Draft(
            kind, verdict, photo, values, self._clock.stamp(), mm=in_mm(verdict.regions, self._scale(verdict))
        )
        self._offer(draft, alarm)

    def part(self, source: str, decision: Decision) -> None:
        """A part is decided: the rules of its line are stepped, and the decision is kept, whatever it is.

        It has the picture of its worst frame, unless it is good and only events are kept.
        """
        stamp, shot = self._clock.stamp(), decision.window.shot
        blank = Verdict(source, -1, stamp.wall, State.INVALID, None, 0.0)
        verdict = msgspec.structs.replace(
            shot.verdict if shot else blank, state=decision.state, reason=decision.reason, latency_ms={}
        )
        if decision.state is State.INVALID:
            verdict = msgspec.structs.replace(verdict, score=None, regions=())
        alarm = self._board.step(verdict, decision.window.part)
        if self._recorder is None:
            return
        shown = shot if decision.state is not State.NORMAL or self._keep == "all" else None
        draft = Draft(
            Kind.ALARM if alarm else Kind.PART,
            verdict,
            shown.photo if shown else None,
            shown.values if shown else None,
            stamp,
            mm=in_mm(verdict.regions, self._scale(verdict)),
            part=decision.window.part,
            frame=self._sizes.get(source, (0, 0)),
        )
        try:
            self._offer(draft, alarm, urgent=True)
        except EventStoreBehind as error:
            self._unkept[f"parts not kept: {error}"] += 1

    def alarm(self, source: str, alarm: Alarm) -> None:
        """An alarm that no frame has raised: silence, or one that the rate limit had kept back."""
        if self._recorder is None:
            return
        status, stamp = self._board.status(source), self._clock.stamp()
        blank = Verdict(source, -1, stamp.wall, State.INVALID, None, 0.0)
        last = msgspec.structs.replace(status.last or blank, captured=stamp.wall, latency_ms={})
        if not status.valid:
            last = msgspec.structs.replace(last, state=State.INVALID, score=None, regions=(), path="")
        try:
            frame = self._sizes.get(source, (0, 0))
            self._offer(Draft(Kind.ALARM, last, None, None, stamp, frame=frame), alarm)
        except EventStoreBehind as error:
            self._unkept[f"alarms not kept: {error}"] += 1

    @property
    def lost(self) -> Counter[str]:
        """What the store and the sinks have lost, by reason."""
        return self._losses() + self._unkept

    def close(self) -> None:
        """End everything that runs beside the scorer."""
        self._closing()

    def _scale(self, verdict: Verdict) -> float | None:
        return self._scales.get(verdict.source)

    def _offer(self, draft: Draft, alarm: Alarm | None, urgent: bool = False) -> None:
        """Raises EventStoreBehind; an alarm, and what is `urgent`, gives up its pictures before."""
        assert self._recorder is not None, "the callers have looked"
        if alarm is None and not urgent:
            return self._recorder.offer(draft)
        if alarm is None:
            return self._pressed(draft)
        latched = self._board.rules(draft.verdict.source).latch and self._board.status(draft.verdict.source).latched
        draft = replace(draft, reason=alarm.reason, latched=latched, skipped=alarm.skipped)
        return self._pressed(draft)

    def _pressed(self, draft: Draft) -> None:
        assert self._recorder is not None, "the callers have looked"
        try:
            return self._recorder.offer(draft)
        except EventStoreBehind:
            return self._recorder.offer(draft.bare("the disk is too slow"), urgent=True)
