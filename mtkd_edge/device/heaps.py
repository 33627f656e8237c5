"""The memory of a program that runs for weeks: one heap for all threads, no pictures in it, what is free given back.

glibc gives threads heaps of their own, eight for every core, and gives back only what lies above the last block in use.
A station has some twenty threads that take and free pictures: its resident memory rose by 90 MB an hour without a byte
of it in use. With one heap what one thread has freed the next one takes. Large blocks get pages of their own, as glibc
begins; it would move them into the heap, up to 32 MB each, once the first is freed, and what outlives a picture then
keeps its place from being whole (8 MB an hour). Pages that are free between two blocks are given back once a minute.

Source: mallopt(3), malloc_trim(3), https://man7.org/linux/man-pages/man3/malloc_trim.3.html.
"""

from __future__ import annotations

import ctypes
import os
import threading

MMAP_THRESHOLD, ARENA_MAX = -3, -8
"""M_MMAP_THRESHOLD and M_ARENA_MAX of mallopt(3)."""
LARGE = 128 << 10
"""Bytes from which a block has pages of its own: glibc's first value, which stays what it is once it is set."""
HEAPS = 1
EVERY = 60.0
"""Seconds between two times of giving back. It takes a millisecond or two for the heaps of a station."""


def keep_small(every: float = EVERY) -> bool:
    """To be called before other threads are started. Returns whether it was done: not without glibc.

    MALLOC_ARENA_MAX and MALLOC_MMAP_THRESHOLD_ in the environment stay as they are.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    if "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(ARENA_MAX, HEAPS)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        libc.mallopt(MMAP_THRESHOLD, LARGE)
    threading.Thread(target=_give_back, args=(libc, every), daemon=True, name="heaps").start()
    return True


def _give_back(libc: ctypes.CDLL, every: float) -> None:
    pause = threading.Event()
    while not pause.wait(every):
        libc.malloc_trim(0)
