"""How many heaps a program has whose threads take memory: two once `share_heaps` was called, and more without."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
from mtkd_edge.device.heaps import share_heaps
if "share" in sys.argv:
    print(share_heaps())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
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


def heaps(tmp_path: Path, *words: str, **environment: str) -> tuple[int, str]:
    clean = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "heaps.xml"), *words]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return (tmp_path / "heaps.xml").read_text().count("<heap nr="), done.stdout.strip()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")
def test_threads_share_two_heaps_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    assert heaps(tmp_path)[0] > 4
    assert heaps(tmp_path, "share") == (2, "True")
    count, done = heaps(tmp_path, "share", MALLOC_ARENA_MAX="3")
    assert (count <= 3, done) == (True, "False")
