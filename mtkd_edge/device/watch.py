"""The watch: sources in, one verdict for every frame out, until the sources end or someone says stop.

    one thread a source:  capture, decode, resize -> mailbox      (a camera's decoder is a process of its own)
    the caller's thread:  mailbox -> engine                 (this file)
    one thread behind:    verdict, ledger, sinks            (finish.py)

Of files, an engine that can is given the next batch while it computes one. Of cameras it is not: the next frame would
be taken from the mailbox earlier, and its verdict be older.

Files lose no frame: every stage waits for the next. Live sources never wait: their newest frame replaces the one
before. Stop means that nothing more is captured; what has been captured still gets its verdict.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mtkd_edge.bundle import Manifest
from mtkd_edge.device.engine import Bounds, Engine
from mtkd_edge.device.finish import Finisher
from mtkd_edge.device.health import Event, Health, Tell, untold
from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.mailbox import Mailbox
from mtkd_edge.device.monitor import Monitor
from mtkd_edge.device.pump import Pump
from mtkd_edge.device.scoring import Scored, Scorer
from mtkd_edge.device.sinks import Sink, guard
from mtkd_edge.device.sources.base import Captured, Source, decoders_replaced
from mtkd_edge.device.summary import Summary, summarise
from mtkd_edge.errors import BackendError, SourceError, UsageError
from mtkd_edge.threshold import Threshold

TICK = 0.1
"""Seconds after which a stop or a dead thread is noticed at the latest."""
ENGINE_FAILED = "the engine had failed"


def forgotten(captured: Captured) -> None:
    """Nobody remembers."""


def unattached(ledger: Ledger, health: Health) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`regions`: the most in one verdict. `silence`: seconds without a frame after which a camera is called stalled.

    `patience`: engine failures in a row that end the watch. `ahead_bytes`: photos of files that may wait, in bytes.
    `grace`: seconds after a stop that a source gets to end. `tell` hears of every change of a source or sink.
    `focus`: for a source, what of its map and score counts (`decisions/focus.py`). `attach` is handed ledger and health
    once there are any, for whoever shows them while the watch runs. `done` hears of every frame whose verdict all sinks
    have had, in order.
    """

    regions: int = 20
    silence: float = 0.9
    patience: int = 5
    ahead_bytes: int = 64 << 20
    grace: float = 5.0
    tell: Tell = untold
    focus: Mapping[str, Callable[[Scored], Scored]] = field(default_factory=dict)
    attach: Callable[[Ledger, Health], None] = unattached
    done: Callable[[Captured], None] = forgotten


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
    """Score every frame of every source until all have ended or `stop` is set; sources and sinks are then closed.

    Raises UsageError for two sources of one name, SourceError when every source has failed, BackendError when the
    engine fails on `patience` frames in a row (the frames still waiting are counted as dropped).
    """
    live = {source.name: source.live for source in sources}
    if len(live) != len(sources) or not sources:
        raise UsageError(f"a watch wants sources of different names, got {[source.name for source in sources]}")
    began = time.monotonic()
    ledger = Ledger(live)
    health = Health(live, options.silence, options.tell)
    options.attach(ledger, health)
    mailbox = Mailbox(ledger, any(live.values()), max(4, 2 * engine.batch), options.ahead_bytes)
    guards = [guard(sink, not any(live.values()), options.tell) for sink in sinks]
    finisher = Finisher(threshold, options.regions, ledger, guards, options.focus, options.done)
    pumps = [Pump(source, mailbox, health, manifest) for source in sources]
    at_once = 1 if any(live.values()) else 2
    wanted = wanted_maps(threshold, sinks, options.focus)
    scorer = Scorer(engine, options.patience, health.engine_restarted, at_once, wanted)
    monitor = Monitor(health, mailbox)
    try:
        _score(scorer, engine.batch, pumps, mailbox, finisher, stop, options)
        if scorer.gave_up:
            _abandon(scorer, mailbox, ledger)
    finally:
        for pump in pumps:
            pump.stop()
        mailbox.close()
        try:
            finisher.close()
        finally:
            for guarded in guards:
                guarded.close()
            monitor.close()
    accounts = ledger.close()
    if scorer.gave_up:
        raise _engine_failed(
            scorer.gave_up, options.patience, sum(a.dropped.get(ENGINE_FAILED, 0) for a in accounts.values())
        )
    if all(pump.failed for pump in pumps):
        raise pumps[0].failed or SourceError("every source failed")
    replaced = {source.name: decoders_replaced(source) for source in sources}
    return summarise(engine.name, accounts, health, finisher.tally, guards, time.monotonic() - began, replaced)


def wanted_maps(
    threshold: Threshold, sinks: Sequence[Sink], focus: Mapping[str, Callable[[Scored], Scored]]
) -> Bounds | None:
    """Which maps anybody needs: those with regions or with a verdict other than normal; None = all of them.

    A focus pools every score again, from the map. A sink gets all maps unless it says `every_map = False`.
    """
    if focus or any(getattr(sink, "every_map", True) for sink in sinks):
        return None
    return Bounds(threshold.score, threshold.map)


def _score(
    scorer: Scorer,
    most: int,
    pumps: Sequence[Pump],
    mailbox: Mailbox,
    finisher: Finisher,
    stop: threading.Event,
    options: WatchOptions,
) -> None:
    """The loop: ends when there is nothing left to score, or no hope of scoring it."""
    deadline, told = float("inf"), ""
    while not scorer.gave_up:
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + options.grace
            for pump in pumps:
                pump.stop()
        waiting = [pump for pump in pumps if not pump.is_over()]
        over = not waiting or time.monotonic() > deadline
        if over:
            mailbox.close()  # before the last look: a frame that comes later is then not captured at all
        batch = mailbox.take(most, TICK if scorer.idle else 0.0)
        if batch:
            now = time.monotonic()
            scorer.begin(batch, [max(0.0, (now - p.captured.monotonic) * 1e3 - p.resize_ms) for p in batch])
        elif over and scorer.idle:
            return
        if scorer.full or not (batch or scorer.idle):
            scored = scorer.end()
            while not finisher.offer(scored, TICK):
                continue  # it raises what the finisher has died of
        if scorer.remark != told:
            told = scorer.remark
            options.tell(Event("engine", told, "", time.time()))


def _abandon(scorer: Scorer, mailbox: Mailbox, ledger: Ledger) -> None:
    mailbox.close()
    left = scorer.abandon()
    while batch := mailbox.take(1, 0.0):
        left += batch
    for prepared in left:
        ledger.drop(prepared.captured.source, ENGINE_FAILED)


def _engine_failed(error: BackendError, patience: int, lost: int) -> BackendError:
    return BackendError(
        f"the engine failed on {patience} frames in a row, {lost} waiting ones were given up: {error.message}",
        error.hint or "mtkd-edge check",
    )
