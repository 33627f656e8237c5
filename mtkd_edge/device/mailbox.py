"""Where frames wait for the engine: a mailbox of one for every live source, one bounded queue for all files.

A live source never waits: its newest frame replaces the one before, which is counted as dropped. A file's frame is
never dropped: its reader waits until there is room. The ledger learns of captured and overwritten frames here, under
the mailbox's lock, so that a frame is either waiting here or accounted for.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.prepare import Prepared

OVERWRITTEN = "overwritten by a newer frame"


class Mailbox:
    """`offer` for live frames, `put` for frames of files, `take` for the one who scores.

    `room` frames of files may wait, of `room_bytes` together; `live` says whether a camera is among the sources.
    """

    def __init__(self, ledger: Ledger, live: bool, room: int, room_bytes: int) -> None:
        self._ledger = ledger
        self._live, self._room, self._room_bytes = live, room, room_bytes
        self._changed = threading.Condition()
        self._newest: dict[str, Prepared] = {}
        self._queue: deque[Prepared] = deque()
        self._bytes = 0
        self._since: dict[str, float] = {}
        self._closed = False
        self._live_turn = True

    def offer(self, prepared: Prepared) -> bool:
        """The newest frame of a live source. False once closed: the frame then does not count as captured.

        Frames that it has overwritten before it came here count as captured and dropped.
        """
        source = prepared.captured.source
        with self._changed:
            if self._closed:
                return False
            for _ in range(prepared.captured.missed):
                self._ledger.capture(source)
                self._ledger.drop(source, OVERWRITTEN)
            self._ledger.capture(source)
            self._since.setdefault(source, time.monotonic())
            if source in self._newest:
                self._ledger.drop(source, OVERWRITTEN)
            self._newest[source] = prepared  # keeps the source's place in the row, so that none is starved
            self._changed.notify_all()
            return True

    def put(self, prepared: Prepared) -> bool:
        """A frame of a file; waits for room. False once closed: the frame then does not count as captured."""
        size = _size(prepared)
        source = prepared.captured.source
        with self._changed:
            self._since.setdefault(source, time.monotonic())
            self._changed.wait_for(lambda: self._closed or self._has_room(size))
            if self._closed:
                return False
            self._ledger.capture(source)
            self._since.setdefault(source, time.monotonic())  # others of its frames were taken meanwhile
            self._queue.append(prepared)
            self._bytes += size
            self._changed.notify_all()
            return True

    def take(self, most: int, timeout: float) -> list[Prepared]:
        """Up to `most` frames in order of arrival; none after `timeout` seconds, or when closed and empty.

        With cameras about, frames of files go one at a time and in turn: a camera never waits for a batch of files.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._newest or self._queue or self._closed), timeout)
            live = bool(self._newest) and (self._live_turn or not self._queue)
            self._live_turn = not live
            if live:
                taken = [self._newest.pop(source) for source in list(self._newest)[:most]]
            else:
                most = 1 if self._live else most
                taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
                self._bytes -= sum(map(_size, taken))
            for prepared in taken:
                self._since.pop(prepared.captured.source, None)
            for prepared in self._queue if taken and not live else ():
                self._since.setdefault(prepared.captured.source, time.monotonic())
            self._changed.notify_all()
            return taken

    def waits(self) -> dict[str, float]:
        """Sources whose frames wait, and for how many seconds none of them has been taken."""
        with self._changed:
            now = time.monotonic()
            return {source: now - since for source, since in self._since.items()}

    def close(self) -> None:
        """Nothing more comes in; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self._queue:
            return True  # a single photo may be larger than all room
        return len(self._queue) < self._room and self._bytes + size <= self._room_bytes


def _size(prepared: Prepared) -> int:
    photo = prepared.captured.photo
    return 0 if photo is None else photo.nbytes
