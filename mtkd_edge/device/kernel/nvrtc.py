"""NVRTC, the CUDA compiler that is a library: for machines with a driver and no toolkit. Through ctypes alone.

It comes with the CUDA toolkit, with JetPack, and as a wheel that torch and others bring along.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

from mtkd_edge.errors import BackendError

NAMES = ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12")
FOLDERS = ("/usr/local/cuda/lib64",)


def candidates() -> Iterator[str]:
    """What may be NVRTC: the loader's own path first, then CUDA's usual folder, then wheels beside this package."""
    yield from NAMES
    yield from (f"{folder}/{name}" for folder in FOLDERS for name in NAMES)
    for folder in sys.path:
        yield from (str(path) for path in sorted(Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*")))


def load() -> ctypes.CDLL | None:
    """The library, or None where there is none."""
    for name in candidates():
        with contextlib.suppress(OSError):
            # NVRTC opens its builtins by their bare name, which the loader does not find in a wheel's folder
            for builtins in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")) if "/" in name else ():
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(name)
    return None


def version(library: ctypes.CDLL) -> str:
    """As "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _demand(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "does not tell its version")
    return f"{major.value}.{minor.value}"


def compile_text(library: ctypes.CDLL, text: str, options: list[str]) -> bytes:
    """A cubin of the text. Raises BackendError with the compiler's log."""
    program = ctypes.c_void_p()
    made = library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"score.cu", 0, None, None)
    _demand(library, made, "does not take the text")
    try:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), words):
            log = _bytes(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            raise BackendError(f"NVRTC does not compile the scoring kernel: {log.decode(errors='replace')[:2000]}")
        return _bytes(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(library: ctypes.CDLL, program: ctypes.c_void_p, size_of: str, get: str) -> bytes:
    size = ctypes.c_size_t()
    _demand(library, getattr(library, size_of)(program, ctypes.byref(size)), size_of)
    data = ctypes.create_string_buffer(size.value)
    _demand(library, getattr(library, get)(program, data), get)
    return data.raw


def _demand(library: ctypes.CDLL, status: int, what: str) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise BackendError(f"NVRTC {what}: {library.nvrtcGetErrorString(status).decode()}", "mtkd-edge doctor")
