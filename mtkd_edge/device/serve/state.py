"""Everything there is to show, as one value: for the page, for `/readyz` and for the metrics."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mtkd_edge import __version__
from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.events.database import Filter, exists, reading
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.serve.viewfinder import Viewfinder
from mtkd_edge.device.station.station import Judge, Station
from mtkd_edge.errors import DataError
from mtkd_edge.verdict import State

FRESH = 0.5
"""Seconds for which what was read of the store is good, however many look."""
READY = 10.0
"""Seconds since the newest scored frame of a camera up to which it counts as being watched."""
SHOWN = 12


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One source. `frames` are the ledger's; `history` holds (seq, score or None, state), the newest last."""

    source: str
    live: bool
    answer: str
    valid: bool
    latched: bool
    condition: str
    reason: str
    age: float | None
    number: int
    score: float | None
    threshold: float
    state: str
    why: str
    bad_votes: int
    voted: int
    votes: int
    of: int
    captured: int
    scored: int
    invalid: int
    waiting: int
    dropped: dict[str, int]
    replaced: dict[str, int]
    triggered: bool
    parts: int
    part: str
    part_windows: dict[str, int]
    anomalous: int
    outages: int
    outage_seconds: float
    restarts: int
    history: list[tuple[int, float | None, str]]
    latency: dict[str, tuple[float, float]]


class SinkState(msgspec.Struct, frozen=True):
    """A way out."""

    name: str
    sent: int
    waiting: int
    failing: str
    lost: dict[str, int]


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """The events' store. `free` is what is left on its disk, in bytes."""

    events: int
    bytes: int
    free: int
    waiting: int
    stored: int
    pruned: int
    failing: str
    lost: dict[str, int]


class Shown(msgspec.Struct, frozen=True):
    """An event of the list, and whether it waits for an acknowledgement."""

    event: Event
    open: bool


class StationState(msgspec.Struct, frozen=True, kw_only=True):
    """The station at one moment. `now` is seconds since the epoch, `up` seconds since the start."""

    station: str
    version: str
    engine: str
    engine_sha: str
    engine_restarts: int
    threshold: str
    now: float
    up: float
    ready: bool
    lines: list[Line]
    store: StoreState | None
    sinks: list[SinkState]
    events: list[Shown]


class Watcher:
    """Collects the state for whoever asks."""

    def __init__(self, station: Station, judge: Judge, name: str, engine: str, live: Sequence[bool]) -> None:
        self._station, self._judge, self._name, self._engine = station, judge, name, engine
        self._board: Board = station.board
        self._live = dict(zip(self._board.sources, live, strict=True))
        self.viewfinder = Viewfinder()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._events: list[Shown] = []
        self._size = (0, 0)

    def ready(self) -> dict[str, bool]:
        """By source, whether it is really watched: a camera by a frame scored lately, a file by nothing that waits."""
        found = {}
        for source, live in self._live.items():
            judged_at = self.viewfinder.judged_at(source)
            fresh = judged_at is not None and time.monotonic() - judged_at <= READY
            idle = (
                self._station.vitals is not None and not live and self._station.vitals[0].account(source).waiting == 0
            )
            found[source] = fresh or idle
        return found

    def state(self) -> StationState:
        """As it is now; its events are at most FRESH seconds old."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH:
                self._read()
                self._read_at = time.monotonic()
        return StationState(
            station=self._name,
            version=__version__,
            engine=self._engine,
            engine_sha=self._judge.engine,
            engine_restarts=self._station.vitals[1].engine_restarts if self._station.vitals else 0,
            threshold=self._judge.threshold.describe(),
            now=time.time(),
            up=time.monotonic() - self._began,
            ready=any(self.ready().values()),
            lines=[self._line(source) for source in self._board.sources],
            store=self._store(),
            sinks=[SinkState(s.name, s.sent, s.waiting(), s.trouble(), dict(s.lost)) for s in self._station.senders],
            events=self._events,
        )

    def _line(self, source: str) -> Line:
        status, rules = self._board.status(source), self._board.rules(source)
        verdicts, states = self.viewfinder.verdicts(source), self.viewfinder.states(source)
        seen, last = self.viewfinder.seen(source), status.last
        account = self._station.vitals[0].account(source) if self._station.vitals else None
        record = self._station.vitals[1].record(source) if self._station.vitals else None
        return Line(
            source=source,
            live=self._live[source],
            answer=status.answer.value,
            valid=status.valid,
            latched=status.latched,
            condition=record.condition.value if record else "starting",
            reason=record.reason if record else "",
            age=status.age,
            number=seen.number if seen else 0,
            score=last.score if last else None,
            threshold=self._judge.threshold.score,
            state=last.state.value if last else "",
            why=last.reason if last else "",
            bad_votes=status.bad_votes,
            voted=status.voted,
            votes=rules.votes,
            of=rules.of,
            captured=account.captured if account else 0,
            scored=account.scored if account else 0,
            invalid=account.invalid if account else 0,
            waiting=account.waiting if account else 0,
            dropped=account.dropped if account else {},
            replaced=self._station.replaced(source),
            triggered=source in self._station.parts.sources,
            parts=status.parts,
            part=status.part,
            part_windows=dict(self._station.parts.counted.get(source, {})),
            anomalous=states.get(State.ANOMALOUS, 0),
            outages=record.outage_count if record else 0,
            outage_seconds=record.outage_seconds if record else 0.0,
            restarts=record.restarts if record else 0,
            history=[(v.seq, v.score, v.state.value) for v in verdicts],
            latency=self.viewfinder.latencies(source),
        )

    def _store(self) -> StoreState | None:
        recorder, root = self._station.recorder, self._station.root
        if recorder is None or root is None:
            return None
        return StoreState(
            events=self._size[0],
            bytes=self._size[1],
            free=_free(root),
            waiting=recorder.waiting(),
            stored=recorder.stored,
            pruned=recorder.pruned,
            failing=recorder.failing,
            lost=dict(recorder.lost),
        )

    def _read(self) -> None:
        root = self._station.root
        if root is None or not exists(root):
            return
        try:
            with reading(root) as database:
                newest, waiting = database.find(Filter(limit=SHOWN)), database.find(Filter(open=True, limit=SHOWN))
                size = database.size()
        except (OSError, DataError):
            return  # told by the recorder, whose state stands beside the list; the list stays what it was
        open_ = {event.id for event in waiting}
        chosen = {event.id: event for event in (*waiting, *newest)}
        # alarms that wait come first, whatever has happened since
        order = sorted(chosen.values(), key=lambda event: (event.id in open_, event.id), reverse=True)
        self._events = [Shown(event, event.id in open_) for event in order[: 2 * SHOWN]]
        self._size = size.events, size.bytes


def _free(root: Path) -> int:
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return 0
