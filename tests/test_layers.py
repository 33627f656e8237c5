"""The architecture, enforced: who may import whom, how long a file and a function may be, who may print.

The rules are functions over {path: source}, so that each is also shown to catch a violation planted on purpose.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Sources = dict[str, str]

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CV2_SHARED = {"frames", "metrics"}
LAB_ONLY = {"torch", "torchvision", "timm", "onnx", "onnxsim", "onnxscript", "onnxruntime", "safetensors", "matplotlib"}
VENDORS = {
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "pycuda": "cuda",
    "cuda": "cuda",  # cuda-bindings, extra `graph`
    "paho": "paho",  # MQTT, extra `mqtt`
    "starlette": "starlette",  # the page, extra `serve`
    "uvicorn": "uvicorn",  # its server, extra `serve`
    "asyncua": "asyncua",  # OPC UA for a PLC, extra `opcua`
    "gpiod": "gpiod",  # wires, extra `gpio`
}
"""A vendor runtime and the word that the name of a file importing it must contain."""
DEVICE_MAY = {"numpy", "msgspec", "cv2", *VENDORS}
POISON = sorted(LAB_ONLY)


def product() -> Sources:
    """{"mtkd_edge/cli/app.py": source} of every Python file of the package and its scripts."""
    files = [*ROOT.glob("mtkd_edge/**/*.py"), *ROOT.glob("scripts/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(files)}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(source: str, known: set[str]) -> Iterator[str]:
    """Full names of the modules that the source imports anywhere, type-checking blocks aside."""
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in inside if name in known]
            yield from submodules
            if len(submodules) < len(inside):
                yield node.module


def graph(sources: Sources) -> dict[str, set[str]]:
    known = {module_name(path) for path in sources}
    return {module_name(path): set(imports(source, known)) for path, source in sources.items()}


def cycles(sources: Sources) -> list[str]:
    """Import cycles, imports inside functions included: "a -> b -> a"."""
    edges = graph(sources)
    done: set[str] = set()
    found: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for target in sorted(edges[name] & edges.keys()):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())
    return found


def layer(module: str) -> str:
    """shared, device, lab, demo, cli or scripts."""
    if not module.startswith("mtkd_edge"):
        return "scripts"
    parts = module.split(".")
    if module in ("mtkd_edge.__main__", "mtkd_edge.cli"):
        return "cli"
    return parts[1] if len(parts) > 1 and parts[1] in ("device", "lab", "demo", "cli") else "shared"


MAY_IMPORT = {
    "shared": {"shared"},
    "device": {"shared", "device"},
    "lab": {"shared", "device", "lab"},
    "demo": {"shared", "device", "lab", "demo"},
    "cli": {"shared", "device", "lab", "demo", "cli"},
}


def crossed_layers(sources: Sources) -> list[str]:
    """Imports of our own modules that go up: shared <- device <- lab <- demo <- cli."""
    return [
        f"{module} imports {target}"
        for module, targets in graph(sources).items()
        for target in sorted(targets)
        if layer(module) in MAY_IMPORT
        and target.startswith("mtkd_edge")
        and layer(target) not in MAY_IMPORT[layer(module)]
    ]


def allowed(module: str) -> set[str] | None:
    """Packages of others that a module may import; None where anything goes."""
    stem = module.rsplit(".", 1)[-1]
    if layer(module) == "shared":
        return {"numpy", "msgspec"} | ({"cv2"} if stem in CV2_SHARED else set())
    if layer(module) == "device":
        return {p for p in DEVICE_MAY if p not in VENDORS or VENDORS[p] in stem}
    return None


def foreign_packages(sources: Sources) -> list[str]:
    """Packages of others where they may not be imported; typer and rich stay in cli."""
    found = []
    for module, targets in graph(sources).items():
        may = allowed(module)
        for top in sorted({target.partition(".")[0] for target in targets} - sys.stdlib_module_names - {"mtkd_edge"}):
            outside_cli = top in ("typer", "click", "rich") and layer(module) != "cli"
            if outside_cli or (may is not None and top not in may):
                found.append(f"{module} imports {top}")
    return found


def eager_vendors(sources: Sources) -> list[str]:
    """Vendor runtimes imported while a module loads, where `import mtkd_edge.device...` would need them."""
    found = []
    for path, source in sources.items():
        if layer(module_name(path)) not in ("shared", "device"):
            continue
        for node in ast.parse(source).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path}:{node.lineno} {n}" for n in names if n.partition(".")[0] in VENDORS]
    return found


def speaks(sources: Sources) -> list[str]:
    """print, sys.stdout.write and every way to end the process, outside cli."""
    banned = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    found = []
    for path, source in sources.items():
        if layer(module_name(path)) in ("cli", "scripts"):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in banned:
                found.append(f"{path}:{node.lineno} {ast.unparse(node.func)}")
            if isinstance(node, ast.Raise) and node.exc is not None and "SystemExit" in ast.unparse(node.exc):
                found.append(f"{path}:{node.lineno} SystemExit")
    return found


def too_long(sources: Sources) -> list[str]:
    """Files over 300 lines and functions over 60."""
    found = [f"{p} has {len(s.splitlines())} lines" for p, s in sources.items() if len(s.splitlines()) > 300]
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, FUNCTIONS):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    found.append(f"{path}:{node.lineno} {node.name} has {length} lines")
    return found


def without_docstring(sources: Sources) -> list[str]:
    return [path for path, source in sources.items() if not ast.get_docstring(ast.parse(source))]


RULES: list[tuple[Callable[[Sources], list[str]], Sources]] = [
    (cycles, {"mtkd_edge/a.py": "import mtkd_edge.b", "mtkd_edge/b.py": "def f():\n  from mtkd_edge import a"}),
    (crossed_layers, {"mtkd_edge/device/a.py": "from mtkd_edge.lab import b", "mtkd_edge/lab/b.py": ""}),
    (crossed_layers, {"mtkd_edge/a.py": "from mtkd_edge.device.b import c", "mtkd_edge/device/b.py": ""}),
    (foreign_packages, {"mtkd_edge/device/a.py": "def f():\n  import torch.nn"}),
    (foreign_packages, {"mtkd_edge/device/engines/trt.py": "def f():\n  import openvino"}),
    (foreign_packages, {"mtkd_edge/device/outbox/sender.py": "def f():\n  import paho.mqtt.client"}),
    (foreign_packages, {"mtkd_edge/score.py": "import cv2"}),
    (foreign_packages, {"mtkd_edge/demo/run.py": "import rich"}),
    (eager_vendors, {"mtkd_edge/device/engines/openvino.py": "import openvino.runtime"}),
    (speaks, {"mtkd_edge/lab/a.py": "def f():\n  print(1)"}),
    (speaks, {"mtkd_edge/device/a.py": "import sys\nsys.exit(1)"}),
    (speaks, {"mtkd_edge/device/a.py": "raise SystemExit(2)"}),
    (too_long, {"mtkd_edge/a.py": "x = 1\n" * 301}),
    (too_long, {"mtkd_edge/a.py": "def f():\n" + "  x = 1\n" * 60}),
    (without_docstring, {"mtkd_edge/a.py": "x = 1"}),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(product()) == []


@pytest.mark.parametrize(("rule", "planted"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_the_rule_catches_a_planted_violation(rule: Callable[[Sources], list[str]], planted: Sources) -> None:
    assert rule(planted)


def test_test_files_stay_short() -> None:
    tests = {path.name: path.read_text() for path in Path(__file__).parent.glob("*.py")}
    assert [name for name, text in tests.items() if len(text.splitlines()) > 300] == []


def poisoned(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter in which every package of the lab, and every vendor runtime, refuses to load."""
    banned = [*POISON, *VENDORS]
    prelude = f"import sys\nfor name in {banned!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_every_module_of_the_device_loads_without_torch_onnx_or_a_vendor() -> None:
    modules = [m for m in graph(product()) if layer(m) in ("shared", "device", "cli")]
    assert len(modules) > 30
    done = poisoned(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_poison_works() -> None:
    done = poisoned("import mtkd_edge.lab.offline")
    assert "ModuleNotFoundError" in done.stderr


def test_a_watch_runs_without_torch_onnx_or_a_vendor(tmp_path: Path) -> None:
    done = poisoned(
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import line\nfrom pathlib import Path\nfrom mtkd_edge.device.sources import open_sources\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "for n in range(4): line.write_photo(folder / f'{n}.png', line.part(defect=n == 2))\n"
        "verdicts, summary = line.run(open_sources([str(folder)]))\n"
        "print(*(verdict.state.value for verdict in verdicts))"
    )
    assert done.stdout.split() == ["normal", "normal", "anomalous", "normal"], done.stderr


def lazy_decoders(sources: Sources) -> list[str]:
    """Where the device side leaves it to a thread to be the first that decodes a type.

    msgspec (0.22) fills in what it knows of a Struct at its first decoding, and a second thread that comes meanwhile
    ends the program by SIGSEGV. A decoder that is made when its module is imported is complete before any thread uses
    it. Configuration (TOML) is read before there are threads.
    """
    found = []
    for path, source in sources.items():
        if not path.startswith("mtkd_edge/") or path.split("/")[1] in ("lab", "cli", "demo"):
            continue
        tree = ast.parse(source)
        inside = {id(call) for node in ast.walk(tree) if isinstance(node, FUNCTIONS) for call in ast.walk(node)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) in inside):
            called = ast.unparse(call.func)
            typed = called in ("msgspec.json.decode", "msgspec.msgpack.decode") and len(call.args + call.keywords) > 1
            if typed or (called.startswith("msgspec.") and called.endswith(".Decoder")):
                found.append(f"{path}:{call.lineno}")
    return found


def test_no_thread_is_the_first_to_decode_a_type() -> None:
    assert lazy_decoders(product()) == []
    planted = "import msgspec\ndef f(x):\n    return msgspec.json.decode(x, type=dict)\n"
    assert lazy_decoders({"mtkd_edge/device/x.py": planted}) == ["mtkd_edge/device/x.py:3"]
    planted = "import msgspec\ndef f(x):\n    return msgspec.msgpack.Decoder(dict).decode(x)\n"
    assert lazy_decoders({"mtkd_edge/x.py": planted}) == ["mtkd_edge/x.py:3"]
