"""What happens to sources, sinks and the engine, on stderr: each line once, then how often it was repeated.

A camera that flaps would otherwise fill a disk with its log. A line that comes again within the pause after its last
one is counted; when the pause is over the count is told, and the pause doubles up to LONGEST.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from mtkd_edge.cli import console

if TYPE_CHECKING:
    from mtkd_edge.device.health import Event

PAUSE, LONGEST = 10.0, 600.0
LINES = 256
"""Different lines that are remembered; the one that was told least lately is forgotten for another."""
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class _Line:
    event: Event
    at: float
    pause: float
    more: int = 0


class Told:
    """Call it with events, from any thread. With `as_json` each line is an object: subject, what, reason, at, more."""

    def __init__(self, as_json: bool, note: Callable[[str], None] = console.note, pause: float = PAUSE) -> None:
        self._as_json, self._note, self._pause = as_json, note, pause
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str, str], _Line] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="told")
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Tell it, or count it."""
        key = event.subject, event.what, _NUMBER.sub("#", event.reason)
        with self._lock:
            line = self._lines.pop(key, None)
            now = time.monotonic()
            # one with repeats that are not told yet is the thread's to tell, also when its pause is over
            if line is not None and (line.more or now - line.at < line.pause):
                line.event, line.more = event, line.more + 1
            else:
                self._say(event, 0)
                line = _Line(event, now, self._pause)
            self._lines[key] = line
            if len(self._lines) > LINES:
                oldest = self._lines.pop(next(iter(self._lines)))
                self._flush(oldest, now)

    def close(self) -> None:
        """Tell what was counted."""
        self._over.set()
        self._thread.join()
        with self._lock:
            for line in self._lines.values():
                self._flush(line, time.monotonic())

    def __enter__(self) -> Told:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while not self._over.wait(min(1.0, self._pause / 4)):
            now = time.monotonic()
            with self._lock:
                for line in self._lines.values():
                    if line.more and now - line.at >= line.pause:
                        self._flush(line, now)
                        line.pause = min(2 * line.pause, LONGEST)

    def _flush(self, line: _Line, now: float) -> None:
        if line.more:
            self._say(line.event, line.more)
            line.more, line.at = 0, now

    def _say(self, event: Event, more: int) -> None:
        with suppress(OSError):  # a log that cannot be written, its disk being full or its reader gone, stops nothing
            self._note(self._text(event, more))

    def _text(self, event: Event, more: int) -> str:
        if self._as_json:
            fields = msgspec.structs.asdict(event) | ({"more": more} if more else {})
            return msgspec.json.encode(fields).decode()
        reason = f": {event.reason}" if event.reason else ""
        times = f" ({more} time{'' if more == 1 else 's'} more)" if more else ""
        return f"{event.subject}: {event.what}{reason}{times}"
