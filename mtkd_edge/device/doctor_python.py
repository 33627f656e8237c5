"""The doctor's look at Python: version, the packages of each extra, OpenVINO and its devices."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import metadata

from mtkd_edge.device.doctor_report import Finding, Status

OLDEST = (3, 10)
PROBE_S = 60.0
"""A runtime that takes longer than this to load hangs."""
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;]*?)\s*(?:;(.*))?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def python() -> list[Finding]:
    """The interpreter and the processor."""
    found = f"{platform.python_version()} on {platform.machine()}, {platform.platform(terse=True)}"
    new_enough = sys.version_info[:2] >= OLDEST
    fix = "" if new_enough else f"install Python {OLDEST[0]}.{OLDEST[1]} or newer"
    return [Finding("python", "interpreter", "ok" if new_enough else "fail", found, fix)]


def packages() -> list[Finding]:
    """Every package that the base install and each extra ask for, one finding an extra."""
    try:
        requirements = metadata.requires("mtkd-edge") or []
    except metadata.PackageNotFoundError:
        return [Finding("packages", "base", "warn", "mtkd-edge runs without being installed", "pip install -e .")]
    groups: dict[str, list[tuple[str, str]]] = {}
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement.strip())
        if match is None:
            continue
        name, wanted, marker = match.groups()
        extra = EXTRA.search(marker or "")
        if marker and extra is None and not _applies(marker):
            continue
        groups.setdefault(extra[1] if extra else "base", []).append((name, wanted))
    return [_group(group, wanted) for group, wanted in groups.items()]


def _applies(marker: str) -> bool:
    """The one environment marker in use: `python_version < "3.11"`."""
    limit = re.search(r"python_version\s*<\s*['\"](\d+)\.(\d+)['\"]", marker)
    return limit is None or sys.version_info[:2] < (int(limit[1]), int(limit[2]))


def _group(group: str, wanted: list[tuple[str, str]]) -> Finding:
    have: list[str] = []
    lack: list[str] = []
    for name, specifier in wanted:
        version = _version(name)
        if not version:
            lack.append(f"{name} missing")
        elif not satisfies(version, specifier):
            lack.append(f"{name} {version} (wanted {specifier})")
        else:
            have.append(f"{name} {version}")
    status: Status = "ok" if not lack else "fail" if group == "base" else "warn"
    package = "mtkd-edge" if group == "base" else f"'mtkd-edge[{group}]'"
    return Finding("packages", group, status, ", ".join(lack or have), f"pip install {package}" if lack else "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version meets a comma-separated list of `>=` and `<` bounds, compared number by number."""
    have = _numbers(version)
    for bound in filter(None, (part.strip() for part in specifier.split(","))):
        operator, limit = ("<", bound[1:]) if bound.startswith("<") else (">=", bound.removeprefix(">="))
        if (have < _numbers(limit)) != (operator == "<"):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\s*(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def openvino() -> list[Finding]:
    """The devices OpenVINO can use; the base install needs its CPU."""
    code = (
        "import openvino; c = openvino.Core();"
        "print(openvino.__version__.split('-')[0]);"
        "print(', '.join(d + ' (' + c.get_property(d, 'FULL_DEVICE_NAME').strip() + ')' for d in c.available_devices))"
    )
    works, said = probe(code)
    if not works:
        return [Finding("openvino", "runtime", "fail", said, "pip install --force-reinstall openvino")]
    version, _, devices = said.partition("\n")
    usable = "CPU" in devices
    fix = "" if usable else "pip install --force-reinstall openvino"
    return [
        Finding("openvino", "runtime", "ok", version),
        Finding("openvino", "devices", "ok" if usable else "fail", devices or "none", fix),
    ]


def probe(code: str) -> tuple[bool, str]:
    """Run Python code in a child process. (True, what it printed), or (False, why it failed, in its last words)."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        return False, f"did not load within {PROBE_S:g} s"
    if done.returncode == 0:
        return True, done.stdout.strip()
    words = done.stderr.strip().splitlines()
    return False, words[-1] if words else f"the process ended with code {done.returncode}"
