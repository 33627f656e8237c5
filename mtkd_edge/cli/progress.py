"""Progress on stderr: bars with the time left on a terminal, a plain line now and then anywhere else.

Knows nothing of the work: the lab and the device call a `mtkd_edge.progress.Progress` and never ask who listens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mtkd_edge.progress import Progress

EVERY_S = 10.0
"""A step that takes longer gets a plain line this often where stderr is not a terminal."""


@contextmanager
def shown() -> Iterator[Progress]:
    """A progress listener for as long as the block lasts."""
    if sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        yield _Lines()


class _Lines:
    """One line when a step begins to take long, and one when it ends."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.started: dict[str, tuple[float, int]] = {}

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        began, first = self.started.setdefault(step, (now, done))
        if done >= total:
            self.started.pop(step)
        elif now - self.last < EVERY_S:
            return
        self.last = now
        left = f"  {(now - began) / (done - first) * (total - done):.0f} s left" if first < done < total else ""
        took = f"  {now - began:.1f} s" if done >= total else ""
        print(f"{step}: {done}/{total}{left}{took}  {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def progress(step: str, done: int, total: int, note: str = "") -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total, note=note)
            bars.update(tasks[step], completed=done, total=total, note=note)

        yield progress
