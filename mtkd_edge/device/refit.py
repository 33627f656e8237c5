"""The threshold again, from the scores that this engine itself gives to held-out photos of good parts.

A quantised engine has other scores than the graph it came from: a threshold taken over would keep neither the
false-alarm rate nor the detection rate. Knows engines and thresholds, not files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtkd_edge import threshold as thresholds
from mtkd_edge.device.engine import Engine
from mtkd_edge.errors import GateError
from mtkd_edge.frames import Frame
from mtkd_edge.progress import Progress, silent
from mtkd_edge.threshold import Threshold

Values = NDArray[np.float64]


def refit(engine: Engine, frames: Sequence[Frame], false_alarms: float, progress: Progress = silent) -> Threshold:
    """frames: [height, width, 3] uint8 of good parts -> the threshold for that rate, labelled with the engine's name.

    Raises what `threshold.fit` and the engine raise, and GateError for a score that is not finite.
    """
    scores, peaks = measure(engine, frames, progress)
    return thresholds.fit(scores, peaks, false_alarms, engine.name)


def measure(engine: Engine, frames: Sequence[Frame], progress: Progress = silent) -> tuple[Values, Values]:
    """Score [n] and largest map value [n] of each frame, one frame a call. Raises GateError for one not finite."""
    scores, peaks = np.empty(len(frames)), np.empty(len(frames))
    for i, frame in enumerate(frames):
        found = engine.infer(frame[None])
        scores[i], peaks[i] = found.scores[0], found.maps[0].max()
        progress("threshold", i + 1, len(frames))
    if not (np.isfinite(scores).all() and np.isfinite(peaks).all()):
        raise GateError(f"the engine {engine.name} makes scores that are not finite", "build it with --fp32")
    return scores, peaks
