"""The doctor's look at NVIDIA's parts: driver and GPU, TensorRT, CUDA toolkit and pycuda, JetPack.

None of them is needed by the base install, so nothing here is ever a failure.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from mtkd_edge.device.doctor_python import probe
from mtkd_edge.device.doctor_report import Finding
from mtkd_edge.device.engines import _trt_driver
from mtkd_edge.errors import BackendError

GROUP = "nvidia"
VERSION = Path("/proc/driver/nvidia/version")


def driver() -> list[Finding]:
    """Ask the driver itself, as an engine will; nvidia-smi is absent on Jetsons and in many containers."""
    try:
        gpus = [_trt_driver.find()]
    except BackendError as error:
        return [Finding(GROUP, "driver", "warn", f"{error.message}: engines run on the CPU", error.hint)]
    while (another := _trt_driver.find_or_none(len(gpus))) is not None:
        gpus.append(another)
    version = re.search(r"\b\d{3}\.[\d.]+", VERSION.read_text()) if VERSION.is_file() else None
    found = [Finding(GROUP, "driver", "ok", version[0] if version else "present")]
    return found + [Finding(GROUP, f"gpu {number}", "ok", str(gpu)) for number, gpu in enumerate(gpus)]


def tensorrt() -> list[Finding]:
    """Whether the two TensorRT packages load, and if not, in whose words. A broken JetPack shows itself here."""
    return [_runtime("tensorrt", "tensorrt"), _runtime("tensorrt_rtx", "rtx")]


def _runtime(module: str, extra: str) -> Finding:
    works, said = probe(f"import {module}; print({module}.__version__)")
    if works:
        return Finding(GROUP, module, "ok", said)
    missing = f"No module named '{module}'" in said
    fix = _trt_driver.install(extra) if missing else "reinstall it in the version that fits the driver"
    return Finding(GROUP, module, "warn", "not installed" if missing else said, fix)


def toolkit() -> list[Finding]:
    """nvcc compiles the scoring kernel and pycuda itself; pycuda runs engines."""
    nvcc = shutil.which("nvcc") or next((str(p) for p in Path("/usr/local").glob("cuda*/bin/nvcc")), "")
    compiler = Finding(GROUP, "nvcc", "warn", "not found", "install the CUDA toolkit and put its bin folder on PATH")
    if nvcc:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=30).stdout
        release = re.search(r"release ([\d.]+)", said)
        compiler = Finding(GROUP, "nvcc", "ok", f"{release[1] if release else 'version unknown'} ({nvcc})")
    works, said = probe("import pycuda, pycuda.driver; print(pycuda.VERSION_TEXT)")
    if works:
        return [compiler, Finding(GROUP, "pycuda", "ok", said)]
    absent = "No module named 'pycuda'" in said
    found = "not installed: TensorRT engines can be built but not run" if absent else said
    return [compiler, Finding(GROUP, "pycuda", "warn", found, "pip install pycuda (needs nvcc)")]


def jetson() -> list[Finding]:
    """The release of Jetson Linux; nothing on other machines."""
    if not _trt_driver.JETPACK.is_file():
        return []
    text = _trt_driver.JETPACK.read_text(errors="replace")
    match = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    found = f"Jetson Linux {match[1]}.{match[2]}" if match else text.splitlines()[0]
    return [Finding(GROUP, "jetpack", "ok", found)]
