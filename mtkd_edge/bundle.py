"""The bundle: what the lab hands to the device, and the engine folder that the device makes of it.

    runs/<name>/bundle/          engines/<name>-<target>/
      bundle.json                  engine.json        manifest, with the sha256 of every file beside it
      features.onnx                features.onnx      pixels -> features; the only part that is ever quantised
      head.onnx                    head.onnx          features -> map, score; never quantised
      golden.npz                   golden.npz         frames and what the reference made of them
      bundle.sha256                engine.sha256      all the others and the manifest, for `sha256sum -c`
      threshold.json               threshold.json     sealed by itself, so that it can be changed without a rebuild
                                   plan.*             the target's own compiled form, where it has one
                                   score.*.cubin      the scoring kernel for one GPU generation, where there is one

A manifest is strict: an unknown key, a missing file, one flipped byte or another format version is a BundleError.
Nothing here is a pickle. This file knows the names and the hashes, not what is in the graphs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from mtkd_edge import threshold as thresholds
from mtkd_edge.aspect import Aspects
from mtkd_edge.errors import BundleError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import ScoreSpec
from mtkd_edge.threshold import Threshold

FORMAT = 2
BUNDLE, ENGINE, THRESHOLD = "bundle.json", "engine.json", "threshold.json"
FEATURES, HEAD, GOLDEN = "features.onnx", "head.onnx", "golden.npz"
SUMS = {BUNDLE: "bundle.sha256", ENGINE: "engine.sha256"}


class TeacherInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen teacher: where it came from, the sha256 of its weights, its taps and its importance by tap."""

    name: str
    source: str
    sha256: str
    taps: tuple[str, ...]
    importance: tuple[float, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a trained model is. Tensor names of the two graphs are fixed:

    features.onnx: `frames` uint8 [N, height, width, 3] -> `student_<level>`, `reference_<level>` float [N, C, h, w]
    head.onnx: those -> `map` float [N, H, W], `score` float [N]

    `aspects` are those of its photos; None in a bundle from before they were kept.
    """

    format: int = FORMAT
    name: str
    method: Literal["map", "paper"]
    created: str
    version: str
    seed: int
    frame: FrameSpec
    score: ScoreSpec
    teachers: tuple[TeacherInfo, ...]
    student: str
    photos: int
    held_out: int
    aspects: Aspects | None = None
    files: dict[str, str]

    def feature_names(self) -> list[str]:
        """Outputs of features.onnx and inputs of head.onnx, in order: all students, then all references."""
        names = [level.name for level in self.score.levels]
        return [f"student_{name}" for name in names] + [f"reference_{name}" for name in names]

    def other_shape(self, height: int, width: int) -> str:
        """What to say of a photo of this size: "" where it has a shape of the training's, or these are not known."""
        return self.aspects.other(height, width) if self.aspects else ""


class EngineManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine is: the model it came from, the target and precision, and the figures of its gate.

    `built` names the versions and the device it was built on; `gate` compares it with the FP32 graph.
    """

    format: int = FORMAT
    target: str
    backend: Literal["openvino", "tensorrt", "tensorrt_rtx"]
    precision: Literal["int8", "fp16", "fp32"]
    batch: tuple[int, int, int]
    created: str
    model: Manifest
    built: dict[str, str]
    gate: dict[str, float]
    calibration: str
    files: dict[str, str]


AnyManifest = TypeVar("AnyManifest", Manifest, EngineManifest)
_formats = msgspec.json.Decoder(dict[str, Any])
_manifests = msgspec.json.Decoder(Manifest)
_engines = msgspec.json.Decoder(EngineManifest)


def sha256(path: Path) -> str:
    """Hex sha256 of a file. Raises BundleError where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "copy the whole folder again") from error


def write_file(path: Path, data: bytes) -> None:
    """All or nothing: a crash or a full disk leaves the old file or none, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be deleted either
            temporary.unlink()
        raise BundleError(
            f"{path} cannot be written: {error.strerror}", "check the free space and permissions"
        ) from error


def make_folder(folder: Path) -> None:
    """The folder, and those above it. Raises BundleError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        raise BundleError(
            f"the folder {folder} cannot be made: {what}", "name another, or check permissions"
        ) from error


def seal(folder: Path) -> dict[str, str]:
    """{file name: sha256} of every file in the folder except manifest, sums and the sidecar threshold."""
    skipped = {BUNDLE, ENGINE, THRESHOLD, *SUMS.values()}
    return {
        p.name: sha256(p)
        for p in sorted(folder.iterdir())
        if p.is_file() and p.name not in skipped and p.name[0] != "."
    }


def save(folder: Path, manifest: Manifest | EngineManifest, threshold: Threshold) -> None:
    """Write sidecar and sums, then the manifest: a folder without a manifest is unfinished and is never loaded."""
    write_file(folder / THRESHOLD, thresholds.encode(threshold))
    name = BUNDLE if isinstance(manifest, Manifest) else ENGINE
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_file(folder / SUMS[name], sums(name, text, manifest))
    write_file(folder / name, text)


def sums(name: str, text: bytes, manifest: Manifest | EngineManifest) -> bytes:
    """What `sha256sum -c` reads: every file of the manifest, and the manifest `name` itself by its `text`."""
    files = manifest.files | {name: hashlib.sha256(text).hexdigest()}
    return "".join(f"{digest}  {file}\n" for file, digest in files.items()).encode()


def load_bundle(folder: Path) -> Manifest:
    """The manifest of a bundle, every hash checked. Raises BundleError naming the first thing that is wrong."""
    return _load(folder, BUNDLE, _manifests)


def load_engine(folder: Path) -> EngineManifest:
    """The manifest of an engine folder, every hash checked. Raises BundleError naming the first thing that is wrong."""
    return _load(folder, ENGINE, _engines)


def load_threshold(folder: Path) -> Threshold:
    """The sidecar threshold of a bundle or engine folder. Raises BundleError."""
    return thresholds.decode(_read(folder / THRESHOLD), str(folder / THRESHOLD))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        made_by = "mtkd-edge train" if path.name == BUNDLE else "mtkd-edge build-engine --int8"
        raise BundleError(f"{path} cannot be read: {error.strerror}", made_by) from error


def _load(folder: Path, name: str, manifests: msgspec.json.Decoder[AnyManifest]) -> AnyManifest:
    path = folder / name
    text = _read(path)
    hint = "build it again with this version of mtkd-edge"
    try:
        version = _formats.decode(text).get("format")
        if version != FORMAT:
            raise BundleError(f"{path} has format {version}, this version reads format {FORMAT}", hint)
        manifest = manifests.decode(text)
    except UNREADABLE as error:
        raise BundleError(f"{path} is damaged: {error}", hint) from error
    for required in (FEATURES, HEAD, GOLDEN):
        if required not in manifest.files:
            raise BundleError(f"{path} lists no {required}", hint)
    for file, wanted in manifest.files.items():
        if Path(file).name != file or file in ("", ".."):
            raise BundleError(f"{path} lists {file!r}, which leaves the folder", "do not use this folder")
        try:
            found = sha256(folder / file)
        except BundleError as error:
            raise BundleError(f"{error.message}; {name} lists it", error.hint) from error
        if found != wanted:
            raise BundleError(f"{folder / file} was changed: its sha256 is not that in {name}", "copy the folder again")
    listed = folder / SUMS[name]
    # a bundle may be older than its list; an engine goes to the line, and there nothing is taken on trust
    if (name == ENGINE or listed.exists()) and _read(listed) != sums(name, text, manifest):
        raise BundleError(f"{path} or {listed.name} beside it was changed: they do not agree", "copy the folder again")
    return manifest
