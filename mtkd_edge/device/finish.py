"""The thread behind the engine: scored frames become verdicts, the ledger learns of them, the sinks get them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence

from mtkd_edge.device.judge import judge
from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.scoring import Scored
from mtkd_edge.device.sinks import Guard
from mtkd_edge.device.sources.base import Captured
from mtkd_edge.device.summary import Tally
from mtkd_edge.device.task import Task
from mtkd_edge.threshold import Threshold


class Finisher:
    """Judges batches in the order in which they come; `tally` counts the verdicts."""

    def __init__(
        self,
        threshold: Threshold,
        most: int,
        ledger: Ledger,
        guards: Sequence[Guard],
        focus: Mapping[str, Callable[[Scored], Scored]],
        done: Callable[[Captured], None],
    ) -> None:
        self._threshold, self._most, self._focus = threshold, most, focus
        self._ledger, self._guards, self._done = ledger, guards, done
        self.tally = Tally()
        # one batch is judged, one waits, one is in the engine; more would only make live verdicts older
        self._room: queue.Queue[list[Scored]] = queue.Queue(1)
        self._closing = threading.Event()
        self._task = Task("verdicts", self._work)

    def offer(self, batch: list[Scored], timeout: float) -> bool:
        """Leave a batch; False where there was no room in time. Raises what the thread died of."""
        self._raise()
        try:
            self._room.put(batch, timeout=timeout)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Waits until all that was left here has its verdict. Raises what the thread died of."""
        self._closing.set()
        self._task.join()
        self._raise()

    def _work(self) -> None:
        while not (self._closing.is_set() and self._room.empty()):
            try:
                batch = self._room.get(timeout=0.05)
            except queue.Empty:
                continue
            for scored in batch:
                self._judge(scored)

    def _judge(self, scored: Scored) -> None:
        captured = scored.prepared.captured
        if focus := self._focus.get(captured.source):
            scored = focus(scored)
        verdict = judge(scored, self._threshold, self._most)
        self._ledger.settle(captured.source, verdict.state)
        self.tally.add(verdict, captured.monotonic)
        for guard in self._guards:
            guard(verdict, captured.photo, scored.values)
        self._done(captured)

    def _raise(self) -> None:
        if self._task.error is not None:
            raise self._task.error
