"""A daemon thread that remembers what it died of, so that whoever waits for it can raise it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec

P = ParamSpec("P")


class Task(threading.Thread):
    """Runs `function(*args)` at once. `error` is what it raised; a daemon, since a camera's driver may never return."""

    def __init__(self, name: str, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        super().__init__(name=name, daemon=True)
        self._work = partial(function, *args, **kwargs)
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """The thread's work."""
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the task is awaited
            self.error = error
