"""The threshold from good parts alone, for a false-alarm rate the user states.

Split-conformal calibration (Vovk et al. 2005; Lei et al. 2018, doi:10.1080/01621459.2017.1307116): with n scores of
normal photos that training never saw, the k-th smallest, k = ceil((n + 1)(1 - alpha)), is exceeded by the next normal
part with probability at most alpha, whatever the distribution. That needs n >= 1/alpha - 1 photos. Below that number
no guarantee can be had, and an exponential tail is fitted to the excesses over the 80 % quantile instead, labelled as
what it is: an extrapolation.

This file knows nothing of labels: no anomalous image has any part in a threshold.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.files import UNREADABLE

MINIMUM = 4
"""Fewer held-out photos than this say nothing about a spread."""
TAIL = 0.8
"""The tail fit starts at this quantile."""


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`score` decides the verdict, `map` cuts the regions; `missing` is how many more photos a guarantee would need."""

    score: float
    map: float
    method: Literal["conformal", "tail-fit", "manual"]
    false_alarms: float
    photos: int
    missing: int = 0
    engine: str = ""

    def describe(self) -> str:
        """One sentence for people."""
        rate = f"{self.false_alarms:g}"
        if self.method == "conformal":
            return f"{self.score:.4g}: at most {rate} false alarms a good part, guaranteed by {self.photos} photos"
        if self.method == "manual":
            return f"{self.score:.4g}: set by hand"
        # the least rate that n photos guarantee is 1 / (n + 1), told as one that `--false-alarms` takes
        least = math.ceil(1000 / (self.photos + 1) - 1e-9) / 1000
        return (
            f"{self.score:.4g}: aims at {rate} false alarms a good part by a tail fit on {self.photos} photos; "
            f"{self.missing} more would make it a guarantee, {self.photos} guarantee {least:g}"
        )


def check_rate(false_alarms: float) -> None:
    """Raises UsageError for what is no share of false alarms."""
    if not 0 < false_alarms < 1:
        raise UsageError(f"a false-alarm rate lies between 0 and 1, got {false_alarms}", "--false-alarms 1e-3")


def fit(scores: ArrayLike, peaks: ArrayLike, false_alarms: float, engine: str = "") -> Threshold:
    """Scores [n] and map maxima [n] of held-out normal photos -> the threshold for that false-alarm rate.

    Raises UsageError for a rate outside (0, 1), DataError for fewer than four photos or a score that is not finite.
    """
    check_rate(false_alarms)
    values, maxima = np.asarray(scores, np.float64), np.asarray(peaks, np.float64)
    if values.size < MINIMUM:
        raise DataError(
            f"{values.size} held-out photos of good parts, at least {MINIMUM} are needed for a threshold",
            "add photos of good parts and train again",
        )
    if not (np.isfinite(values).all() and np.isfinite(maxima).all()):
        raise DataError("the score of a good photo is not finite: no threshold can be fitted on it", "mtkd-edge check")
    missing = max(0, math.ceil(1 / false_alarms - 1 - 1e-9) - values.size)
    return Threshold(
        score=quantile(values, false_alarms),
        map=quantile(maxima, false_alarms),
        method="tail-fit" if missing else "conformal",
        false_alarms=false_alarms,
        photos=int(values.size),
        missing=missing,
        engine=engine,
    )


def quantile(values: np.ndarray, alpha: float) -> float:
    """The conformal quantile where n allows it, the tail fit where it does not."""
    ordered = np.sort(values)
    rank = math.ceil((ordered.size + 1) * (1 - alpha) - 1e-9)
    if rank <= ordered.size:
        return float(ordered[rank - 1])
    start = float(np.quantile(ordered, TAIL))
    excess = ordered[ordered > start] - start
    # a constant score has no excess: its tail is empty, and the largest value is all there is to say
    mean = float(excess.mean()) if excess.size else 0.0
    return max(float(ordered[-1]), start + mean * math.log((1 - TAIL) / alpha))


_bodies = msgspec.json.Decoder(dict[str, Any])
_thresholds = msgspec.json.Decoder(Threshold)
"""Not used: made here, so that no thread is the first for which `msgspec.convert` learns the type."""


def encode(threshold: Threshold) -> bytes:
    """The sidecar `threshold.json`: readable, and sealed by its own sha256 so that a slip of an editor is noticed."""
    body = msgspec.to_builtins(threshold)
    return msgspec.json.format(msgspec.json.encode({**body, "sha256": seal(threshold)}), indent=2) + b"\n"


def decode(text: bytes, where: str) -> Threshold:
    """The sidecar back. Raises BundleError naming `where` when it is malformed or its seal does not fit."""
    hint = "mtkd-edge threshold ENGINE --photos DIR --false-alarms 1e-3 fits a new one; or build the engine again"
    try:
        body = _bodies.decode(text)
        given = body.pop("sha256", None)
        threshold = msgspec.convert(body, Threshold)
    except (*UNREADABLE, TypeError) as error:
        raise BundleError(f"{where} is not a threshold: {error}", hint) from error
    if given != seal(threshold):
        raise BundleError(f"{where} was changed by hand: its numbers do not fit its sha256", hint)
    if not (math.isfinite(threshold.score) and math.isfinite(threshold.map)):
        raise BundleError(f"{where} holds a threshold that is not finite", hint)
    return threshold


def seal(threshold: Threshold) -> str:
    """sha256 over the numbers of the threshold; every verdict can be traced to it."""
    return hashlib.sha256(msgspec.json.encode(threshold, order="deterministic")).hexdigest()
