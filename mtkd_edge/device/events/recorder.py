"""The thread that writes events. Whoever scores leaves a verdict here and goes on; nothing here is ever waited for.

    offer -> room (bounded) -> coded pictures, held (bounded) -> one transaction for all that is held -> listeners
    done  -> how far each file is, in the transaction of the last event before it

While one group is synced to the disk the next one gathers: the slower the disk, the larger the groups. A disk that is
full or read-only is tried again every second, without end; until then what is held stays in memory, what is beyond its
bounds is lost and counted, and listeners (alarms!) hear of every event all the same.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from mtkd_edge.device import health
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.draft import Draft, Maker
from mtkd_edge.device.events.pictures import Pictures
from mtkd_edge.device.events.progress import Pending, Progress
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.events.retention import AT_ONCE, Limits
from mtkd_edge.device.events.store import Store
from mtkd_edge.device.sinks import Map
from mtkd_edge.device.sources.base import Mark
from mtkd_edge.device.task import Task
from mtkd_edge.errors import DataError
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict

GROUP = 64
RETRY = 1.0
PROGRESS = 0.5
"""Seconds between two writings of how far the files are, where no event is written meanwhile."""
PRUNE = 10.0
"""Seconds between looks at the limits; sooner while there is more to delete."""
URGENT = 4
PATIENCE, PATIENCE_LOSSLESS = 1.5, 3.0
"""Seconds that what is left gets when the watch has ended."""
ROOM_LOSSLESS = 32
"""Events that may wait where the caller waits as well: few, so that the end is quick."""
UNWRITTEN = "not written when the watch ended"
Listener = Callable[[Sequence[Event], bool], None]
"""Hears of events once they are on the disk (True), or when they could not be written (False). Must not block."""


class EventStoreBehind(Exception):  # noqa: N818 - it is counted under this name
    """The disk is slower than the events come: this one was not kept."""


class RecorderOptions(msgspec.Struct, frozen=True):
    """`keep`: which verdicts. `room` and `room_bytes` (of photos) may wait to be coded, `held` and `held_bytes` (of
    coded pictures) to be written. `lossless`: the caller waits for room instead, for sources that are files.
    """

    keep: str = "events"
    room: int = 256
    room_bytes: int = 64 << 20
    held: int = 10_000
    held_bytes: int = 64 << 20
    lossless: bool = False
    limits: Limits = Limits()


class Recorder:
    """A sink. `lost` counts events that were never written, by reason; `failing` is why writing fails just now.

    `stored` and `pruned` count events written, and deleted by the limits, since the start.
    """

    def __init__(
        self,
        root: Path,
        maker: Maker,
        options: RecorderOptions,
        clock: Clock,
        tell: health.Tell = health.untold,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Raises UsageError where the folder can never be written, DataError for one of another version."""
        self.name = str(root)
        self.lost: Counter[str] = Counter()
        self.failing = ""
        self.stored = self.pruned = 0
        self._maker, self._options, self._clock, self._tell, self._listeners = maker, options, clock, tell, listeners
        self._changed = threading.Condition()
        self._room: deque[Draft] = deque()
        self._room_bytes = self._waiting = 0
        self._closing = self._abandoned = False
        self._held: list[tuple[Event, Pictures]] = []
        self._held_bytes = 0
        self._again = self._prune_at = self._progress_at = 0.0
        self._pending = Pending()
        self._progress: Progress | None = None
        self._store = Store(root, clock, options.limits)
        self._task = Task("events", self._work)

    def __call__(self, verdict: Verdict, photo: Photo | None, values: Map | None) -> None:
        """Leave a verdict that is to be kept. Raises EventStoreBehind where there is no room."""
        if self._options.keep == "all" or verdict.state is not State.NORMAL:
            self.offer(Draft(Kind.VERDICT, verdict, photo, values, self._clock.stamp()))

    def offer(self, draft: Draft, urgent: bool = False) -> None:
        """Leave an event. Raises EventStoreBehind where there is no room, or what the thread died of.

        An `urgent` one, which should have no pictures, finds room where others do not, up to URGENT times as much.
        """
        with self._changed:
            if self._options.lossless:
                self._changed.wait_for(lambda: self._fits(draft) or self._task.error is not None)
            if self._task.error is not None:
                raise self._task.error
            fits = self._fits(draft) or (urgent and len(self._room) < URGENT * self._options.room)
            if not fits:
                raise EventStoreBehind("events come faster than they can be coded and written")
            self._room.append(draft)
            self._room_bytes += draft.nbytes
            self._waiting += 1
            self._changed.notify_all()

    def done(self, source: str, mark: Mark) -> None:
        """A frame of a file has its verdict, and its event, if any, was offered before. Never waits."""
        with self._changed:
            self._pending.done(source, mark)

    def gone(self, source: str, items: Iterable[str]) -> None:
        """Files of a followed folder are there no more: what is known of them is forgotten."""
        with self._changed:
            self._pending.gone(source, items)

    def close(self) -> None:
        """Write what is left, for at most PATIENCE seconds; what cannot be written is counted as lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._task.join(PATIENCE_LOSSLESS if self._options.lossless else PATIENCE)
        if self._task.is_alive():
            self._abandoned = True
            self.lost[f"{UNWRITTEN}: {self.failing or 'the disk is too slow'}"] += self.waiting()
        if self._task.error is not None:
            raise self._task.error

    def waiting(self) -> int:
        """Events that are not yet on the disk."""
        with self._changed:
            return self._waiting

    def _fits(self, draft: Draft) -> bool:
        bytes_ = self._room_bytes + draft.nbytes
        room = min(self._options.room, ROOM_LOSSLESS) if self._options.lossless else self._options.room
        return not self._room or (len(self._room) < room and bytes_ <= self._options.room_bytes)

    def _work(self) -> None:
        try:
            while True:
                drafts, closing = self._take()
                for draft in drafts:
                    self._hold(draft)
                if (self._held or self._progress) and (closing or time.monotonic() >= self._again):
                    self._write()
                if closing and not drafts:
                    break
                self._prune()
        except BaseException as error:
            self.failing = f"the thread has died: {error}"
            raise
        finally:
            if not self._abandoned and (left := self.waiting()):
                self._settle(left, f"{UNWRITTEN}: {self.failing or 'the thread has died'}")
            self._store.close()

    def _take(self) -> tuple[list[Draft], bool]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._room or self._closing), PROGRESS / 2)
            drafts = [self._room.popleft() for _ in range(min(GROUP, len(self._room)))]
            self._room_bytes -= sum(draft.nbytes for draft in drafts)
            due = drafts or self._closing or time.monotonic() >= self._progress_at
            # never before the events of the frames it speaks of
            if self._pending and not self._room and self._progress is None and due:
                self._progress = self._pending.take()
                self._progress_at = time.monotonic() + PROGRESS
            self._changed.notify_all()
            return drafts, self._closing

    def _hold(self, draft: Draft) -> None:
        try:
            event, pictures = self._maker.make(draft)
        except DataError as error:  # a photo that cannot be coded: the event counts more than its picture
            event, pictures = self._maker.make(draft.bare(error.message))
        if self.failing:  # an alarm does not wait for a disk
            event = self._store.numbered(event)
            self._announce([event], False)
            if self._held_bytes + pictures.nbytes > self._options.held_bytes:
                event, pictures = _bare(event), Pictures()
            if not self._room_for(event):
                self._settle(1, f"beyond what is held in memory: {self.failing}")
                return
        self._held.append((event, pictures))
        self._held_bytes += pictures.nbytes

    def _room_for(self, event: Event) -> bool:
        """Whether one more may be held. An alarm, an answer to one and a part take the place of the oldest verdict."""
        if len(self._held) < self._options.held:
            return True
        verdicts = (place for place, (held, _) in enumerate(self._held) if held.kind is Kind.VERDICT)
        oldest = None if event.kind is Kind.VERDICT else next(verdicts, None)
        if oldest is None:
            return False
        self._held_bytes -= self._held.pop(oldest)[1].nbytes
        self._settle(1, f"beyond what is held in memory: {self.failing}")
        return True

    def _write(self) -> None:
        while self._held or self._progress is not None:
            group = self._held[:GROUP]
            progress = self._progress if len(group) == len(self._held) else None
            try:
                events = self._store.write(group, progress)
            except Exception as error:  # noqa: BLE001 - a surprise must not end the keeping of events for weeks
                self._fail(error)
                return
            self._progress = None if progress is not None else self._progress
            if self.failing:
                self._tell(health.Event(self.name, "recovered", f"{len(self._held)} events were held", time.time()))
            self.failing = ""
            self.stored += len(events)
            del self._held[:GROUP]
            self._held_bytes -= sum(pictures.nbytes for _, pictures in group)
            self._settle(len(events))
            self._announce(events, True)

    def _fail(self, error: Exception) -> None:
        self._again = time.monotonic() + RETRY
        if self._progress is not None:
            with self._changed:
                self._pending.put_back(self._progress)
            self._progress = None
        why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        if not self.failing:
            self._tell(health.Event(self.name, "failing", f"events are held in memory: {why}", time.time()))
            self._held = [(self._store.numbered(event), each) for event, each in self._held]
            self._announce([event for event, _ in self._held], False)
        self.failing = why

    def _settle(self, count: int, lost: str = "") -> None:
        with self._changed:
            self._waiting -= count
            if lost:
                self.lost[lost] += count

    def _announce(self, events: Sequence[Event], stored: bool) -> None:
        for listener in self._listeners if events else ():
            listener(events, stored)

    def _prune(self) -> None:
        if self.failing or time.monotonic() < self._prune_at:
            return
        deleted = 0
        try:
            deleted = self._store.prune()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
        self.pruned += deleted
        self._prune_at = time.monotonic() + (PRUNE if deleted < AT_ONCE else 0.0)


def _bare(event: Event) -> Event:
    """The same without its pictures, and why."""
    reason = f"{event.reason}; no picture: too many wait for the disk".lstrip("; ")
    return msgspec.structs.replace(event, bytes=0, reason=reason)
