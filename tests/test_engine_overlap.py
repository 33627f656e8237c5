"""An engine that takes two batches at once, in a process of its own: what is under way when it is lost is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import line
import numpy as np
import pytest

from mtkd_edge.device.engine import Bounds, EngineLost, EngineOptions
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.engines.process import EngineProcess
from mtkd_edge.device.health import Event, Health
from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.watch import ENGINE_FAILED, WatchOptions, watch
from mtkd_edge.errors import BackendError
from mtkd_edge.verdict import State

HANGS, CRASHES, REFUSES, CRASHES_AT_ONCE = 77, 78, 79, 82


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(Path("engines/bad"), (64, 64), EngineOptions(), "bad_workers:overlapping") as engine:
        yield engine.ready()


def frames(*shades: int, defect: bool = True) -> np.ndarray:
    return np.stack([line.part(shade, defect=defect) for shade in shades])


def test_two_batches_keep_their_frames_and_their_answers_apart(engine: EngineProcess) -> None:
    assert engine.at_once == 2
    for n in range(0, 60, 4):
        first, second = frames(n, n + 1), frames(n + 2, n + 3, n)
        tickets = [engine.submit(first), engine.submit(second)]
        wanted = [FakeEngine().infer(first), FakeEngine().infer(second)]
        first[:] = second[:] = 0  # the caller's own again
        for ticket, there in zip(tickets, wanted, strict=True):
            found = engine.collect(ticket)
            assert np.array_equal(found.maps, there.maps) and np.array_equal(found.scores, there.scores)
    assert engine.remark == "0 beside"
    with pytest.raises(BackendError, match="no batch number 7"):
        engine.collect(7)


def test_only_maps_that_somebody_needs_come_from_the_process(engine: EngineProcess) -> None:
    both = np.concatenate([frames(20, defect=False), frames(21), frames(22, defect=False)])
    found = engine.collect(engine.submit(both, Bounds(0.5, 0.5)))
    there = FakeEngine().infer(both)
    assert found.has_map is not None and found.has_map.tolist() == [False, True, False]
    assert np.array_equal(found.maps[1], there.maps[1]) and np.isnan(found.maps[[0, 2]]).all()
    assert np.array_equal(found.scores, there.scores)


@pytest.mark.parametrize(
    ("shade", "place"),
    [(HANGS, 9), *((shade, place) for shade in (CRASHES, REFUSES, CRASHES_AT_ONCE) for place in (0, 9, 19))],
)
def test_a_frame_that_costs_the_engine_takes_no_other_with_it(engine: EngineProcess, shade: int, place: int) -> None:
    photos = [line.part(shade if n == place else n, defect=n % 3 == 0) for n in range(20)]
    events: list[Event] = []
    verdicts, summary = line.run([line.Memory("folder", photos)], engine, events=events)
    wanted = [State.INVALID if n == place else State.NORMAL if n % 3 else State.ANOMALOUS for n in range(20)]
    assert [verdict.state for verdict in verdicts] == wanted
    assert [verdict.seq for verdict in verdicts] == list(range(20))
    source = summary.sources[0]
    assert (source.captured, source.scored, source.invalid, source.dropped) == (20, 19, 1, {})
    # with its batch, with the one before it, and alone
    assert 1 <= summary.engine_restarts <= 4
    assert len([event for event in events if event.what == "restarted"]) == summary.engine_restarts


def test_when_it_is_lost_the_other_batch_may_be_given_again(engine: EngineProcess) -> None:
    pid = engine.pid
    lost, other = engine.submit(frames(CRASHES)), engine.submit(frames(3))
    with pytest.raises(EngineLost, match="SIGSEGV"):
        engine.collect(lost)
    with pytest.raises(BackendError, match="no batch number"):
        engine.collect(other)
    assert engine.pid != pid
    assert np.array_equal(engine.infer(frames(3)).scores, FakeEngine().infer(frames(3)).scores)


def test_what_is_under_way_when_the_watch_gives_up_is_counted_as_dropped(engine: EngineProcess) -> None:
    ledgers: list[Ledger] = []

    def attach(ledger: Ledger, health: Health) -> None:
        ledgers.append(ledger)

    photos = [line.part(REFUSES)] * 30
    with pytest.raises(BackendError, match="failed on 2 frames in a row") as refused:
        watch(
            engine,
            line.MANIFEST,
            line.THRESHOLD,
            [line.Memory("folder", photos)],
            [],
            threading.Event(),
            WatchOptions(patience=2, attach=attach),
        )
    account = ledgers[0].account("folder")
    assert account.captured == account.scored + account.invalid + account.dropped[ENGINE_FAILED]
    # two batches failed, each of as many frames as were decoded by then
    assert account.scored == 0 and 2 <= account.invalid <= 2 * engine.batch and account.dropped[ENGINE_FAILED] >= 1
    assert f"{account.dropped[ENGINE_FAILED]} waiting ones" in refused.value.message
