"""From a scored frame to its verdict: state, regions, and what each stage took."""

from __future__ import annotations

import time

from mtkd_edge.device import regions
from mtkd_edge.device.scoring import Scored
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import Region, State, Verdict, decide

NOT_FINITE = "the score is not finite"


def judge(scored: Scored, threshold: Threshold, most: int) -> Verdict:
    """The verdict of one frame, with at most `most` regions.

    Stages in milliseconds: `decode` (reading, decoding), `wait` (for the engine), `resize`, the engine's own (of the
    whole batch the frame was in), `post` (this function), and `total`: from before decoding until now.
    """
    began = time.perf_counter()
    captured = scored.prepared.captured
    state = decide(scored.score, threshold.score)
    found: tuple[Region, ...] = ()
    if state is not State.INVALID and scored.values is not None and captured.photo is not None:
        height, width = captured.photo.shape[:2]
        found = regions.find(scored.values, threshold.map, (height, width), most)
    latency = {"decode": captured.decode_ms, "wait": scored.wait_ms, "resize": scored.prepared.resize_ms}
    latency |= scored.stages
    latency["post"] = (time.perf_counter() - began) * 1e3
    latency["total"] = captured.decode_ms + (time.monotonic() - captured.monotonic) * 1e3
    return Verdict(
        source=captured.source,
        seq=captured.seq,
        captured=captured.captured,
        state=state,
        score=None if state is State.INVALID else scored.score,
        threshold=threshold.score,
        regions=found,
        latency_ms={stage: round(milliseconds, 3) for stage, milliseconds in latency.items()},
        reason="" if state is not State.INVALID else scored.problem or NOT_FINITE,
        path="" if captured.path is None else str(captured.path),
    )
