"""An engine in its own process: the same answers; a hang, a crash or an error costs one frame and is counted."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import line
import numpy as np
import pytest

from mtkd_edge.device.engine import EngineLost, EngineOptions
from mtkd_edge.device.engines import process
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.engines.process import HANG, EngineProcess
from mtkd_edge.device.health import Event
from mtkd_edge.errors import BackendError, BundleError
from mtkd_edge.verdict import State

FOLDER = Path("engines/bad")


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(FOLDER, (64, 64), EngineOptions(), "bad_workers:engine") as engine:
        yield engine.ready()


def frames(*shades: int) -> np.ndarray:
    return np.stack([line.part(shade, defect=True) for shade in shades])


def test_it_answers_as_the_engine_itself_does(engine: EngineProcess) -> None:
    assert (engine.name, engine.batch) == ("fake", 4)
    for shades in ((1,), (2, 3, 4), (5, 6, 7, 8)):
        here, there = FakeEngine().infer(frames(*shades)), engine.infer(frames(*shades))
        assert np.array_equal(here.maps, there.maps) and np.array_equal(here.scores, there.scores)
        assert list(there.stages) == ["infer"]
    with pytest.raises(BackendError, match="takes"):
        engine.infer(frames(1).astype(np.float32))  # type: ignore[arg-type]
    pid = engine.pid
    engine.close()
    with pytest.raises(BackendError, match="is closed"):
        engine.infer(frames(1))
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("shade", "words"), [(77, "the engine hung for 1.5 s"), (78, "was ended by SIGSEGV"), (79, "CUDA error 700")]
)
def test_what_it_hangs_crashes_or_refuses_on_is_one_invalid_frame_and_a_restart(
    engine: EngineProcess, shade: int, words: str
) -> None:
    """In the middle of a batch: its neighbours keep their verdicts."""
    photos = [line.part(shade if n == 9 else 20) for n in range(20)]
    events: list[Event] = []
    verdicts, summary = line.run([line.Memory("folder", photos)], engine, events=events)
    assert [verdict.seq for verdict in verdicts if verdict.state is State.INVALID] == [9]
    assert words in verdicts[9].reason and "started anew" in verdicts[9].reason
    source = summary.sources[0]
    assert (source.captured, source.scored, source.invalid) == (20, 19, 1)
    # once with its batch, if it had one, and once alone
    assert 1 <= summary.engine_restarts <= 2
    told = [event for event in events if event.what == "restarted"]
    assert len(told) == summary.engine_restarts and words in told[0].reason and told[0].subject == "engine"


def test_a_hang_is_noticed_and_the_next_engine_started_within_two_seconds(engine: EngineProcess) -> None:
    """In the very first call, too: what a runtime sets up late it has set up before it is ready."""
    pid, began = engine.pid, time.monotonic()
    with pytest.raises(EngineLost):
        engine.infer(frames(77))
    assert engine.pid != pid and HANG <= time.monotonic() - began < 2.0
    assert not Path(f"/proc/{pid}").exists()
    assert engine.infer(frames(1)).scores[0] == 1.0


def test_a_slow_engine_is_no_hung_one(engine: EngineProcess) -> None:
    engine.infer(frames(1))
    pid = engine.pid
    engine.infer(frames(80))
    engine.infer(frames(81))  # longer than HANG, and not twenty times as long as the one before
    assert engine.pid == pid


def test_an_engine_that_always_takes_longer_than_a_hang_is_no_hung_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HANG", 0.1)
    with EngineProcess(FOLDER, (64, 64), EngineOptions(), "bad_workers:slow") as engine:
        pid = engine.ready().pid
        began = time.monotonic()
        engine.infer(frames(1))
        assert time.monotonic() - began > process.HANG and engine.pid == pid


def test_one_killed_from_outside_is_replaced(engine: EngineProcess) -> None:
    engine.infer(frames(1))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineLost, match="was ended by SIGKILL"):
        engine.infer(frames(1))
    assert engine.infer(frames(1)).scores[0] == 1.0


def test_what_cannot_be_loaded_says_so_in_its_own_words(tmp_path: Path) -> None:
    with (
        EngineProcess(FOLDER, (64, 64), EngineOptions(), "bad_workers:broken") as engine,
        pytest.raises(BackendError, match="ended with 1: ZeroDivisionError: no such luck"),
    ):
        engine.ready()
    with EngineProcess(tmp_path, (64, 64), EngineOptions()) as engine, pytest.raises(BundleError) as refused:
        engine.ready()
    assert refused.value.hint


def test_an_engine_that_fails_on_everything_ends_the_watch(engine: EngineProcess) -> None:
    with pytest.raises(BackendError, match=r"failed on 2 frames in a row"):
        line.run([line.Memory("folder", [line.part(79)] * 10)], engine, patience=2)


def test_where_no_process_can_be_started_it_is_tried_for_a_while_and_said(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def refused(*words: object) -> None:
        tried.append(time.monotonic())
        raise OSError(errno.EAGAIN, "no room")

    monkeypatch.setattr(process, "Child", refused)
    monkeypatch.setattr(process, "STARTS", (0.0, 0.1, 0.1))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="no process for the engine can be started: no room"):
        engine.infer(frames(10))
    assert len(tried) == 3
    with pytest.raises(BackendError, match="is closed"):
        engine.infer(frames(10))
