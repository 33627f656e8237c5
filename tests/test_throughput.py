"""The engine never waits for what can be done beside it: decoding, resizing, judging, pictures, events, files.

A sleeping engine stands for an accelerator: its time is its own, and every other moment of the watch is the pipeline's.
What is promised of time is tried up to three times: somebody else's load on the machine is not a fault of the pipeline.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import line
import numpy as np
import pytest
import store

from mtkd_edge.device.engine import Frames, Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.mailbox import OVERWRITTEN
from mtkd_edge.device.overlay_folder import OverlayFolder
from mtkd_edge.device.sinks import CsvTable, JsonLines
from mtkd_edge.device.sources import open_sources
from mtkd_edge.device.sources.base import Captured, Lost, untold
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import Verdict

TRIES = 3
PATIENCE = 20.0
BUSY = 0.4
"""The share of a time in which something waited for a processor, from which on it says nothing about the pipeline."""


class Timed(FakeEngine):
    """Remembers when it worked, after three calls to warm up."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay=delay, batch=1)
        self.spans: list[tuple[float, float]] = []

    def infer(self, frames: Frames) -> Inference:
        began = time.perf_counter()
        result = super().infer(frames)
        self.spans.append((began, time.perf_counter()))
        return result

    def share(self) -> float:
        """Of the time from its first frame to its last, that in which it worked: the bare engine's rate is 1."""
        spans = self.spans[3:]
        return sum(end - begin for begin, end in spans) / (spans[-1][1] - spans[0][0])


def photos(folder: Path, count: int, side: int) -> Path:
    """JPEGs of dark noise, one in ten with a defect: as costly to decode as a real photo of that size."""
    noise = np.random.default_rng(0).integers(0, 40, (side, side, 3)).astype(np.uint8)
    for number in range(count):
        photo = noise.copy()
        if number % 10 == 0:
            cell = side // 8
            photo[2 * cell : 3 * cell, 5 * cell : 6 * cell] = 255
        line.write_photo(folder / f"{number:03d}.jpg", photo)
    return folder


def stalled() -> float:
    """Seconds since the boot for which something waited for a processor, by the kernel; 0 where it does not say."""
    try:
        words = Path("/proc/pressure/cpu").read_text().split()
    except OSError:
        return 0.0
    return int(words[words.index("full") - 1].partition("=")[2]) / 1e6


def promised(of: Callable[[int], float], enough: Callable[[float], bool]) -> None:
    """One of TRIES is enough. Where the machine was busy in all that were not, nothing can be said: it skips.

    With `time` in MTKD_REQUIRE it fails.
    """
    found, idle = [], False
    for number in range(TRIES):
        began, before = time.monotonic(), stalled()
        found.append(of(number))
        if enough(found[-1]):
            return
        idle = idle or stalled() - before < BUSY * (time.monotonic() - began)
    if not idle and "time" not in os.environ.get("MTKD_REQUIRE", "").split(","):
        pytest.skip(f"the machine was too busy to measure time: {found}")
    pytest.fail(f"not enough in {TRIES} tries: {found}")


def test_a_folder_is_watched_at_the_rate_of_the_engine(tmp_path: Path) -> None:
    """All that `--out` writes is written: lines, table, events with their pictures, overlays."""
    folder = photos(tmp_path / "photos", 50, 640)

    def share(number: int) -> float:
        out, engine = tmp_path / str(number), Timed(0.03)
        out.mkdir()
        sinks = [JsonLines(out / "lines"), CsvTable(out / "table"), OverlayFolder(out, line.SPEC, line.THRESHOLD)]
        keeper = store.recorder(out / "events", RecorderOptions(lossless=True))
        verdicts, _ = line.run(open_sources([str(folder)]), engine, sinks=[*sinks, keeper])
        assert len(verdicts) == 50
        assert len(list(out.glob("*/*anomalous.jpg"))) == 5
        return engine.share()

    promised(share, lambda share: share >= 0.95)


@pytest.mark.parametrize("live", [False, True], ids=["files", "camera"])
def test_everything_else_happens_while_the_engine_works(live: bool) -> None:
    """Without a clock. A call returns once the next frame is ready and the verdict before it is out, and a verdict is
    out once the engine has begun with the next frame: whichever waited for the other would wait for ever.
    """
    count, met = 8, []
    begun, ready, out = [0], threading.Semaphore(0), threading.Semaphore(0)

    def has_begun(number: int) -> bool:
        deadline = time.monotonic() + PATIENCE
        while begun[0] <= number and time.monotonic() < deadline:
            time.sleep(0.001)
        return begun[0] > number

    class Waits(FakeEngine):
        def infer(self, frames: Frames) -> Inference:
            number, begun[0] = begun[0], begun[0] + 1
            if number < count - 1:
                met.append(ready.acquire(timeout=PATIENCE))
            if number:
                met.append(out.acquire(timeout=PATIENCE))
            return super().infer(frames)

    class Paced(line.Memory):
        def frames(self, lost: Lost = untold) -> Iterator[Captured]:
            for number, captured in enumerate(super().frames(lost)):
                if live and number:
                    has_begun(number - 1)  # a camera that is no faster than the engine loses no frame
                yield captured
                if number:
                    ready.release()  # whoever comes back for more has resized this one and put it

    def sink(verdict: Verdict, photo: Photo | None, values: object) -> None:
        if verdict.seq < count - 1:
            met.append(has_begun(verdict.seq + 1))
            out.release()

    verdicts, _ = line.run([Paced("source", [line.part(20)] * count, live)], Waits(batch=1), sinks=[sink])
    assert len(verdicts) == count
    assert met == [True] * 3 * (count - 1)


@pytest.mark.parametrize(("engine_ms", "period_ms"), [(25, 40), (70, 40)], ids=["fast engine", "slow engine"])
def test_a_cameras_verdict_comes_within_one_period_and_the_engines_time(engine_ms: int, period_ms: int) -> None:
    """99 % of all; a frame that waits for an engine slower than the camera may have been resized meanwhile."""
    photo = cv2.resize(line.part(20, defect=True), (640, 480), interpolation=cv2.INTER_NEAREST)

    def excess(number: int) -> float:
        source = line.Memory("camera", [photo] * 150, live=True, period=period_ms / 1e3)
        verdicts, summary = line.run([source], FakeEngine(delay=engine_ms / 1e3))
        assert engine_ms < period_ms or summary.sources[0].dropped[OVERWRITTEN] > 30
        beside = [v.latency_ms["total"] - v.latency_ms["infer"] for v in verdicts]
        if engine_ms > period_ms:
            cost = [v.latency_ms["resize"] + v.latency_ms["post"] for v in verdicts]
            beside = [milliseconds - of for milliseconds, of in zip(beside, cost, strict=True)]
        return float(np.percentile(beside, 99)) - period_ms

    # the camera of this test sleeps between its frames, and wakes late by a few ms where the machine does other work
    promised(excess, lambda excess: excess < 5)
