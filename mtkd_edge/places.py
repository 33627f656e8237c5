"""Where things are when the user does not say: the newest run, the newest engine, the name of the next one.

    ./runs/<name>/                what train makes; its bundle/ is what build-engine takes
    ./engines/<name>-<target>/    what build-engine makes; what watch takes

Newest means the manifest written last. Knows names and dates, never what is inside a manifest.
"""

from __future__ import annotations

import re
from pathlib import Path

from mtkd_edge.bundle import BUNDLE, ENGINE
from mtkd_edge.errors import BundleError, UsageError

DATA, RUNS, ENGINES = Path("data"), Path("runs"), Path("engines")
CONFIG, LISTING, METRICS = "config.json", "data.json", "metrics.json"
BUNDLE_FOLDER = "bundle"
GENERIC = frozenset({"data", "good", "images", "photos", "train"})
"""Folder names that say nothing about the part: the folder above names the run."""


def newest_run(root: Path = RUNS) -> Path:
    """The run folder whose bundle was written last. Raises BundleError where there is none."""
    return _newest(root, f"{BUNDLE_FOLDER}/{BUNDLE}", "finished run", "mtkd-edge train")


def newest_started(root: Path = RUNS) -> Path:
    """The run folder that was started last, finished or not: what `train --resume` continues. Raises BundleError."""
    return _newest(root, CONFIG, "run", "mtkd-edge train")


def newest_engine(root: Path = ENGINES) -> Path:
    """The engine folder that was built last. Raises BundleError where there is none."""
    return _newest(root, ENGINE, "engine", "mtkd-edge build-engine --int8")


def bundle_of(run: Path) -> Path:
    """A run folder, or a bundle folder itself -> the bundle folder. Raises BundleError where it holds none."""
    for folder in (run / BUNDLE_FOLDER, run):
        if (folder / BUNDLE).is_file():
            return folder
    if (run / CONFIG).is_file():
        raise BundleError(
            f"{run} is a run without a bundle: its training has not finished", f"mtkd-edge train --resume --out {run}"
        )
    raise BundleError(f"{run} is not a run: it has no {BUNDLE_FOLDER}/{BUNDLE}", "mtkd-edge train")


def is_engine(folder: Path) -> bool:
    """Whether a folder is an engine and not a run."""
    return (folder / ENGINE).is_file()


def new_run(data: Path, root: Path = RUNS) -> Path:
    """A run folder for these photos that does not exist yet: <root>/<name>, <root>/<name>-2 and so on."""
    resolved = data.resolve()
    name = next((p.name for p in (resolved, *resolved.parents) if p.name and p.name.lower() not in GENERIC), "run")
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"
    folder, number = root / slug, 1
    while folder.exists():
        number += 1
        folder = root / f"{slug}-{number}"
    return folder


def engine_folder(name: str, target: str, root: Path = ENGINES) -> Path:
    """Where the engine of a model goes: <root>/<name>-<target>. Raises UsageError for a name that leaves the root."""
    folder = root / f"{name}-{target}"
    if folder.parent != root:
        raise UsageError(f"{name!r} and {target!r} do not make a folder name", "--out FOLDER")
    return folder


def _newest(root: Path, marker: str, what: str, made_by: str) -> Path:
    # a hidden folder is what a build that was killed has left
    found = [(path.stat().st_mtime_ns, path) for path in root.glob(f"[!.]*/{marker}")]
    if not found:
        raise BundleError(f"no {what} in {root.resolve()}", made_by)
    path = max(found)[1]
    return root / path.relative_to(root).parts[0]
