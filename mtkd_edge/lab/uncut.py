"""Training steps that Ctrl-C does not cut in two."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Uncut:
    """`with uncut:` around each step: Ctrl-C (SIGINT) waits until it is done, and is a KeyboardInterrupt then.

    A second one does not wait: a step may take a minute, or hang.

    `whole` is false while a step is half done, also after an error in it: batch statistics, or some of the weights,
    are then those of the next step, and nothing may be saved. Signals reach the main thread alone; in another one, and
    where Ctrl-C is none of Python's business, steps run as they are.
    """

    def __init__(self) -> None:
        self.whole = True
        self._came = False

    def __enter__(self) -> Self:
        self._came = False
        self._usual = signal.getsignal(signal.SIGINT)
        self._holds = threading.current_thread() is threading.main_thread() and callable(self._usual)
        if self._holds:
            signal.signal(signal.SIGINT, self._wait)
        self.whole = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.whole = kind is None
        if self._holds:
            signal.signal(signal.SIGINT, self._usual)
        if self._came and kind is None:
            raise KeyboardInterrupt

    def _wait(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True
