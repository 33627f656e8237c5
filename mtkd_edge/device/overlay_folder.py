"""A folder of overlays: one picture for every anomalous verdict, or for all, each named so that it can be traced."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mtkd_edge.bundle import write_file
from mtkd_edge.device.overlay import draw
from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.frames import FrameSpec, Photo
from mtkd_edge.threshold import Threshold
from mtkd_edge.verdict import State, Verdict

QUALITY = 90


class OverlayFolder:
    """A sink (`sinks.py`), slow on purpose: `watch` gives it a thread of its own. Raises UsageError for a bad folder.

    `which`: "anomalous", or "all" (normal and invalid verdicts too).
    """

    slow = True

    def __init__(
        self, folder: Path, spec: FrameSpec, threshold: Threshold, which: Literal["anomalous", "all"] = "anomalous"
    ) -> None:
        self.name = str(folder)
        self.every_map = which == "all"
        self._folder, self._spec, self._threshold, self._which = folder, spec, threshold, which
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {error.strerror}", "choose another place with --out") from error

    def __call__(self, verdict: Verdict, photo: Photo | None, values: NDArray[np.float32] | None) -> None:
        """Draw and write the picture, whole or not at all. Raises BundleError where it cannot be written."""
        if self._which == "anomalous" and verdict.state is not State.ANOMALOUS:
            return
        picture = draw(photo, values, verdict, self._threshold, self._spec)
        turned = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # a reversed view would be copied pixel by pixel
        coded, data = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not coded:
            raise DataError(f"the overlay of {verdict.source} #{verdict.seq} cannot be coded as JPEG")
        path = self._folder / file_name(verdict)
        path.parent.mkdir(exist_ok=True)
        write_file(path, data.tobytes())


def file_name(verdict: Verdict) -> str:
    """<source>-<hash>/<seq>-<time>-<photo>-<state>.jpg: unique, also after a restart, and sorted as they came."""
    when = datetime.fromtimestamp(verdict.captured, timezone.utc).strftime("%Y%m%dT%H%M%S%f")
    photo = f"-{_plain(Path(verdict.path).stem)}" if verdict.path else ""
    return f"{source_folder(verdict.source)}/{verdict.seq:07d}-{when}{photo}-{verdict.state.value}.jpg"


def source_folder(source: str) -> str:
    """A folder name for any source; the hash keeps "a/b" and "a-b" apart."""
    return f"{_plain(source)}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[-60:] or "x"
