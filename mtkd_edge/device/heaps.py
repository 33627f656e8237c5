"""Two heaps for a program that runs for weeks.

glibc gives threads heaps of their own, eight for every core, and none gives back what lies between two blocks in use.
A station has some twenty threads that take and free pictures: its resident memory rose by 90 MB an hour without a byte
of it in use. With two heaps what one thread has freed the next one takes.
"""

from __future__ import annotations

import ctypes
import os

ARENA_MAX = -8
"""M_ARENA_MAX of mallopt(3)."""
HEAPS = 2


def share_heaps() -> bool:
    """To be called before threads are started. Returns whether it was done: not without glibc, nor against the user.

    MALLOC_ARENA_MAX in the environment stays as it is. Source: mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    libc = ctypes.CDLL(None)
    if "MALLOC_ARENA_MAX" in os.environ or not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(ARENA_MAX, HEAPS))
