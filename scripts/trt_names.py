"""Which names of TensorRT's Python API exist in which version: writes tests/trt_names.json.

    python scripts/trt_names.py [--cache FOLDER] [--out tests/trt_names.json]

The bindings wheels (1.1 to 1.4 MB each) hold one extension module that needs three libraries of TensorRT and, of them,
a handful of C functions. Three empty libraries with those functions let the module be imported and looked at, without
TensorRT, a driver or a GPU; nothing can be run with it. Needs pip, a C compiler, x86-64 Linux and a network, once: the
wheels stay in the cache. Only names are written, nothing of the wheels.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RELEASES = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu13-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
"""JetPack 6.1 and 6.2, 7.0 and 7.1, 7.2, and what can be installed after it; x86 in the same versions."""
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "ITensor",
    "ITimingCache", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError",
    "Runtime", "Severity", "TensorIOMode",
)  # fmt: skip
LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry", "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    ),
}  # fmt: skip
"""Library -> the C functions that the extension module wants of it."""
LOOK = """
import importlib, inspect, json, sys
module = importlib.import_module(sys.argv[1])
found = ["." + name for name in dir(module) if not name.startswith("_")]
for name in json.loads(sys.argv[2]):
    kind = getattr(module, name, None)
    if inspect.isclass(kind):
        found += [name + "." + inner for inner in dir(kind) if not inner.startswith("_")]
print(json.dumps(found))
"""


def wheel(package: str, version: str, cache: Path) -> Path:
    """The wheel for this Python, from the cache or by pip. Exits where pip cannot get it."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pattern = f"{package.replace('-', '_')}-{version}-{python}-*.whl"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*command, f"{package}=={version}"], check=True)
    return next(cache.glob(pattern))


def stubs(major: str, folder: Path) -> None:
    """The three libraries, each with functions that do nothing and give null."""
    for name, functions in LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        soname = f"lib{name}.so.{major}"
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{soname}"]
        subprocess.run(["cc", *flags, str(source), "-o", str(folder / soname)], check=True)


def names(package: str, version: str, cache: Path) -> list[str]:
    """`.Builder` for what the module has, `Builder.create_network` for what a class has."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(wheel(package, version, cache)) as archive:
            archive.extractall(folder)
        stubs(version.partition(".")[0], folder)
        # the package beside it would load TensorRT itself; the extension module alone does not
        module = next(path for path in folder.glob("tensorrt*/tensorrt*.so"))
        code = f"import sys; sys.path.insert(0, {str(module.parent)!r})\n{LOOK}"
        done = subprocess.run(
            [sys.executable, "-c", code, "tensorrt", json.dumps(CLASSES)],
            env={"LD_LIBRARY_PATH": str(folder)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: list[str] = json.loads(done.stdout.splitlines()[-1])
        written = ast.parse((module.parent / "__init__.py").read_text()).body
        return found + [f".{part.name}" for part in written if isinstance(part, ast.FunctionDef)]


def main() -> None:
    """Look at every release and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mtkd-edge" / "trt-bindings")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "trt_names.json")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    found = {version: set(names(package, version, given.cache)) for version, package in RELEASES.items()}
    every = sorted(set().union(*found.values()))
    table = {name: "".join("+" if name in inside else "-" for inside in found.values()) for name in every}
    given.out.write_text(json.dumps({"versions": list(RELEASES), "names": table}, indent=0) + "\n")
    print(f"{len(table)} names of {len(RELEASES)} releases in {given.out}")


if __name__ == "__main__":
    main()
