"""The NVIDIA driver, asked through ctypes before any NVIDIA library is.

`tensorrt.Runtime` without a driver is not an exception but a segmentation fault, so whether there is one must be known
first; and what a machine says of itself without one. Imports neither TensorRT nor pycuda.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from mtkd_edge.errors import BackendError

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR} of cuda.h."""

JETPACK = Path("/etc/nv_tegra_release")
"""There on Jetsons alone."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device: its name and compute capability, as (9, 0)."""

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def find(index: int = 0) -> Gpu:
    """The GPU with this index. Raises BackendError saying what is missing: the driver, or the device."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(
            f"there is no NVIDIA driver: {error}", "build for `--target cpu`, or use the GPU machine"
        ) from error
    status = driver.cuInit(0)
    if status:
        raise BackendError(f"the NVIDIA driver does not start: cuInit gave error {status}", "nvidia-smi")
    count, device = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if not 0 <= index < count.value:
        raise BackendError(f"there is no GPU number {index}; the driver knows {count.value}", "nvidia-smi -L")
    driver.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    numbers = ctypes.c_int(), ctypes.c_int()
    for number, attribute in zip(numbers, (MAJOR, MINOR), strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    return Gpu(name.value.decode(errors="replace"), (numbers[0].value, numbers[1].value))


def find_or_none(index: int = 0) -> Gpu | None:
    """As `find`, for a build that can do without."""
    try:
        return find(index)
    except BackendError:
        return None


def install(extra: str) -> str:
    """How the package of a TensorRT that is not there is had. On a Jetson it is JetPack's, and one from pip is not."""
    if extra == "tensorrt" and JETPACK.is_file():
        return "python3 -m venv --system-site-packages ENV: TensorRT is in the system's Python, by JetPack"
    return f"pip install 'mtkd-edge[{extra}]'"
