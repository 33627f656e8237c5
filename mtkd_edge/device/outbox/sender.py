"""The thread of one sink: what the store holds after the id it sent last, in order, each until it is delivered.

The store is the outbox: nothing is queued twice, and what a sink has not sent survives whatever happens to the process.
Events that could not be written (a full disk) come by memory, bounded, so that an alarm still leaves the machine. An
event may be sent twice (a crash between sending and remembering): its id tells the receiver.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mtkd_edge.device import health
from mtkd_edge.device.events.database import Database, Filter, exists
from mtkd_edge.device.events.record import Event, Kind
from mtkd_edge.device.outbox.channel import Backoff, Channel, NotDelivered, Refused
from mtkd_edge.device.task import Task

BATCH = 50
UNSTORED = 1000
"""Events without a place on the disk that a sink keeps in memory."""
CROWDED = "the disk is full and so is the memory for unsent events"
REMEMBER = 1.0
"""Seconds between two writes of how far a sink has come: what a crash makes it repeat."""
CALLS = (Kind.ALARM, Kind.ACKNOWLEDGED)
POLL = 1.0
PATIENCE = 1.0
"""Seconds that a sink gets to send the rest when the watch has ended; what is left is sent after the next start."""


class SenderOptions(msgspec.Struct, frozen=True):
    """`what`: alarms (and their acknowledgements), or every event. `most`: events that may wait, else the oldest go.

    `first` and `longest` bound the pauses between attempts, in seconds.
    """

    what: Literal["alarms", "events"] = "events"
    most: int = 100_000
    first: float = 0.5
    longest: float = 60.0


class Sender:
    """`sent` counts deliveries; `lost` what will never be sent, by reason; `failing` is why nothing gets through."""

    def __init__(
        self, name: str, root: Path, channel: Channel, options: SenderOptions, tell: health.Tell = health.untold
    ) -> None:
        self.name, self.sent, self.failing = name, 0, ""
        self.lost: Counter[str] = Counter()
        self._root, self._channel, self._options, self._tell = root, channel, options, tell
        self._backoff = Backoff(options.first, options.longest)
        self._changed = threading.Condition()
        self._closing = self._kicked = False
        self._deadline = float("inf")
        self._unstored: deque[Event] = deque()
        self._early: set[str] = set()
        self._evicted: set[str] = set()
        self._unreadable = ""
        self._database: Database | None = None
        # a store that is made later holds nothing but what is new
        self._cursor: str | None = None if exists(root) else ""
        self._remembered: str | None = None
        self._remember_at, self._behind = 0.0, 0
        self._stored()  # before anybody writes: a sink that is new here starts with what comes next
        self._task = Task(f"sink {name}", self._work)

    def heard(self, events: Sequence[Event], stored: bool) -> None:
        """A listener of the recorder: there is something to send, on the disk or, where that fails, in memory."""
        with self._changed:
            if stored:
                self._found({event.id for event in events})
            for event in () if stored else events:
                if len(self._unstored) >= UNSTORED:
                    self._evicted.add(self._unstored.popleft().id)
                    self.lost[CROWDED] += 1
                self._unstored.append(event)
            self._kicked = True
            self._changed.notify_all()

    def _found(self, stored: set[str]) -> None:
        """What was to be sent from memory is on the disk after all, and is sent from there."""
        if self._unstored:
            self._unstored = deque(event for event in self._unstored if event.id not in stored)
        if found := self._evicted & stored:
            self._evicted -= found
            self.lost[CROWDED] -= len(found)

    def finish(self) -> None:
        """From now on there are PATIENCE seconds to send what can be sent; the rest waits for the next start."""
        with self._changed:
            if not self._closing:
                self._closing, self._deadline = True, time.monotonic() + PATIENCE
            self._changed.notify_all()

    def close(self) -> None:
        """Finish, and wait for it; a call that hangs in the network is left behind."""
        self.finish()
        self._task.join(max(0.0, self._deadline - time.monotonic()) + 0.5)
        if self._task.error is not None:
            raise self._task.error

    def waiting(self) -> int:
        """Events that are still to be sent, as of the latest look at the store, a second ago at most."""
        with self._changed:
            return self._behind + len(self._unstored)

    def trouble(self) -> str:
        """Why nothing gets through now, or would: "" where something does."""
        died = f"has died: {self._task.error}" if self._task.error is not None else ""
        return died or self.failing or self._unreadable or self._channel.trouble

    def _work(self) -> None:
        try:
            while True:
                more = self._round()
                self._remember()
                with self._changed:
                    if self._closing and (not more or self.failing or time.monotonic() > self._deadline):
                        break
                    if not more:
                        self._changed.wait_for(lambda: self._kicked or self._closing, POLL)
                    self._kicked = False
        finally:
            self._remember(now=True)
            self._channel.close()
            self._shut()

    def _round(self) -> bool:
        """Send some of what is next -> whether there may be more."""
        events = self._stored()
        if events:
            wanted = [event for event in events if self._wants(event)]
            done = self._deliver(wanted)
            if done == len(wanted):
                self._cursor = events[-1].id
            elif done:
                self._cursor = wanted[done - 1].id
            return True
        with self._changed:
            unstored = list(self._unstored)[:BATCH]
        wanted = [event for event in unstored if self._wants(event)]
        done = self._deliver(wanted)
        gone = unstored if done == len(wanted) else unstored[: unstored.index(wanted[done])]
        with self._changed:
            for event in gone:
                if self._unstored and self._unstored[0].id == event.id:
                    self._unstored.popleft()
        if len(self._early) > 10 * UNSTORED:
            self._early.clear()  # the receiver may then see an event twice, which its id tells
        self._early.update(event.id for event in gone)
        return bool(unstored)

    def _wants(self, event: Event) -> bool:
        return event.id not in self._early and (self._options.what == "events" or event.kind in CALLS)

    def _deliver(self, events: Sequence[Event]) -> int:
        """How many of the first events are dealt with: sent, or refused and counted. Waits if nothing gets through."""
        if not events:
            return 0
        try:
            done = self._channel.send(events)
            self.sent += done
        except Refused as error:
            self._lose(f"refused: {error}", 1)
            done = 1
        except NotDelivered as error:
            self._fail(error)
            return 0
        except Exception as error:  # noqa: BLE001 - a library's surprise must not end a sink that runs for weeks
            self._fail(NotDelivered(f"unexpected {type(error).__name__}: {error}"))
            return 0
        if self.failing:
            self._tell(health.Event(self.name, "recovered", "", time.time()))
        self.failing = ""
        self._backoff.reset()
        return done

    def _fail(self, error: NotDelivered) -> None:
        if not self.failing:
            self._tell(health.Event(self.name, "failing", f"{error}; events wait on the disk", time.time()))
        self.failing = str(error)
        pause = max(error.after, self._backoff.next())
        with self._changed:
            self._changed.wait_for(lambda: self._closing, pause)

    def _lose(self, why: str, count: int) -> None:
        self.lost[why] += count
        if self.lost[why] == count:
            self._tell(health.Event(self.name, "failing", why, time.time()))

    def _stored(self) -> list[Event]:
        """What the store holds next; nothing where it cannot be read just now: the recorder tells of that."""
        try:
            if self._database is None:
                if not exists(self._root):
                    return []
                self._open()
            assert self._database is not None and self._cursor is not None, "opened above, or raised"
            behind = self._database.count_after(self._cursor)
            if behind > self._options.most:
                skipped, behind = behind - self._options.most, self._options.most
                self._cursor = self._database.nth_after(self._cursor, skipped)
                self._lose(f"more than {self._options.most} events were waiting", skipped)
            self._behind = behind
            found = self._database.find(Filter(after=self._cursor, newest=False, limit=BATCH))
        except (sqlite3.Error, OSError) as error:
            self._shut()
            self._unreadable = f"the store cannot be read: {error}"
            return []
        self._unreadable = ""
        return found

    def _open(self) -> None:
        self._database = Database(self._root)
        if self._cursor is None:
            sent = self._database.sent(self.name)
            self._cursor = self._database.last_id() if sent is None else sent
        self._mark()

    def _shut(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None

    def _remember(self, now: bool = False) -> None:
        if self._database is None or self._cursor is None or self._cursor == self._remembered:
            return
        if not now and time.monotonic() < self._remember_at:
            return
        self._remember_at = time.monotonic() + REMEMBER
        try:
            self._mark()
        except sqlite3.Error:
            return  # told by the recorder; in the worst case events are sent again after the next start

    def _mark(self) -> None:
        assert self._database is not None and self._cursor is not None, "the callers have looked"
        if skipped := self._database.mark_sent(self.name, self._cursor):
            self._lose("deleted by the limits of the store before they were sent", skipped)
        self._remembered = self._cursor
