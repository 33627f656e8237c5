"""Every name of TensorRT's API that our code uses exists in 10.3, 10.13, 10.16 and 11.4.

`trt_names.json` holds the names of the real bindings, written by scripts/trt_names.py; no TensorRT is needed here. What
our code uses is read off its source: a new call is checked without anybody thinking of it.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trt_names

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ROOT / "mtkd_edge" / "device" / "engines"
TABLE = json.loads(Path(__file__).with_name("trt_names.json").read_text())
VERSIONS, NAMES = TABLE["versions"], TABLE["names"]
HOLDS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "cache": "ITimingCache", "tensor": "ITensor", "runtime": "Runtime",
    "self._runtime": "Runtime", "self._engine": "ICudaEngine", "self._context": "IExecutionContext",
}  # fmt: skip
"""The variable that holds an object of the API in our code, and the object's class."""


def used(source: str) -> Iterator[tuple[str, bool]]:
    """`Builder.create_network`, `.OnnxParser`, `BuilderFlag.TF32`; and whether the code can do without it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "member":
            parts = [ast.literal_eval(argument) for argument in node.args[1:3] if isinstance(argument, ast.Constant)]
            if len(parts) == 2:
                yield ".".join(parts), any(keyword.arg == "required" for keyword in node.keywords)
        if isinstance(node, ast.Attribute):
            holder = ast.unparse(node.value)
            if holder in HOLDS:
                yield f"{HOLDS[holder]}.{node.attr}", False
            elif holder == "trt" and not node.attr.startswith("__"):
                yield f".{node.attr}", False
            elif holder.startswith("trt.") and holder.count(".") == 1:
                yield f"{holder.removeprefix('trt.')}.{node.attr}", False


def missing(source: str) -> list[str]:
    """Names that a release lacks and the code needs."""
    return [
        f"{name} in {version}"
        for name, optional in dict.fromkeys(used(source))
        for version, mark in zip(VERSIONS, NAMES.get(name, "-" * len(VERSIONS)), strict=True)
        if mark == "-" and not optional and not name.endswith(".__init__")
    ]


SOURCES = sorted(ENGINES.glob("*trt_*.py")) + sorted(ENGINES.glob("tensorrt*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_name_our_code_needs_is_in_every_release(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_the_releases_are_those_we_promise() -> None:
    assert [".".join(version.split(".")[:2]) for version in VERSIONS] == ["10.3", "10.13", "10.16", "11.4"]


def test_the_reading_finds_the_calls_that_matter() -> None:
    names = {name for path in SOURCES for name, _ in used(path.read_text())}
    assert names >= {
        ".Builder", ".OnnxParser", ".nptype", "Builder.create_network", "Builder.build_serialized_network",
        "OnnxParser.parse_from_file", "IBuilderConfig.set_memory_pool_limit", "IOptimizationProfile.set_shape",
        "MemoryPoolType.WORKSPACE", "BuilderFlag.STRICT_NANS", "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Runtime.deserialize_cuda_engine", "ICudaEngine.get_tensor_shape", "IExecutionContext.execute_async_v3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ("config.int8_calibrator = x", ["IBuilderConfig.int8_calibrator in 11.4.0.106"]),
        ("member(trt, 'BuilderFlag', 'INT8')", ["BuilderFlag.INT8 in 11.4.0.106"]),
        ("member(trt, 'BuilderFlag', 'INT8', required=False)", []),
        ("self._engine.device_memory_size", ["ICudaEngine.device_memory_size in 11.4.0.106"]),
        ("trt.BuilderFlag.STRICT_NANS", ["BuilderFlag.STRICT_NANS in 10.3.0"]),
        ("builder.no_such_call()", [f"Builder.no_such_call in {version}" for version in VERSIONS]),
    ],
)
def test_a_name_that_a_release_lacks_is_found(line: str, lacking: list[str]) -> None:
    assert missing(line) == lacking


def test_the_stub_libraries_have_the_functions_that_the_bindings_want(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    trt_names.stubs("10", tmp_path)
    for name, functions in trt_names.LIBRARIES.items():
        library = tmp_path / f"lib{name}.so.10"
        code = f"import ctypes; l = ctypes.CDLL({str(library)!r}); print(*[l[f]() for f in {functions!r}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0"] * len(functions)
