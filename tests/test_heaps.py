"""The memory of a long run: one heap for all threads, no large block in it, and what is free in it goes back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")

BEGIN = """
import ctypes, sys, threading, time
from mtkd_edge.device.heaps import keep_small
if "keep" in sys.argv:
    assert keep_small(0.2)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
"""
HEAPS = (
    BEGIN
    + """
meet = threading.Barrier(12)

def work():
    meet.wait()
    for _ in range(200):
        libc.malloc(1000)
    meet.wait()

threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes = [ctypes.c_char_p] * 2
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""
)
LARGE = (
    BEGIN
    + """
class Blocks(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a o s blocks bytes u f used free k".split()]

libc.mallinfo2.restype = Blocks
libc.free(libc.malloc(8_000_000))
before = libc.mallinfo2().bytes
picture = libc.malloc(1_000_000)
print(libc.mallinfo2().bytes - before)
"""
)
HOLES = (
    BEGIN
    + """
blocks = [libc.malloc(20_000) for _ in range(6000)]
for block in blocks:
    ctypes.memset(block, 1, 20_000)
for block in blocks[:-1]:
    libc.free(block)
time.sleep(1.5)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1000)
"""
)


def run(program: str, *words: str, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout


def test_threads_share_one_heap_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    def heaps(*words: str, **environment: str) -> int:
        run(HEAPS, str(tmp_path / "heaps.xml"), *words, **environment)
        return (tmp_path / "heaps.xml").read_text().count("<heap nr=")

    assert heaps() > 4
    assert heaps("keep") == 1
    assert heaps("keep", MALLOC_ARENA_MAX="3") == 3


def test_a_large_block_has_pages_of_its_own_also_after_one_was_freed() -> None:
    assert int(run(LARGE)) == 0, "glibc has changed its ways: is the threshold still needed?"
    assert int(run(LARGE, "keep")) > 900_000
    assert int(run(LARGE, "keep", MALLOC_MMAP_THRESHOLD_="4000000")) == 0


def test_what_is_free_below_a_block_in_use_is_given_back() -> None:
    assert int(run(HOLES)) > 120
    assert int(run(HOLES, "keep")) < 80
