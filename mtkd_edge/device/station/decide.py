"""The sink of a station: every verdict steps the rules of its line, and what matters is kept as an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.focus import in_mm
from mtkd_edge.device.decisions.line import Alarm
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.events.recorder import EventStoreBehind, Recorder
from mtkd_edge.device.sinks import Map
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict


class Decide:
    """An alarm raised by a frame is that frame's event: no frame is kept twice. `scales`: mm a pixel by source."""

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
    ) -> None:
        self._board, self._recorder, self._keep, self._scales = board, recorder, keep, scales
        self._clock, self._closing, self._losses = clock, closing, losses
        self._unkept: Counter[str] = Counter()

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Step, and keep. Raises EventStoreBehind where there is no room; for an alarm there is."""
        alarm = self._board.step(verdict)
        if self._recorder is None or not (alarm or self._keep == "all" or verdict.state is not State.NORMAL):
            return
        kind = Kind.ALARM if alarm else Kind.VERDICT
        draft = Draft(
            kind, verdict, photo, values, self._clock.stamp(), mm=in_mm(verdict.regions, self._scale(verdict))
        )
        self._offer(draft, alarm)

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
            self._offer(Draft(Kind.ALARM, last, None, None, stamp), alarm)
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

    def _offer(self, draft: Draft, alarm: Alarm | None) -> None:
        assert self._recorder is not None, "the callers have looked"
        if alarm is None:
            return self._recorder.offer(draft)
        latched = self._board.rules(draft.verdict.source).latch and self._board.status(draft.verdict.source).latched
        draft = replace(draft, reason=alarm.reason, latched=latched, skipped=alarm.skipped)
        try:
            return self._recorder.offer(draft)
        except EventStoreBehind:
            return self._recorder.offer(draft.bare("the disk is too slow"), urgent=True)
