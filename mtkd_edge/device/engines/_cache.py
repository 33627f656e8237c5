"""Where runtimes keep what they can compute again: compiled models and builders' measurements."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_cache() -> Path:
    """~/.cache/mtkd-edge, or where XDG_CACHE_HOME says. Not made here, and safe to delete at any time."""
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place, "mtkd-edge")
    try:
        return Path.home() / ".cache" / "mtkd-edge"
    except RuntimeError:  # a user that the system does not know has no home
        return Path(tempfile.gettempdir(), f"mtkd-edge-{os.getuid()}")
