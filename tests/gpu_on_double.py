"""`scripts/gpu_report.py` on the double of pycuda, as a program: its sections are processes, which no fixture reaches.

FAULTS in the environment names what goes wrong: "raise in checks", "raise in speed", "abort in speed", "hang in speed",
"abort at the end of speed".
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cuda_double import Cuda

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import gpu_cases
import gpu_checks
import gpu_report
import gpu_rivals
import gpu_speed

from mtkd_edge.device.engines import _cuda, _trt_driver
from mtkd_edge.device.kernel import compiler, host

FAULTS = os.environ.get("FAULTS", "").split(", ")


def compile_text(text: str, arch: str) -> bytes:
    """What the double takes for a cubin."""
    assert arch == "sm_90"
    with tempfile.TemporaryDirectory() as folder:
        if text != gpu_speed.EMPTY:
            return host.build(None, Path(folder), text).read_bytes()
        library = Path(folder) / "empty.so"
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
        subprocess.run(command, input='extern "C" void empty() {}', text=True, check=True)
        return library.read_bytes()


double = Cuda()
_cuda.import_driver = lambda: double
_trt_driver.find = lambda index=0: _trt_driver.Gpu("a double", (9, 0))
compiler.find_nvcc = lambda: None
compiler.find_nvrtc = lambda: compiler.Compiler("g++", compile_text)
gpu_checks.CASES = {"odd": gpu_cases.ODD}
gpu_checks.REPETITIONS = 1
gpu_checks.DEFAULT = gpu_cases.LARGE
gpu_speed.copy_bandwidth = lambda *_: 1 / ("raise in speed" not in FAULTS)
if "abort in speed" in FAULTS:
    gpu_speed.copy_bandwidth = lambda *_: os.abort()
if "hang in speed" in FAULTS:
    gpu_speed.copy_bandwidth = lambda *_: time.sleep(60)
gpu_speed.bandwidth_table = lambda *_: [{"batch": 1, "cold_us": 2.0}]
gpu_speed.kernel_row = lambda *_, **__: {"warm_us": 1.0}
gpu_report.resources = list
which = shutil.which
gpu_report.shutil.which = lambda name: None if "sanitizer" in name else which(name)
gpu_rivals.missing = lambda: "torch sees no GPU"
if "raise in checks" in FAULTS:
    gpu_checks.verdicts = lambda runner: {}["no such key"]
if "abort at the end of speed" in FAULTS and "speed" in sys.argv:
    atexit.register(os.abort)
gpu_report.main()
