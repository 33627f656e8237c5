"""The kernel as machine code, without a GPU: what nvcc and NVRTC make of it for every generation we name.

Where a compiler or disassembler is missing its tests skip and say so; `MTKD_REQUIRE=nvcc` makes that a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cubin import CUDA_MACHINE, Cubin

from mtkd_edge.device.kernel import compiler, header, launcher, layout, nvrtc
from mtkd_edge.device.kernel.compiler import Compiler
from mtkd_edge.errors import BackendError
from mtkd_edge.score import Level, ScoreSpec

ARCHES = ["sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110"]
DEFAULT = layout.layout(
    ScoreSpec(
        (Level("a", "distance", 272, 32, 32, 0.1, (2.5,), (0.4,)), Level("b", "distance", 80, 32, 32, 0.9)),
        64, 64, 1.0, 0.02,
    )
)  # fmt: skip
PAPER = layout.layout(
    ScoreSpec(
        (Level("a", "squared", 1000, 1, 1, 1.0), Level("b", "cosine", 1000, 1, 1, 1.0),
         Level("c", "squared", 3, 64, 64, 1.0)), 16, 16, 0.0, 1.0,
    ), "float16",
)  # fmt: skip
EVERY = [*((DEFAULT, arch) for arch in ARCHES), *((PAPER, arch) for arch in ("sm_75", "sm_87", "sm_110"))]


def needed(found: object, what: str) -> None:
    if found is None:
        reason = f"{what} is not on this machine"
        if what in os.environ.get("MTKD_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def nvcc() -> Compiler:
    found = compiler.find_nvcc()
    needed(found, "nvcc")
    return found


@pytest.fixture(scope="module")
def cubins(nvcc: Compiler, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Cubin]:
    cache = tmp_path_factory.mktemp("cubins")
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda one: compiler.cubin(one[0], one[1], nvcc, cache), EVERY)
    return {(found.features, arch): Cubin(data) for (found, arch), data in zip(EVERY, made, strict=True)}


@pytest.mark.parametrize(("found", "arch"), EVERY, ids=lambda value: str(getattr(value, "features", value)))
def test_a_cubin_is_for_its_arch_and_holds_the_kernel_and_its_digest(cubins, found, arch):
    cubin = cubins[found.features, arch]
    assert (cubin.machine, f"sm_{cubin.arch}") == (CUDA_MACHINE, arch)
    assert {"score", "spec_digest"} <= {symbol.name for symbol in cubin.symbols}
    assert cubin.constant("spec_digest") == int(found.digest(), 16).to_bytes(8, "little")
    assert ".text.score" in {section.name for section in cubin.sections}


@pytest.mark.parametrize(
    ("found", "arch"), [(DEFAULT, "sm_75"), (DEFAULT, "sm_87"), (PAPER, "sm_90"), (PAPER, "sm_110")]
)
def test_nothing_is_spilled_and_two_blocks_fit_a_multiprocessor(nvcc, found, arch):
    taken = compiler.resources(found, arch)
    assert (taken.stack, taken.spilled) == (0, 0)
    assert 64 < taken.registers <= 65536 // (2 * layout.MAX_BLOCK), "fewer would mean that loads wait for each other"
    assert found.shared_bytes <= layout.SHARED


def wide_loads(text: str) -> int:
    return len(re.findall(r"ld\.global\.cs\.v4|LDG\.E\.EF\.128", text))


def assembly(found: layout.Layout, folder: Path) -> str:
    """PTX, which needs no disassembler."""
    (folder / "score.cu").write_text(header.source(found))
    command = [compiler.nvcc_path(), "-ptx", "-arch=sm_87", *compiler.FLAGS, "score.cu", "-o", "score.ptx"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "score.ptx").read_text()


def test_memory_between_blocks_is_ordered_and_arguments_are_those_of_the_launcher(nvcc, tmp_path):
    """What no run on a CPU can show: barrier, fence, ticket, fence, barrier; and the bytes that pycuda packs."""
    text = assembly(DEFAULT, tmp_path)
    steps = re.findall(r"(bar(?:rier)?)\.sync|(membar|fence)\.|(atom\.global\.inc)", text)
    order = ["".join("fence" if word == "membar" else word for word in step) for step in steps]
    at = order.index("atom.global.inc")
    assert order[at - 2 : at + 3] == ["bar", "fence", "atom.global.inc", "fence", "bar"]
    kinds = re.findall(
        r"\.param (?:\.align 8 )?\.(\w+) score_param_\d+(?:\[(\d+)\])?,?\n", text[: text.index("maxntid")]
    )
    assert kinds[0] == ("b8", str(struct.calcsize("P" * 2 * len(DEFAULT.levels))))
    letters = {"u64": "P", "f64": "d", "u32": "i"}
    assert "".join(letters[kind] for kind, _ in kinds[1:]) == launcher.ARGUMENTS


@pytest.mark.parametrize("found", [DEFAULT, PAPER], ids=["default", "paper"])
def test_features_are_read_16_bytes_at_a_time_and_all_before_the_first_is_used(nvcc, found, tmp_path):
    text = assembly(found, tmp_path)
    assert wide_loads(text) == sum(2 * one.at_once for one in found.levels)
    assert len(re.findall(r"ld\.global\.cs(?!\.v4)", text)) == 0
    assert "ld.local" not in text
    runs = re.findall(r"(?:ld\.global\.cs\.v4(?:(?!fma\.rn|sub\.f32).)*)+", text, re.DOTALL)
    assert max(map(wide_loads, runs)) >= 2 * max(one.at_once for one in found.levels) - 2


def test_the_machine_code_has_them_too(cubins, tmp_path):
    tool = shutil.which("nvdisasm")
    needed(tool, "nvdisasm")
    for (features, arch), cubin in cubins.items():
        (tmp_path / "score.cubin").write_bytes(cubin.data)
        command = [tool, str(tmp_path / "score.cubin")]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = DEFAULT if features == "float32" else PAPER
        assert len(re.findall(r"LDG\.[A-Z0-9.]*128", text)) >= sum(2 * one.at_once for one in found.levels), arch
        assert not re.search(r"\b(STL|LDL)\b", text), arch


def test_nvrtc_makes_the_same_kernel_where_there_is_no_nvcc(monkeypatch):
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    found = next(compiler.candidates(), None)
    needed(found, "NVRTC")
    assert re.fullmatch(r"NVRTC \d+\.\d+", found.name)
    cubin = Cubin(found.compile(header.source(DEFAULT), "sm_87"))
    assert (cubin.machine, cubin.arch) == (CUDA_MACHINE, 87)
    assert cubin.constant("spec_digest") == int(DEFAULT.digest(), 16).to_bytes(8, "little")
    with pytest.raises(BackendError, match=r"NVRTC does not compile .*error"):
        found.compile("no CUDA", "sm_87")
    with pytest.raises(BackendError, match="NVRTC does not compile"):
        found.compile(header.source(DEFAULT), "sm_1")


def test_a_machine_with_neither_compiler_has_none(monkeypatch):
    monkeypatch.setattr(compiler, "nvcc_path", lambda: None)
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter(["libnothing.so.0"]))
    assert list(compiler.candidates()) == []
    assert compiler.resources(DEFAULT, "sm_87") is None


def test_nvcc_is_found_where_the_toolkit_lives(monkeypatch, tmp_path):
    """On a Jetson it is not on PATH."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvcc"
    tool.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.6, V12.6.68"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert compiler.nvcc_path() == str(tool)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert compiler.find_nvcc().name == "nvcc 12.6.68"


def test_a_text_that_does_not_compile_is_the_compilers_own_words(nvcc):
    with pytest.raises(BackendError, match=r"nvcc does not compile the scoring kernel: .*error"):
        nvcc.compile("no CUDA", "sm_87")


def test_a_cubin_is_kept_by_text_arch_and_compiler(tmp_path):
    calls = []

    def fake(version: str) -> Compiler:
        def compile_text(text: str, arch: str) -> bytes:
            calls.append((version, arch, text))
            return f"{version} {arch}".encode()

        return Compiler(version, compile_text)

    first = compiler.cubin(DEFAULT, "sm_87", fake("nvcc 12.6.68"), tmp_path / "cache")
    assert compiler.cubin(DEFAULT, "sm_87", fake("nvcc 12.6.68"), tmp_path / "cache") == first
    assert len(calls) == 1
    for found, arch, version in ((DEFAULT, "sm_90", "nvcc 12.6.68"), (DEFAULT, "sm_87", "nvcc 13.0.88"),
                                 (PAPER, "sm_87", "nvcc 12.6.68")):  # fmt: skip
        compiler.cubin(found, arch, fake(version), tmp_path / "cache")
    assert len(calls) == 4
    (tmp_path / "file").write_bytes(b"")
    assert compiler.cubin(DEFAULT, "sm_87", fake("nvcc 12.6.68"), tmp_path / "file" / "cache") == first, "not kept"
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert compiler.arch_of((8, 7)) == "sm_87"
    assert compiler.arch_of((11, 0)) == "sm_110"
