"""systemd's watchdog, fed by the work itself: a process that is alive and scores nothing is restarted.

Fed while frames are scored, also those of a triggered line between its parts. Where none come it is fed only if nothing
waits to be scored and no camera hangs: a camera that is known to be away (reconnecting), that may still pause
(`silence`), or a folder without new photos is no reason to restart; a hung engine or a camera's driver that never
returns is. The protocol is one datagram a word to the socket in $NOTIFY_SOCKET
(sd_notify(3)); without it nothing happens.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.health import Condition, Health
from mtkd_edge.device.ledger import Ledger

HANGING = frozenset({Condition.STARTING, Condition.STALLED})


class Watchdog:
    """An output (`pulse.py`). `live` says which sources are cameras, `silence` how many seconds these may pause. A word
    that does not arrive is said again.

    Raises ValueError for a WATCHDOG_USEC that is no number.
    """

    def __init__(
        self, live: Mapping[str, bool], silence: float = 0.0, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._live, self._silence = dict(live), silence
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 / 4
        self._vitals: tuple[Ledger, Health] | None = None
        self._settled, self._moved_at, self._fed_at, self._ready = 0, 0.0, 0.0, False
        self._over = False
        self._lock = threading.Lock()

    def attach(self, ledger: Ledger, health: Health) -> None:
        """The watch has begun."""
        self._vitals = ledger, health

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat: say that the station is ready, once; feed, at most four times in the watchdog's time."""
        if not self._address or self._vitals is None:
            return
        with self._lock:
            if not self._over:
                self._beat(statuses, time.monotonic())

    def _beat(self, statuses: Sequence[Status], now: float) -> None:
        if not self._ready:
            self._ready = self._say("READY=1\nSTATUS=watching")
            self._fed_at = now
        settled = self._count()
        if settled != self._settled:
            self._settled, self._moved_at = settled, now
        if now - self._fed_at < self._every or not (self._moved_at > self._fed_at or self._idle(now)):
            return
        answers = ", ".join(f"{status.source} {status.answer.value}" for status in statuses)
        if self._say(f"WATCHDOG=1\nSTATUS={settled} frames; {answers}"):
            self._fed_at = now

    def stopping(self) -> None:
        """The station ends on purpose: the last word, after which no beat says another."""
        if self._address:
            with self._lock:
                self._over = True
                self._say("STOPPING=1")

    def _count(self) -> int:
        """Frames with a verdict. A line's own count would be of parts where it is triggered."""
        assert self._vitals is not None, "the caller has looked"
        accounts = [self._vitals[0].account(source) for source in self._live]
        return sum(account.scored + account.invalid for account in accounts)

    def _idle(self, now: float) -> bool:
        assert self._vitals is not None, "the caller has looked"
        ledger, health = self._vitals
        for source, live in self._live.items():
            if ledger.account(source).waiting or (live and health.record(source).condition in HANGING):
                return False
        # a camera that is said to run is known to do so by its frames alone, once they may no longer pause
        running = [live and health.record(name).condition is Condition.RUNNING for name, live in self._live.items()]
        return now - self._moved_at <= self._silence or not any(running)

    def _say(self, words: str) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(0.1)
                out.sendto(words.encode(), self._address)
        except OSError:
            return False  # systemd is busy or gone: the next beat tries again, and silence is what it acts on
        return True
