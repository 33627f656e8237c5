"""The doctor's look at NVIDIA's parts: driver and GPU, TensorRT, CUDA toolkit and pycuda, JetPack.

None of them is needed by the base install, so nothing here is ever a failure.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

from mtkd_edge.device.doctor_python import probe
from mtkd_edge.device.doctor_report import Finding

GROUP = "nvidia"
JETPACK = Path("/etc/nv_tegra_release")
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""CUdevice_attribute numbers of the driver API."""
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""


def driver() -> list[Finding]:
    """Ask the driver itself (libcuda), as an engine will; nvidia-smi is absent on Jetsons and in many containers."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        found = "no NVIDIA driver (libcuda.so.1 is not there): engines run on the CPU"
        return [Finding(GROUP, "driver", "warn", found, "with an NVIDIA GPU: install its driver")]
    code = cuda.cuInit(0)
    if code:
        reason = "the driver sees no GPU" if code == NO_DEVICE else f"the driver refuses to start (CUDA error {code})"
        return [Finding(GROUP, "driver", "warn", reason, "check nvidia-smi; in a container: docker run --gpus all")]
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} GPU"
    return [Finding(GROUP, "driver", "ok", found), *(_gpu(cuda, index) for index in range(count.value))]


def _gpu(cuda: ctypes.CDLL, index: int) -> Finding:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(100)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
    found = f"{name.value.decode()}, {memory.value / 2**30:.0f} GiB, compute capability {major.value}.{minor.value}"
    return Finding(GROUP, f"gpu {index}", "ok", found)


def tensorrt() -> list[Finding]:
    """Whether the two TensorRT packages load, and if not, in whose words. A broken JetPack shows itself here."""
    return [_runtime("tensorrt", "tensorrt"), _runtime("tensorrt_rtx", "rtx")]


def _runtime(module: str, extra: str) -> Finding:
    works, said = probe(f"import {module}; print({module}.__version__)")
    if works:
        return Finding(GROUP, module, "ok", said)
    missing = f"No module named '{module}'" in said
    fix = f"pip install 'mtkd-edge[{extra}]'" if missing else "reinstall it in the version that fits the driver"
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
    if not JETPACK.is_file():
        return []
    text = JETPACK.read_text(errors="replace")
    match = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    found = f"Jetson Linux {match[1]}.{match[2]}" if match else text.splitlines()[0]
    return [Finding(GROUP, "jetpack", "ok", found)]
