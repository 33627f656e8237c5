"""The threshold again, for the engine that will judge with it.

A quantised engine has other scores than the graph it came from: a threshold taken over as it is would keep neither the
false-alarm rate nor the detection rate. Two ways, by what the number of photos allows:

- Enough photos for the guarantee (`threshold.fit` says "conformal"): the engine's own scores of the held-out photos, by
  the same rule.
- Fewer: a tail fit far beyond the data. Two such fits, one an engine, differ by some per cent because of their own
  noise, and every difference flips verdicts. So the graph's threshold is carried over instead: to the engine's score
  where the graph's score is the threshold, by a line through the nearest frames that both engines have seen.

Knows engines and thresholds, not files.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import threshold as thresholds
from mtkd_edge.device.engine import Engine
from mtkd_edge.errors import GateError
from mtkd_edge.frames import Frame
from mtkd_edge.progress import Progress, silent
from mtkd_edge.threshold import Threshold

NEAREST = 0.25
"""The share of the frames that lies near enough to the threshold to say how the two engines' scores relate there."""
FEWEST = 16
Values = NDArray[np.float64]


def refit(engine: Engine, frames: Sequence[Frame], false_alarms: float, progress: Progress = silent) -> Threshold:
    """frames: [height, width, 3] uint8 of good parts -> the threshold for that rate, labelled with the engine's name.

    Raises what `threshold.fit` and the engine raise, and GateError for a score that is not finite.
    """
    scores, peaks = measure(engine, frames, progress)
    return thresholds.fit(scores, peaks, false_alarms, engine.name)


def refit_beside(scores: Values, peaks: Values, good: int, false_alarms: float, name: str) -> Threshold:
    """scores, peaks: [n, 2], engine and reference, the first `good` rows good parts -> threshold.

    Raises what `threshold.fit` raises.
    """
    own = thresholds.fit(scores[:good, 0], peaks[:good, 0], false_alarms, name)
    if own.method == "conformal":
        return own
    reference = thresholds.fit(scores[:good, 1], peaks[:good, 1], false_alarms)
    carried = (
        carry(reference.score, scores[:, 1], scores[:, 0], own.score),
        carry(reference.map, peaks[:, 1], peaks[:, 0], own.map),
    )
    return msgspec.structs.replace(own, score=carried[0], map=carried[1])


def carry(level: float, reference: Values, own: Values, otherwise: float) -> float:
    """The engine's score where the reference's is `level`; `otherwise` where its scores do not rise with them."""
    found = line(level, reference, own)
    return otherwise if found is None else found[0] * level + found[1]


def line(level: float, reference: Values, own: Values) -> tuple[float, float] | None:
    """own = slope * reference + offset through the frames nearest to `level`; None where `own` does not rise."""
    near = nearest(level, reference)
    x, y = reference[near], own[near]
    if x.std() == 0:
        return None
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var())
    return (slope, float(y.mean()) - slope * float(x.mean())) if slope > 0 else None


def nearest(level: float, reference: Values) -> NDArray[np.intp]:
    """Indices of the frames whose reference score lies nearest to `level`: a quarter of them, sixteen at least."""
    distances = np.abs(reference - level)
    return np.argsort(distances, kind="stable")[: max(FEWEST, round(NEAREST * len(distances)))]


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
