"""systemd's watchdog, fed by the work itself: a process that is alive and scores nothing is restarted.

Fed while frames are scored. Where none come it is fed only if nothing waits to be scored and no camera hangs: a camera
that is known to be away (reconnecting) or a folder without new photos is no reason to restart, a hung engine or a
camera's driver that never returns is. The protocol is one datagram a word to the socket in $NOTIFY_SOCKET
(sd_notify(3)); without it nothing happens.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.health import Condition, Health
from mtkd_edge.device.ledger import Ledger

HANGING = frozenset({Condition.STARTING, Condition.STALLED})


class Watchdog:
    """An output (`pulse.py`). `live` says which sources are cameras. A word that does not arrive is said again.

    Raises ValueError for a WATCHDOG_USEC that is no number.
    """

    def __init__(self, live: Mapping[str, bool], environment: Mapping[str, str] = os.environ) -> None:
        self._live = dict(live)
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 / 4
        self._vitals: tuple[Ledger, Health] | None = None
        self._scored, self._fed_at, self._ready = 0, 0.0, False

    def attach(self, ledger: Ledger, health: Health) -> None:
        """The watch has begun."""
        self._vitals = ledger, health

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat: say that the station is ready, once; feed, at most four times in the watchdog's time."""
        if not self._address or self._vitals is None:
            return
        now = time.monotonic()
        if not self._ready:
            self._ready = self._say("READY=1\nSTATUS=watching")
            self._fed_at = now
        if now - self._fed_at < self._every:
            return
        scored = sum(status.sequence for status in statuses)
        if scored == self._scored and not self._idle():
            return
        answers = ", ".join(f"{status.source} {status.answer.value}" for status in statuses)
        if self._say(f"WATCHDOG=1\nSTATUS={scored} frames; {answers}"):
            self._scored, self._fed_at = scored, now

    def stopping(self) -> None:
        """The station ends on purpose."""
        if self._address:
            self._say("STOPPING=1")

    def _idle(self) -> bool:
        assert self._vitals is not None, "the caller has looked"
        ledger, health = self._vitals
        for source, live in self._live.items():
            if ledger.account(source).waiting or (live and health.record(source).condition in HANGING):
                return False
        # a camera that is said to run is known to do so by its frames alone
        return not any(live and health.record(name).condition is Condition.RUNNING for name, live in self._live.items())

    def _say(self, words: str) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(0.1)
                out.sendto(words.encode(), self._address)
        except OSError:
            return False  # systemd is busy or gone: the next beat tries again, and silence is what it acts on
        return True
