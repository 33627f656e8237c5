"""The child's end: die with the parent, leave Ctrl-C to it, then do what the process was started for."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
from collections.abc import Sequence

from mtkd_edge.device.workers.shared import Shared
from mtkd_edge.device.workers.wire import Wire

DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def main(words: Sequence[str]) -> None:
    """`words`: "module:function", the parent's pid, the descriptors to read, to write and of the shared memory.

    The function is called with (wire, shared, order); the order is the first message. It ends by returning, or when
    the parent closes the wire; any other error ends the process with its traceback on stderr, where the parent reads.
    """
    target, parent, read, write, memory = words
    die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its children in order
    module, _, name = target.partition(":")
    wire = Wire(int(read), int(write))
    try:
        order = wire.receive(None)
        getattr(importlib.import_module(module), name)(wire, Shared(int(memory)), order)
    except (EOFError, BrokenPipeError):
        pass_away()
    pass_away()


def pass_away() -> None:
    """End at once: an orderly end of the interpreter waits for threads that may hang in a driver."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_with(parent: int) -> None:
    """Be killed when the thread that has started this process ends, or now if it has."""
    # sent when the thread that started this process ends, which by design is not before it is to end
    ctypes.CDLL(None, use_errno=True).prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        pass_away()
