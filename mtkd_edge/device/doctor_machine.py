"""The doctor's look at the machine: cameras and the right to open them, free space, weights kept for offline work."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mtkd_edge.device.doctor_report import Finding, Status
from mtkd_edge.device.sources.pipeline import LAUNCH, PACKAGES

DEVICES, CLASSES = Path("/dev"), Path("/sys/class/video4linux")
LITTLE_GB = 5.0
"""Less free space than this does not hold a training run and the `train` extra."""
NONE_GB = 0.1


def cameras(devices: Path = DEVICES, classes: Path = CLASSES) -> list[Finding]:
    """Every /dev/video*, its name and whether this user may open it."""
    found = sorted(devices.glob("video[0-9]*"))
    if not found:
        fix = "plug one in, or watch a folder, a video file or an rtsp:// address"
        return [Finding("cameras", "local", "warn", "no /dev/video*", fix)]
    return [_camera(node, classes / node.name / "name") for node in found]


def _camera(node: Path, label: Path) -> Finding:
    name = label.read_text(errors="replace").strip() if label.is_file() else "unnamed"
    if os.access(node, os.R_OK | os.W_OK):
        return Finding("cameras", str(node), "ok", name)
    return Finding(
        "cameras", str(node), "warn", f"{name}: permission denied", "sudo usermod -aG video $USER, then log in again"
    )


def gstreamer() -> list[Finding]:
    """What `gst:` sources need, and whether GenICam cameras can be read with it."""
    inspect = shutil.which("gst-inspect-1.0")
    if shutil.which(LAUNCH) is None or inspect is None or not _has(inspect, "pnmenc"):
        what = f"no {LAUNCH} with pnmenc: gst: sources cannot be read"
        return [Finding("cameras", "gstreamer", "warn", what, PACKAGES)]
    aravis = "with" if _has(inspect, "aravissrc") else "without"
    return [Finding("cameras", "gstreamer", "ok", f"gst: sources can be read, {aravis} Aravis for GenICam cameras")]


def _has(inspect: str, element: str) -> bool:
    # not --exists: that wants a version of at least 1.0, and the plugin of Aravis is 0.8
    return subprocess.run([inspect, element], capture_output=True, timeout=30).returncode == 0


def disk(folder: Path = Path()) -> list[Finding]:
    """Free space where the user stands: runs and engines are written there."""
    free = shutil.disk_usage(folder).free / 1e9
    status: Status = "fail" if free < NONE_GB else "warn" if free < LITTLE_GB else "ok"
    fix = "" if status == "ok" else "free some space, or work in a folder on another disk"
    return [Finding("disk", str(folder.resolve()), status, f"{free:.1f} GB free", fix)]


def models() -> list[Finding]:
    """Weights that were fetched before and need no network: the caches of the Hugging Face hub and of torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"))
    torch = Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"
    return [_cache("hub", hub, "models--*"), _cache("torch", torch, "*.pth")]


def _cache(name: str, folder: Path, pattern: str) -> Finding:
    entries = sorted(folder.glob(pattern))
    if not entries:
        fix = "air-gapped: mtkd-edge train --preset offline, or copy this folder from a machine with a network"
        return Finding("weights", name, "warn", f"nothing kept in {folder}", fix)
    files = [f for entry in entries for f in (entry, *entry.rglob("*")) if f.is_file() and not f.is_symlink()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return Finding("weights", name, "ok", f"{len(entries)} in {folder}, {size:.0f} MB")
