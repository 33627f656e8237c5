"""NVIDIA's driver is asked before any of its libraries is loaded, and says why it cannot be used."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.errors import BackendError, MissingExtraError

STUB = """
#include <string.h>
int cuInit(unsigned f) { return %d; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = 40 + i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, d == 40 ? "Orin" : "wrong"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : -1; return 0; }
"""


def driver(folder: Path, status: int) -> str:
    """A libcuda that answers as an Orin does. Its own folder: a library is loaded once by its path."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler to make a stub driver with")
    (folder / "stub.c").write_text(STUB % status)
    library = folder / f"libcuda-{status}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True)
    return str(library)


def test_the_driver_tells_which_gpu_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(_trt_driver, "LIBRARY", driver(tmp_path, 0))
    assert str(_trt_driver.find()) == "Orin (compute capability 8.7)"
    with pytest.raises(BackendError, match="no GPU number 3; the driver knows 1"):
        _trt_driver.find(3)


def test_a_driver_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(_trt_driver, "LIBRARY", driver(tmp_path, 803))
    with pytest.raises(BackendError, match="cuInit gave error 803"):
        _trt_driver.find()
    assert _trt_driver.find_or_none() is None


def test_pycuda_is_asked_for_only_when_a_plan_is_to_run(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    with pytest.raises(MissingExtraError, match="pycuda"):
        _cuda.import_driver()
