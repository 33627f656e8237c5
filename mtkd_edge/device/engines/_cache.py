"""Where runtimes keep what they can compute again: compiled models and builders' measurements."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """~/.cache/mtkd-edge, or where XDG_CACHE_HOME says. Not made here, and safe to delete at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtkd-edge"
