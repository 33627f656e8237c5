"""The thread that watches a watch: silent cameras, frames that nobody takes. It never waits for engine or sinks."""

from __future__ import annotations

import threading

from mtkd_edge.device.health import Health
from mtkd_edge.device.mailbox import Mailbox
from mtkd_edge.device.task import Task

TICK = 0.1
"""Seconds between looks."""


class Monitor:
    """Looks until closed."""

    def __init__(self, health: Health, mailbox: Mailbox) -> None:
        self._health, self._mailbox = health, mailbox
        self._closing = threading.Event()
        self._task = Task("monitor", self._work)

    def close(self) -> None:
        """The last look. Raises what the thread died of."""
        self._closing.set()
        self._task.join()
        if self._task.error is not None:
            raise self._task.error

    def _work(self) -> None:
        while not self._closing.wait(TICK):
            self._health.check(self._mailbox.waits())
