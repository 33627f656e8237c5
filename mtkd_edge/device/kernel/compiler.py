"""Kernel text -> cubin, by the nvcc of this machine or else by NVRTC; kept by the hash of all that decides it.

The text ships, the cubin does not: code of CUDA 13 may not load into a driver of CUDA 12, so it is compiled where it
will run. Nothing here needs a GPU. Knows nothing of how a cubin is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtkd_edge.bundle import make_folder, write_file
from mtkd_edge.device.kernel import nvrtc
from mtkd_edge.device.kernel.header import source
from mtkd_edge.device.kernel.layout import Layout
from mtkd_edge.errors import BackendError, BundleError

FLAGS = ("-std=c++17", "-fmad=false")
"""The same bits as the host build: what is fused says fmaf in the text."""
HINT = "sudo apt-get install nvidia-cuda-toolkit"


@dataclass(frozen=True, slots=True)
class Compiler:
    """`name` with its version, as "nvcc 13.0.88"; `compile`: text and arch ("sm_87") -> cubin, or BackendError."""

    name: str
    compile: Callable[[str, str], bytes]


def candidates() -> Iterator[Compiler]:
    """nvcc, then NVRTC, where they are here. nvcc is what the toolkit of the machine was tested with.

    Either may be too old for the GPU, or too new for its driver: the other is then worth a try.
    """
    for find in (find_nvcc, find_nvrtc):
        found = find()
        if found is not None:
            yield found


def find_nvcc() -> Compiler | None:
    """The first nvcc that tells its version."""
    path = nvcc_path()
    if path is None:
        return None
    told = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    number = re.search(r"V(\d+\.\d+\.\d+)", told)
    return Compiler(f"nvcc {number[1]}", partial(_run_nvcc, path)) if number else None


def nvcc_path() -> str | None:
    """nvcc on PATH, or where the toolkit lives: on a Jetson it is not on PATH."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = (shutil.which("nvcc"), *(shutil.which(f"{place}/bin/nvcc") for place in places if place))
    return next((path for path in found if path), None)


def find_nvrtc() -> Compiler | None:
    """NVRTC, where the loader finds it."""
    library = nvrtc.load()
    if library is None:
        return None
    name = f"NVRTC {nvrtc.version(library)}"
    return Compiler(name, lambda text, arch: nvrtc.compile_text(library, text, [f"-arch={arch}", *FLAGS]))


def arch_of(capability: tuple[int, int]) -> str:
    """(8, 7) -> "sm_87"."""
    return f"sm_{capability[0]}{capability[1]}"


def cubin(found: Layout, arch: str, compiler: Compiler, cache: Path) -> bytes:
    """The kernel's machine code for one arch, from `cache` where the same text was compiled by the same compiler.

    Raises BackendError with the compiler's words.
    """
    text = source(found)
    key = hashlib.sha256("\0".join([text, arch, compiler.name, *FLAGS]).encode()).hexdigest()[:32]
    kept = cache / f"score-{arch}-{key}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    made = compiler.compile(text, arch)
    with contextlib.suppress(BundleError):  # it is made: where it cannot be kept, only the next build is slower
        make_folder(cache)
        write_file(kept, made)
    return made


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas says a thread takes: registers, bytes of stack, bytes that registers were spilled to."""

    registers: int
    stack: int
    spilled: int


def resources(found: Layout, arch: str) -> Resources | None:
    """Compile once more and ask ptxas; None without nvcc. Raises BackendError where ptxas speaks another language."""
    path = nvcc_path()
    if path is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        said = _run(path, Path(folder), source(found), arch, "-Xptxas=-v")
    numbers = [re.search(rf"(\d+) bytes {what}", said) for what in ("stack frame", "spill stores", "spill loads")]
    registers = re.search(r"Used (\d+) registers", said)
    if registers is None or None in numbers:
        raise BackendError(f"ptxas does not tell what the kernel takes: {said[:2000]}")
    stack, stored, loaded = (int(number[1]) for number in numbers if number)
    return Resources(int(registers[1]), stack, stored + loaded)


def _run_nvcc(path: str, text: str, arch: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _run(path, Path(folder), text, arch)
        return (Path(folder) / "score.cubin").read_bytes()


def _run(path: str, folder: Path, text: str, arch: str, *more: str) -> str:
    """nvcc's words about a compilation that succeeded; score.cubin is then in the folder."""
    (folder / "score.cu").write_text(text)
    command = [path, "-cubin", f"-arch={arch}", *FLAGS, *more, "-o", "score.cubin", "score.cu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"nvcc does not compile the scoring kernel: {(done.stderr or done.stdout)[:2000]}", HINT)
    return done.stdout + done.stderr
