"""Who may touch which memory when: the order of work on streams, for `cuda_double`.

Every piece of work knows what it reads and writes and what it comes after: the work before it on its stream, the
events that stream waited for, and whatever the host has waited for. Two that touch the same memory, one of them
writing, must be ordered that way, or it is an AssertionError; so must what the host writes to pinned memory. With
`late` nothing runs before somebody waits for it, and then nothing but what it needs: the slowest GPU there could be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cuda_double import Stream

Ranges = Sequence[tuple[int, int]]
"""(address, bytes)."""


class Op:
    """A piece of work, or an event's mark. `before`: all that has run when it runs."""

    def __init__(self, number: int, work: Callable[[], None], reads: Ranges, writes: Ranges, before: set[Op]) -> None:
        self.number, self.reads, self.writes, self.before = number, reads, writes, before
        self.work: Callable[[], None] | None = work
        self.ran = self.known = False

    def __hash__(self) -> int:
        return self.number

    def conflicts(self, reads: Ranges, writes: Ranges) -> bool:
        return meet(self.writes, (*reads, *writes)) or meet(self.reads, writes)


def meet(some: Ranges, others: Ranges) -> bool:
    return any(a < b + m and b < a + n for a, n in some for b, m in others)


class Pinned(np.ndarray):
    """Pinned memory: the host may touch it only where no work that is under way does."""

    cuda: Order

    def __array_finalize__(self, other: object) -> None:
        self.cuda = getattr(other, "cuda", None)

    def __setitem__(self, key: object, value: object) -> None:
        part = np.ndarray.__getitem__(self, key)
        self.cuda.on_host((), [span(part)])
        super().__setitem__(key, value)

    def copy(self, order: str = "C") -> np.ndarray:
        self.cuda.on_host([span(self)], ())
        return np.array(self, subok=False)


def span(array: np.ndarray) -> tuple[int, int]:
    return array.ctypes.data, array.nbytes


class Order:
    """`log` names the work queued, in order."""

    def __init__(self, late: bool) -> None:
        self.lock = threading.RLock()
        self.late = late
        self.ops: list[Op] = []
        self.log: list[str] = []

    def need_context(self) -> None:
        raise NotImplementedError

    def queue(
        self, stream: Stream, work: Callable[[], None], reads: Ranges = (), writes: Ranges = (), name: str = ""
    ) -> Op | None:
        """Queue work; None while the stream is captured."""
        self.need_context()
        if stream.captured is not None:
            stream.captured.append((work, reads, writes, name))
            return None
        with self.lock:
            before = stream.waited | ({stream.tail} | stream.tail.before if stream.tail else set())
            before = {one for one in before if not one.known}
            for other in self.ops:
                ordered = other.known or other in before
                assert ordered or not other.conflicts(reads, writes), f"{name} meets work that may not be done"
            op = Op(len(self.log), work, reads, writes, before)
            self.log.append(name)
            self.ops = [other for other in self.ops if not other.known] + [op]
            stream.tail, stream.waited = op, set()
            if not self.late:
                self.run(op)
        return op

    def run(self, op: Op) -> None:
        for one in sorted({*op.before, op}, key=lambda each: each.number):
            if not one.ran:
                one.ran, work = True, one.work
                one.work = None  # what it holds on to may go
                work()

    def wait(self, op: Op | None) -> None:
        """The host waits, and from then on knows that all of it is done."""
        self.need_context()
        if op is not None:
            with self.lock:
                self.run(op)
                for one in (*op.before, op):
                    one.known, one.before = True, set()

    def on_host(self, reads: Ranges, writes: Ranges) -> None:
        for op in self.ops:
            assert op.known or not op.conflicts(reads, writes), "the host touches memory that is in use"
