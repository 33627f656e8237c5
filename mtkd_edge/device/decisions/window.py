"""From a part's frames to its one decision, as pure functions over the windows of one line.

    trigger -> window [opened, end) -> frames captured in it -> one decision

A window ends after its time, after its number of frames, or with the next trigger: then the frames show the next part.
It is decided as soon as nothing can come to it any more: a frame captured later has been judged, or `late` has passed.
Fail-safe: a part is good only if enough frames were judged, none was invalid, and none still waits for its verdict;
without a frame it is invalid. Times
are monotonic seconds. Nothing here knows of clocks, threads or outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from mtkd_edge.device.sinks import Map
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict

MOST = 64
"""Windows that may wait for their frames; a trigger beyond them is decided at once, as invalid."""
NO_FRAME = "no frame in the part's window"
OWED = "a frame of the part was not judged in time"
CROWDED = f"more than {MOST} parts wait for their frames"


class Trigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[source.trigger]`: a part is what is seen in the `ms` milliseconds after a trigger, or the first `frames` of it.

    It is bad if `votes` of its frames are anomalous, good if that is not so, none is invalid and at least `least` were
    judged (all `frames`, where that is set). `late_ms`: how long after the window verdicts are waited for.
    """

    ms: float = 1000.0
    frames: int = 0
    votes: int = 1
    least: int = 0
    late_ms: float = 1000.0

    def __post_init__(self) -> None:
        if not 1 <= self.ms <= 600_000 or not 0 <= self.late_ms <= 600_000:
            raise ValueError(f"ms lies between 1 and 600000, late_ms between 0 and that, got {self.ms}, {self.late_ms}")
        if not 0 <= self.frames <= 10_000:
            raise ValueError(f"frames lies between 1 and 10000, or is 0 for all in the time, got {self.frames}")
        most = self.frames or 10_000
        if not 1 <= self.votes <= most or not 0 <= self.least <= most:
            raise ValueError(f"votes and least are at most the {most} frames, votes at least 1")

    @property
    def enough(self) -> int:
        """The fewest judged frames of a good part."""
        return self.least or self.frames or 1


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A judged frame with its pixels and map."""

    verdict: Verdict
    photo: Photo | None = None
    values: Map | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A part that waits for its decision. `shot`: its worst frame; `cut`: the next part came before the time was up."""

    part: str
    opened: float
    end: float
    judged: int = 0
    bad: int = 0
    invalid: int = 0
    shot: Shot | None = None
    cut: bool = False

    @property
    def frames(self) -> int:
        """All that it has seen."""
        return self.judged + self.invalid


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What a part is, why, and the window it comes from."""

    state: State
    reason: str
    window: Window


Windows = tuple[Window, ...]


def opened(windows: Windows, spec: Trigger, part: str, now: float) -> tuple[Windows, bool]:
    """One more window -> all of them, and whether it has ended the one before."""
    cut = bool(windows) and windows[-1].end > now
    before = (*windows[:-1], replace(windows[-1], end=now, cut=True)) if cut else windows
    return (*before, Window(part, now, now + spec.ms / 1e3)), cut


def seen(windows: Windows, shot: Shot, captured: float) -> tuple[Windows, bool]:
    """One more verdict -> the windows, and whether it belongs to one of them."""
    for place, window in enumerate(windows):
        if window.opened <= captured < window.end:
            return (*windows[:place], _with(window, shot), *windows[place + 1 :]), True
    return windows, False


def due(
    windows: Windows, spec: Trigger, now: float, newest: float, owed: bool = False
) -> tuple[Windows, tuple[Decision, ...]]:
    """The windows that still wait; decisions about the others, oldest first.

    `newest`: the latest capture judged; `owed`: captured frames still have no verdict.
    """
    decided: list[Decision] = []
    for window in windows:
        full = bool(spec.frames) and window.frames >= spec.frames
        complete = full or newest >= window.end
        if not complete and now < window.end + spec.late_ms / 1e3:
            break
        decision = decide(window, spec)
        late = owed and not complete and decision.state is State.NORMAL
        decided.append(Decision(State.INVALID, OWED, window) if late else decision)
    return windows[len(decided) :], tuple(decided)


def decide(window: Window, spec: Trigger) -> Decision:
    """Bad before invalid before good."""
    of = f"{window.bad} of {window.judged} frames of the part are anomalous"
    if window.bad >= spec.votes:
        return Decision(State.ANOMALOUS, of, window)
    if not window.frames:
        return Decision(State.INVALID, NO_FRAME + (", the next one came before its time was up" * window.cut), window)
    if window.invalid:
        why = f"{window.invalid} of {window.frames} frames of the part could not be judged"
        return Decision(State.INVALID, why, window)
    if window.judged < spec.enough:
        return Decision(State.INVALID, f"{window.judged} frames of the part, {spec.enough} are wanted", window)
    return Decision(State.NORMAL, of if window.bad else "", window)


def _with(window: Window, shot: Shot) -> Window:
    invalid, bad = shot.verdict.state is State.INVALID, shot.verdict.state is State.ANOMALOUS
    return replace(
        window,
        judged=window.judged + (not invalid),
        invalid=window.invalid + invalid,
        bad=window.bad + bad,
        shot=shot if window.shot is None or _rank(shot.verdict) > _rank(window.shot.verdict) else window.shot,
    )


def _rank(verdict: Verdict) -> tuple[int, float]:
    order = (State.NORMAL, State.INVALID, State.ANOMALOUS)
    return order.index(verdict.state), verdict.score or 0.0
