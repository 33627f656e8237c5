"""Every captured frame gets exactly one verdict or is a counted drop, whatever goes wrong around it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import line
import numpy as np
import pytest
from line import Memory, run

from mtkd_edge.device.engine import Frames, Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Condition, Event
from mtkd_edge.device.mailbox import OVERWRITTEN
from mtkd_edge.device.sources import open_sources
from mtkd_edge.device.sources.base import Lost, untold
from mtkd_edge.errors import BackendError, SourceError, UsageError
from mtkd_edge.verdict import State, Verdict


class Flaky(FakeEngine):
    """Refuses any batch that holds a frame of brightness 77."""

    def infer(self, frames: Frames) -> Inference:
        if (frames[:, 0, 0, 0] == 77).any():
            raise BackendError("out of luck")
        return super().infer(frames)


def test_a_folder_gives_one_verdict_a_photo_with_state_region_and_path(tmp_path: Path) -> None:
    paths = [line.write_photo(tmp_path / f"{n:02d}.png", line.part(defect=n % 5 == 0, size=128)) for n in range(20)]
    paths.append(tmp_path / "20.png")
    paths[-1].write_bytes(b"torn")
    verdicts, summary = run(open_sources([str(tmp_path)]))
    assert [v.seq for v in verdicts] == list(range(21))
    assert [v.path for v in verdicts] == [str(path) for path in paths]
    assert [v.state for v in verdicts[:20]] == [State.NORMAL if n % 5 else State.ANOMALOUS for n in range(20)]
    assert verdicts[1].regions == ()
    (region,) = verdicts[0].regions
    left, top, width, height = region.box
    # the defect is the square [80, 96) x [32, 48); half the bilinear slope around it is above the threshold
    assert abs(left - 80) <= 8 and abs(top - 32) <= 8 and 16 <= width <= 32 and 16 <= height <= 32
    assert 80 <= region.peak_at[0] < 96 and 32 <= region.peak_at[1] < 48
    assert (verdicts[20].state, verdicts[20].score) == (State.INVALID, None)
    assert "20.png" in verdicts[20].reason
    source = summary.sources[0]
    assert (source.captured, source.scored, source.invalid, source.dropped) == (21, 20, 1, {})
    assert (source.normal, source.anomalous, source.condition) == (16, 4, Condition.ENDED)


def test_the_time_of_every_stage_is_in_the_verdict(tmp_path: Path) -> None:
    line.write_photo(tmp_path / "a.png", line.part())
    verdicts, summary = run(open_sources([str(tmp_path)]), FakeEngine(delay=0.05))
    latency = verdicts[0].latency_ms
    assert list(latency) == ["decode", "wait", "resize", "infer", "post", "total"]
    assert latency["infer"] >= 50
    assert latency["total"] >= latency["decode"] + latency["resize"] + latency["infer"]
    assert summary.latency_ms["infer"].p50 == pytest.approx(latency["infer"], rel=0.02)


def test_files_are_batched_up_to_what_the_engine_takes() -> None:
    sizes: list[int] = []

    class Counting(FakeEngine):
        def infer(self, frames: Frames) -> Inference:
            sizes.append(len(frames))
            return super().infer(frames)

    verdicts, _ = run([Memory("folder", [line.part(n) for n in range(100)])], Counting(batch=4, delay=0.002))
    assert max(sizes) == 4
    assert sum(sizes) == 100
    assert len(sizes) < 50
    assert [v.seq for v in verdicts] == list(range(100))


def test_a_frame_the_engine_fails_on_is_invalid_and_the_rest_of_its_batch_is_not() -> None:
    photos = [line.part(77 if n % 10 == 3 else 20) for n in range(40)]
    verdicts, summary = run([Memory("folder", photos)], Flaky())
    assert [v.seq for v in verdicts if v.state is State.INVALID] == [3, 13, 23, 33]
    assert verdicts[3].reason == "the engine failed: out of luck"
    assert summary.sources[0].scored == 36


def test_an_engine_that_always_fails_ends_the_watch_with_its_own_words() -> None:
    got: list[Verdict] = []
    with pytest.raises(BackendError, match=r"failed on 5 frames in a row.*out of luck"):
        run([Memory("folder", [line.part(77)] * 1000)], Flaky(batch=2), sinks=[lambda v, p, m: got.append(v)])
    assert 5 <= len(got) <= 6
    assert {v.state for v in got} == {State.INVALID}


def test_a_score_that_is_not_finite_is_invalid() -> None:
    class Broken(FakeEngine):
        def infer(self, frames: Frames) -> Inference:
            right = super().infer(frames)
            return Inference(right.maps * np.nan, right.scores * np.float32(np.nan), right.stages)

    verdicts, _ = run([Memory("folder", [line.part(defect=True)])], Broken())
    assert (verdicts[0].state, verdicts[0].score, verdicts[0].regions) == (State.INVALID, None, ())
    assert verdicts[0].reason == "the score is not finite"


def test_a_photo_that_can_be_no_frame_is_invalid() -> None:
    verdicts, _ = run([Memory("camera", [np.zeros((4, 4), np.uint8), line.part(), None])])
    assert [v.state for v in verdicts] == [State.INVALID, State.NORMAL, State.INVALID]
    assert "[H, W, 3]" in verdicts[0].reason
    assert verdicts[2].reason == "unreadable"


def test_a_slow_engine_scores_a_cameras_newest_frame_and_counts_the_others() -> None:
    """100 frames at 200 a second, 30 a second scored: a frame is never older than one period and one inference."""
    period, delay = 0.005, 0.033
    camera = Memory("camera", [line.part(n) for n in range(100)], live=True, period=period)
    verdicts, summary = run([camera], FakeEngine(delay=delay))
    source = summary.sources[0]
    assert source.captured == 100 == source.scored + source.dropped[OVERWRITTEN]
    assert 10 <= source.scored <= 40
    assert verdicts[-1].seq == 99
    assert [v.seq for v in verdicts] == sorted({v.seq for v in verdicts})
    waits = [v.latency_ms["wait"] for v in verdicts]
    assert np.median(waits) <= (period + 0.01) * 1e3


def test_several_sources_are_watched_at_once_and_each_is_accounted_for() -> None:
    files = [Memory(f"folder{n}", [line.part(k) for k in range(50)]) for n in range(3)]
    cameras = [Memory(f"camera{n}", [line.part(k) for k in range(50)], live=True, period=0.004) for n in range(2)]
    verdicts, summary = run([*files, *cameras], FakeEngine(delay=0.001))
    for source in summary.sources:
        seqs = [v.seq for v in verdicts if v.source == source.source]
        assert len(seqs) == source.scored == source.captured - sum(source.dropped.values())
        assert source.captured == 50
        if source.source.startswith("folder"):
            assert seqs == list(range(50))


def test_stop_captures_nothing_more_and_scores_what_was_captured() -> None:
    stop = threading.Event()
    got: list[Verdict] = []

    def stop_soon(verdict: Verdict, photo: object, values: object) -> None:
        got.append(verdict)
        if len(got) == 10:
            stop.set()

    verdicts, summary = run([Memory("folder", [line.part()] * 100_000)], FakeEngine(), stop, [stop_soon])
    source = summary.sources[0]
    assert 10 <= len(verdicts) == source.captured == source.scored < 2000
    assert source.condition is Condition.RUNNING


def test_stop_does_not_wait_for_a_camera_that_hangs() -> None:
    class Hanging(Memory):
        def frames(self, lost: Lost = untold):  # type: ignore[no-untyped-def]
            yield from super().frames(lost)
            time.sleep(3)  # a driver that does not come back

    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    _, summary = run([Hanging("camera", [line.part()] * 5, live=True, period=0.01)], stop=stop, silence=0.2)
    assert time.monotonic() - began < 1.5
    assert summary.sources[0].captured == summary.sources[0].scored + sum(summary.sources[0].dropped.values()) == 5
    assert summary.sources[0].condition is Condition.STALLED


def test_stop_gives_a_file_that_hangs_only_its_grace() -> None:
    class Hanging(Memory):
        def frames(self, lost: Lost = untold):  # type: ignore[no-untyped-def]
            yield from super().frames(lost)
            time.sleep(3)

    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    run([Hanging("share", [line.part()] * 5)], stop=stop, grace=0.3)
    assert time.monotonic() - began < 1.5


def test_a_silent_camera_is_told_within_the_second_and_its_outage_is_measured() -> None:
    class Pausing(Memory):
        def frames(self, lost: Lost = untold):  # type: ignore[no-untyped-def]
            for captured in super().frames(lost):
                if captured.seq == 5:
                    time.sleep(0.8)
                yield captured

    events: list[Event] = []
    camera = Pausing("camera", [line.part()] * 10, live=True, period=0.01)
    _, summary = run([camera], events=events, silence=0.3)
    assert [event.what for event in events] == ["running", "stalled", "running", "ended"]
    assert events[1].reason == "no frame for 0.3 s"
    (outage,) = summary.sources[0].outages
    assert outage.over and 0.75 < outage.seconds < 1.2
    assert events[1].at - outage.began < 0.6


class Failing(Memory):
    def frames(self, lost: Lost = untold):  # type: ignore[no-untyped-def]
        yield from super().frames(lost)
        raise SourceError("the share is gone")


def test_one_source_that_fails_does_not_end_the_others() -> None:
    verdicts, summary = run([Failing("bad", [line.part()] * 3), Memory("good", [line.part()] * 30)])
    assert len(verdicts) == 33
    bad, good = summary.sources
    assert (bad.condition, bad.reason, good.reason) == (Condition.ENDED, "the share is gone", "")


def test_when_every_source_fails_the_watch_does() -> None:
    with pytest.raises(SourceError, match="the share is gone"):
        run([Failing("a", [line.part()]), Failing("b", [])])


def test_a_defect_in_a_source_is_raised_and_not_taken_for_an_end() -> None:
    class Defective(Memory):
        def frames(self, lost: Lost = untold):  # type: ignore[no-untyped-def]
            yield from super().frames(lost)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([Defective("bad", [line.part()]), Memory("camera", [line.part()] * 10_000, live=True, period=0.01)])


def test_a_defect_behind_the_engine_is_raised_and_does_not_hang() -> None:
    class Strange(FakeEngine):
        def infer(self, frames: Frames) -> Inference:
            right = super().infer(frames)
            return Inference(right.maps[:, 0] + 1, right.scores, right.stages)  # a map of one dimension

    with pytest.raises(IndexError):
        run([Memory("folder", [line.part(defect=True)] * 500)], Strange(batch=2))


def test_sinks_are_closed_and_threads_end_whatever_happens() -> None:
    class Sink:
        closed = 0

        def __call__(self, verdict: Verdict, photo: object, values: object) -> None:
            pass

        def close(self) -> None:
            self.closed += 1

    sink = Sink()
    before = threading.active_count()
    run([Memory("folder", [line.part()])], sinks=[sink])
    with pytest.raises(BackendError):
        run([Memory("folder", [line.part(77)] * 100)], Flaky(), sinks=[sink])
    assert sink.closed == 2
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_sources_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="different names"):
        run([Memory("a", []), Memory("a", [])])
    with pytest.raises(UsageError):
        run([])


def test_a_video_is_watched_frame_by_frame(tmp_path: Path) -> None:
    photos = [line.part(defect=n in (30, 31)) for n in range(60)]
    path = line.write_video(tmp_path / "line.avi", photos, "MJPG")
    verdicts, summary = run(open_sources([str(path)]))
    assert [v.seq for v in verdicts if v.state is State.ANOMALOUS] == [30, 31]
    assert summary.sources[0].captured == summary.sources[0].scored == 60
