"""One bad camera never delays or ends another: decoders that hang or crash are killed, counted and started anew."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import line
import numpy as np
import pytest
from store import until

from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Condition, Event
from mtkd_edge.device.sources import open_source
from mtkd_edge.device.sources.base import SourceOptions
from mtkd_edge.device.sources.isolated import Isolated
from mtkd_edge.device.sources.messages import Plan
from mtkd_edge.device.summary import SourceSummary, Summary
from mtkd_edge.device.workers.child import Child
from mtkd_edge.verdict import State, Verdict

OPTIONS = SourceOptions(open_timeout=1, read_timeout=0.7, retry=0.05, retry_most=0.2, decode_timeout=1.0)
WORKER = "bad_workers:source"


def camera(tmp_path: Path, what: str, kind: str = "stream") -> Isolated:
    return Isolated(Plan(kind, what, str(tmp_path / what), OPTIONS), WORKER)  # type: ignore[arg-type]


class Watching:
    """A watch in the background."""

    def __init__(self, sources: list[Isolated], engine: FakeEngine | None = None) -> None:
        self.verdicts: list[Verdict] = []
        self.events: list[Event] = []
        self.summary: Summary | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(sources, engine), daemon=True)
        self.thread.start()

    def _run(self, sources: list[Isolated], engine: FakeEngine | None) -> None:
        sinks = [lambda verdict, photo, values: self.verdicts.append(verdict)]
        self.summary = line.run(sources, engine, self.stop, sinks, self.events, silence=0.5)[1]

    def count(self, source: Isolated) -> int:
        return sum(verdict.source == source.name for verdict in self.verdicts)

    def told(self, source: Isolated, what: str) -> list[Event]:
        return [event for event in self.events if (event.subject, event.what) == (source.name, what)]

    def finish(self) -> dict[str, SourceSummary]:
        self.stop.set()
        self.thread.join(10)
        assert self.summary is not None
        for each in self.summary.sources:
            assert each.captured == each.scored + each.invalid + sum(each.dropped.values())
        return {each.source: each for each in self.summary.sources}


def test_a_hang_and_a_crash_in_a_decoder_are_restarted_in_time_and_reach_no_other_camera(tmp_path: Path) -> None:
    good, hangs, crashes = camera(tmp_path, "hang-99999"), camera(tmp_path, "hang1-20"), camera(tmp_path, "crash1-20")
    watching = Watching([good, hangs, crashes])
    until(lambda: watching.count(hangs) > 60 and watching.count(crashes) > 60, 30)
    gaps = np.diff([verdict.captured for verdict in watching.verdicts if verdict.source == good.name])
    pids = [good.pid, hangs.pid, crashes.pid]
    found = watching.finish()
    # a busy machine delays everybody once or twice, by less than a hang takes
    assert np.percentile(gaps, 99) < 0.5 and gaps.max() < 1.5, "the good one was never delayed"
    assert [found[each.name].restarts for each in (good, hangs, crashes)] == [0, 1, 1]
    (hung,), (crashed,) = (watching.told(each, "reconnecting") for each in (hangs, crashes))
    assert "hung for" in hung.reason and crashed.reason == "its process was ended by SIGSEGV"
    # from its last frame to the new process, which is started at once
    assert found[hangs.name].outages[0].seconds < 2.0 + 3.0
    assert hung.at - found[hangs.name].outages[0].began < 2.0
    assert crashed.at - found[crashes.name].outages[0].began < 0.5
    until(lambda: not any(alive(pid) for pid in pids if pid), 5)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_process_that_is_killed_or_frozen_from_outside_is_replaced(tmp_path: Path) -> None:
    source = camera(tmp_path, "hang-99999")
    watching = Watching([source])
    for number in (signal.SIGKILL, signal.SIGSTOP):
        until(lambda: watching.count(source) > 10, 20)
        pid = source.pid
        assert pid is not None
        began = time.monotonic()
        os.kill(pid, number)
        until(lambda pid=pid: source.pid not in (pid, None), 10)  # type: ignore[misc]
        assert time.monotonic() - began < 2.0
        watching.verdicts.clear()
    until(lambda: watching.count(source) > 10, 20)
    seqs = [verdict.seq for verdict in watching.verdicts]
    assert seqs == sorted(set(seqs))
    assert watching.finish()[source.name].restarts == 2


def test_a_frame_that_did_not_arrive_whole_is_invalid_and_never_judged(tmp_path: Path) -> None:
    source = camera(tmp_path, "torn-10")
    watching = Watching([source])
    until(lambda: watching.count(source) > 30, 20)
    assert watching.finish()[source.name].invalid == 1
    (torn,) = [verdict for verdict in watching.verdicts if verdict.state is State.INVALID]
    assert torn.reason == "the frame did not arrive whole: slot 3 does not hold frame 78 whole"


def test_a_slow_engine_blocks_a_camera_and_is_no_reason_to_restart_it(tmp_path: Path) -> None:
    class Slow(FakeEngine):
        held = threading.Event()

        def infer(self, frames):  # type: ignore[no-untyped-def]
            self.held.wait(20)
            return super().infer(frames)

    source, engine = camera(tmp_path, "hang-99999"), Slow()
    watching = Watching([source], engine)
    until(lambda: watching.told(source, "blocked"), 20)
    time.sleep(2.5)  # longer than any limit of a process
    assert [event.what for event in watching.events] == ["running", "blocked"]
    engine.held.set()
    until(lambda: watching.count(source) > 10)
    found = watching.finish()[source.name]
    assert [event.what for event in watching.events][:3] == ["running", "blocked", "running"]
    assert (found.restarts, found.outage_count, found.condition) == (0, 0, Condition.RUNNING)


def test_a_long_name_is_no_reason_not_to_start() -> None:
    source = Isolated(Plan("stream", "hang-9999", "x" * 400, OPTIONS), WORKER)
    for count, _ in enumerate(source.frames()):
        if count == 3:
            source.close()
    assert count >= 3


@pytest.mark.parametrize("where", ["subprocess.Popen", "os.memfd_create", "mtkd_edge.device.workers.wire.Wire.send"])
def test_a_process_that_cannot_be_started_leaves_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: object, **more: object) -> None:
        raise OSError(errno.EAGAIN, "no room")

    before, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    with monkeypatch.context() as full:
        full.setattr(where, refused)
        for _ in range(3):
            with pytest.raises(OSError, match="no room"):
                Child("camera", WORKER, b"")
    until(lambda: threading.active_count() == threads)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", WORKER], capture_output=True).stdout


def test_a_parent_that_does_not_read_gets_the_newest_frame_and_the_number_of_those_before(tmp_path: Path) -> None:
    source = camera(tmp_path, "hang-99999")
    frames = source.frames()
    first = next(frames)
    time.sleep(1.0)
    late = next(frames)
    latest = next(frames)
    source.close()
    frames.close()
    assert late.seq == first.seq + 1 + late.missed
    assert latest.missed > 20, "about fifty frames in a second, four of them fit"
    assert time.monotonic() - latest.monotonic < 0.5


def test_a_video_loses_no_frame_when_its_decoder_is_killed_again_and_again(tmp_path: Path) -> None:
    photos = [line.part(10 + n) for n in range(200)]
    source = open_source(str(line.write_video(tmp_path / "a.avi", photos, "MJPG")), options=OPTIONS)
    assert isinstance(source, Isolated)
    seen = []
    for captured in source.frames():
        seen.append(captured)
        if captured.seq in (20, 90, 91):
            os.kill(source.pid or 0, signal.SIGKILL)
    assert [captured.seq for captured in seen] == list(range(200))
    shades = [float(captured.photo.mean()) for captured in seen if captured.photo is not None]
    assert (np.diff(shades) > 0).all() and abs(shades[0] - 10) < 3


def test_a_video_whose_decoder_dies_before_it_is_read_loses_nothing_and_ends_no_other(tmp_path: Path) -> None:
    path = line.write_video(tmp_path / "a.avi", [line.part(n) for n in range(10)], "MJPG")
    source = open_source(str(path), options=OPTIONS)
    assert isinstance(source, Isolated) and source.pid
    os.kill(source.pid, signal.SIGKILL)  # as a system does that runs out of memory while the engine is loaded
    until(lambda: not Path(f"/proc/{source.pid}/status").exists() or "Z (zombie)" in status(source.pid))
    verdicts, summary = line.run([source, line.Memory("other", [line.part()] * 5)])
    assert [verdict.seq for verdict in verdicts if verdict.source == source.name] == list(range(10))
    assert sum(verdict.source == "other" for verdict in verdicts) == 5
    assert [each.restarts for each in summary.sources if each.source == source.name] == [1]


def status(pid: int | None) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_a_frame_of_a_video_that_always_crashes_ends_it_with_an_invalid_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crash-50").touch()
    source = Isolated(Plan("video", "crash-50", "never", OPTIONS), WORKER)
    verdicts, summary = line.run([source])
    assert [verdict.seq for verdict in verdicts] == list(range(51))
    assert verdicts[50].state is State.INVALID and "SIGSEGV at frame 50, the rest is not read" in verdicts[50].reason
    assert summary.sources[0].restarts == 2


def test_a_decoder_that_wants_the_machines_memory_does_not_get_it() -> None:
    code = (
        "import numpy as np; from mtkd_edge.device.sources.worker import MEMORY, bound_memory; bound_memory()\n"
        "held = np.empty(MEMORY // 2, np.uint8)\n"
        "try: np.empty(MEMORY // 2 + 2**28, np.uint8)\n"
        "except MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr
