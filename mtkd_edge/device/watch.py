"""The watch: sources in, one verdict for every frame out, until the sources end or someone says stop.

    one thread a source:  capture, decode, resize -> mailbox
    the caller's thread:  mailbox -> engine                      (never waits for anything but frames)
    one thread behind:    regions, verdict, ledger, sinks

Files lose no frame: every stage waits for the next. Live sources never wait: their newest frame replaces the one
before. Stop means that nothing more is captured; what has been captured still gets its verdict.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mtkd_edge.bundle import Manifest
from mtkd_edge.device.engine import Engine
from mtkd_edge.device.health import Health, Tell, untold
from mtkd_edge.device.judge import judge
from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.mailbox import Mailbox
from mtkd_edge.device.prepare import prepare
from mtkd_edge.device.scoring import Scored, Scorer
from mtkd_edge.device.sinks import Guard, Sink, guard
from mtkd_edge.device.sources.base import Source
from mtkd_edge.device.summary import SourceSummary, Summary, Tally
from mtkd_edge.device.task import Task
from mtkd_edge.errors import BackendError, SourceError, UsageError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import State

TICK = 0.1
"""Seconds after which a stop, a silent camera or a dead thread is noticed at the latest."""
ENGINE_FAILED = "the engine had failed"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`regions`: the most in one verdict. `silence`: seconds without a frame after which a camera is called stalled.
    `patience`: engine failures in a row that end the watch. `ahead_bytes`: photos of files that may wait, in bytes.
    `grace`: seconds after a stop that a source gets to end. `tell` hears of every change of a source or sink.
    """

    regions: int = 20
    silence: float = 1.0
    patience: int = 5
    ahead_bytes: int = 64 << 20
    grace: float = 5.0
    tell: Tell = untold


DEFAULT = WatchOptions()


def watch(
    engine: Engine,
    manifest: Manifest,
    threshold: Threshold,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    stop: threading.Event,
    options: WatchOptions = DEFAULT,
) -> Summary:
    """Score every frame of every source until all have ended or `stop` is set; sources and sinks are closed after it.

    Raises UsageError for two sources of one name, SourceError when every source has failed, BackendError when the
    engine fails on `patience` frames in a row (frames then in hand are counted as dropped).
    """
    live = {source.name: source.live for source in sources}
    if len(live) != len(sources) or not sources:
        raise UsageError(f"a watch wants sources of different names, got {[source.name for source in sources]}")
    guards = [guard(sink, not any(live.values()), options.tell) for sink in sinks]
    run = _Run(engine, manifest.frame, threshold, live, guards, options)
    pumps = [Task(f"source {source.name}", run.pump, source) for source in sources]
    finisher = Task("verdicts", run.finish)
    try:
        run.score(sources, pumps, finisher, stop)
    finally:
        for source in sources:
            source.close()
        run.mailbox.close()
        run.finished(finisher)
        for guarded in guards:
            guarded.close()
    if finisher.error is not None:
        raise finisher.error
    return run.outcome(pumps)


class _Run:
    """What the threads of one watch share."""

    def __init__(
        self,
        engine: Engine,
        spec: FrameSpec,
        threshold: Threshold,
        live: dict[str, bool],
        guards: list[Guard],
        options: WatchOptions,
    ) -> None:
        self.engine, self.spec, self.threshold = engine, spec, threshold
        self.guards, self.options = guards, options
        self.ledger = Ledger(live)
        self.health = Health(live, options.silence, options.tell)
        self.mailbox = Mailbox(self.ledger, any(live.values()), max(4, 2 * engine.batch), options.ahead_bytes)
        self.scorer = Scorer(engine, options.patience)
        self.tally = Tally()
        # two batches: one that is being judged, one that waits; more would only make live verdicts older
        self.scored: queue.Queue[list[Scored] | None] = queue.Queue(1)
        self.began = time.monotonic()
        self.stopped = 0.0

    def pump(self, source: Source) -> None:
        """A source's thread."""
        name = source.name
        leave = self.mailbox.offer if source.live else self.mailbox.put
        try:
            for captured in source.frames(lambda why: self.health.lost(name, why)):
                self.health.frame(name)
                if not leave(prepare(captured, self.spec)):
                    break
        except SourceError as error:
            self.health.ended(name, error.message)
            raise
        if not self.stopped:  # else it was cut off, and has not come to its end
            self.health.ended(name, "")

    def score(self, sources: Sequence[Source], pumps: list[Task], finisher: Task, stop: threading.Event) -> None:
        """The caller's loop: ends when there is nothing left to score, or no hope of scoring it."""
        while True:
            if stop.is_set() and not self.stopped:
                self.stopped = time.monotonic()
                for source in sources:
                    source.close()
            self.health.check()
            over = self._over(sources, pumps)
            if over:
                self.mailbox.close()  # before the last look: a camera's late frame is then not captured at all
            batch = self.mailbox.take(self.engine.batch, TICK)
            if batch:
                now = time.monotonic()
                waits = [(now - prepared.captured.monotonic) * 1e3 - prepared.resize_ms for prepared in batch]
                self._hand_over(self.scorer.score(batch, [max(0.0, wait) for wait in waits]), finisher)
            elif over:
                return
            if self.scorer.gave_up:
                self._abandon()
                return

    def _over(self, sources: Sequence[Source], pumps: list[Task]) -> bool:
        """Whether no source will give another frame. Raises what a thread died of, unless a source says it itself."""
        for pump in pumps:
            if pump.error is not None and not isinstance(pump.error, SourceError):
                raise pump.error
        # a camera blocked in a read has captured nothing; and no file may hold up a stop for ever
        patient = not self.stopped or time.monotonic() - self.stopped < self.options.grace
        alive = [source for source, pump in zip(sources, pumps, strict=True) if pump.is_alive()]
        return not patient or not any(not (self.stopped and source.live) for source in alive)

    def _hand_over(self, scored: list[Scored], finisher: Task) -> None:
        while True:
            if finisher.error is not None:
                raise finisher.error
            try:
                return self.scored.put(scored, timeout=TICK)
            except queue.Full:
                self.health.check()

    def _abandon(self) -> None:
        self.mailbox.close()
        while batch := self.mailbox.take(self.engine.batch, 0.0):
            for prepared in batch:
                self.ledger.drop(prepared.captured.source, ENGINE_FAILED)

    def finished(self, finisher: Task) -> None:
        """Waits until the thread behind the engine has judged all it was given."""
        while finisher.is_alive():
            try:
                self.scored.put(None, timeout=TICK)
                return finisher.join()
            except queue.Full:
                continue

    def finish(self) -> None:
        """The thread behind the engine."""
        while (batch := self.scored.get()) is not None:
            for scored in batch:
                verdict = judge(scored, self.threshold, self.spec, self.options.regions)
                captured = scored.prepared.captured
                self.ledger.settle(captured.source, verdict.state)
                self.tally.add(verdict, captured.monotonic)
                for guarded in self.guards:
                    guarded(verdict, captured.photo, scored.values)

    def outcome(self, pumps: list[Task]) -> Summary:
        """The summary, or the error that the watch ended with."""
        accounts = self.ledger.close()
        if self.scorer.gave_up:
            lost = sum(sum(account.dropped.values()) for account in accounts.values())
            raise BackendError(
                f"the engine failed on {self.options.patience} frames in a row, {lost} frames were given up: "
                f"{self.scorer.gave_up.message}",
                "mtkd-edge check",
            )
        if all(pump.error for pump in pumps):
            raise pumps[0].error or SourceError("every source failed")
        sources = []
        for name, account in accounts.items():
            record = self.health.record(name)
            sources.append(
                SourceSummary(
                    source=name,
                    captured=account.captured,
                    scored=account.scored,
                    invalid=account.invalid,
                    dropped=account.dropped,
                    normal=self.tally.verdicts[name, State.NORMAL],
                    anomalous=self.tally.verdicts[name, State.ANOMALOUS],
                    condition=record.condition,
                    reason=record.reason,
                    outages=record.outages,
                    outage_count=record.outage_count,
                    outage_seconds=record.outage_seconds,
                )
            )
        return Summary(
            engine=self.engine.name,
            began=self.tally.began,
            seconds=time.monotonic() - self.began,
            throughput=self.tally.throughput(),
            sources=tuple(sources),
            latency_ms=self.tally.latency(),
            sinks=tuple(guarded.report() for guarded in self.guards),
        )
