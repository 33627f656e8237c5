"""An engine as a model repository of NVIDIA Triton: features, head, and an ensemble that joins them.

    <out>/<name>-features/config.pbtxt, 1/model.onnx or 1/model.plan
    <out>/<name>-head/config.pbtxt,     1/model.onnx or 1/model.plan
    <out>/<name>/config.pbtxt,          1/              frames -> map, score

Format: docs.nvidia.com/deeplearning/triton-inference-server, "Model Configuration". The files are copies of the
engine's, hashes checked before. Triton gives map and score; the threshold stays with whoever asks.

`trtexec` prints the command lines that make the same plans with NVIDIA's own tool. Knows no runtime.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtkd_edge.bundle import FEATURES, HEAD, EngineManifest, load_engine
from mtkd_edge.device.targets import TensorrtRecipe
from mtkd_edge.errors import BundleError, UsageError

Kind = Literal["onnx", "plan"]
PLATFORMS: dict[Kind, tuple[str, str]] = {
    "onnx": ("onnxruntime_onnx", "model.onnx"),
    "plan": ("tensorrt_plan", "model.plan"),
}
PLANS = {FEATURES: "plan.features", HEAD: "plan.head"}
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """One graph as Triton sees it: its tensors without the batch."""

    name: str
    inputs: Shapes
    outputs: Shapes


def export(folder: Path, out: Path, kind: Kind | None = None) -> tuple[Path, ...]:
    """Write the repository of an engine folder into `out`; the paths of the three models.

    `kind` None means the plans where the engine has them. A model that is there already is a UsageError, so that no
    repository in service is changed. Raises BundleError for a damaged folder.
    """
    manifest = load_engine(folder)
    plans = set(PLANS.values()) <= manifest.files.keys()
    chosen: Kind = kind or ("plan" if plans else "onnx")
    if chosen == "plan" and not plans:
        raise UsageError(f"{folder} is an engine for {manifest.target} and holds no plan", "--onnx")
    features, head = models(manifest)
    whole = out / features.name.removesuffix("-features")
    written = out / features.name, out / head.name, whole
    for place in written:
        if place.exists():
            raise UsageError(f"{place} is there already; it is not replaced", "--triton DIR, another folder")
    platform, file = PLATFORMS[chosen]
    try:
        for model, graph in ((features, FEATURES), (head, HEAD)):
            version = out / model.name / "1"
            version.mkdir(parents=True)
            shutil.copyfile(folder / (PLANS[graph] if chosen == "plan" else graph), version / file)
            (out / model.name / "config.pbtxt").write_text(single(model, platform, manifest.batch))
        (whole / "1").mkdir(parents=True)
        (whole / "config.pbtxt").write_text(ensemble(whole.name, features, head, manifest.batch[2]))
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error}", "check the free space and permissions") from error
    return written


def models(manifest: EngineManifest) -> tuple[Model, Model]:
    """The two graphs of an engine, by their names and shapes."""
    model = manifest.model
    name = f"{model.name}-{manifest.target}"
    shapes = {level.name: (level.channels, level.height, level.width) for level in model.score.levels}
    between = {tensor: shapes[tensor.partition("_")[2]] for tensor in model.feature_names()}
    frame = {"frames": (model.frame.height, model.frame.width, 3)}
    found = {"map": (model.score.height, model.score.width), "score": ()}
    return Model(f"{name}-features", frame, between), Model(f"{name}-head", between, found)


def single(model: Model, platform: str, batch: tuple[int, int, int]) -> str:
    """config.pbtxt of one graph."""
    _, best, most = batch
    lines = [f'name: "{model.name}"', f'platform: "{platform}"', f"max_batch_size: {most}"]
    lines += [tensor("input", name, shape) for name, shape in model.inputs.items()]
    lines += [tensor("output", name, shape) for name, shape in model.outputs.items()]
    if most > 1:
        # frames of several cameras meet in one call, for as long as one frame takes
        lines.append(f"dynamic_batching {{ preferred_batch_size: [ {best} ] max_queue_delay_microseconds: 2000 }}")
    return "\n".join(lines) + "\n"


def ensemble(name: str, features: Model, head: Model, most: int) -> str:
    """config.pbtxt of the two in a row: the features stay on the device between them."""
    lines = [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {most}"]
    lines += [tensor("input", key, shape) for key, shape in features.inputs.items()]
    # an ensemble has tensors as clients see them, after the reshape of its last model
    lines += [tensor("output", key, shape or (1,)) for key, shape in head.outputs.items()]
    lines.append("ensemble_scheduling {")
    for model in (features, head):
        lines.append(f'  step {{ model_name: "{model.name}" model_version: -1')
        lines += [f'    input_map {{ key: "{key}" value: "{key}" }}' for key in model.inputs]
        lines += [f'    output_map {{ key: "{key}" value: "{key}" }}' for key in model.outputs]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def tensor(side: str, name: str, shape: tuple[int, ...]) -> str:
    """One input or output. A tensor that is [N] alone has to be given a dimension of 1, and told that it has none."""
    kind = "TYPE_UINT8" if name == "frames" else "TYPE_FP32"
    dims = ", ".join(map(str, shape)) or "1"
    reshape = "" if shape else " reshape { shape: [ ] }"
    return f'{side} {{ name: "{name}" data_type: {kind} dims: [ {dims} ]{reshape} }}'


def switch(manifest: EngineManifest, kind: Kind | None) -> str:
    """What `tritonserver` must be started with to take what `export` wrote; empty where it needs nothing.

    A version-compatible plan brings code of its own, which Triton runs only when told to (its tensorrt_backend).
    """
    plans = kind != "onnx" and set(PLANS.values()) <= manifest.files.keys()
    compatible = plans and manifest.built.get("version_compatible") == "yes"
    return "--backend-config=tensorrt,version-compatible=true" if compatible else ""


def trtexec(folder: Path, manifest: EngineManifest, recipe: TensorrtRecipe) -> tuple[str, ...]:
    """The command lines that build both plans of an engine folder with NVIDIA's tool, on the machine that runs them."""
    lines = []
    for model, graph in zip(models(manifest), (FEATURES, HEAD), strict=True):
        sizes = zip(("min", "opt", "max"), manifest.batch, strict=True)
        shapes = [
            f"--{which}Shapes=" + ",".join(f"{n}:{'x'.join(map(str, (size, *s)))}" for n, s in model.inputs.items())
            for which, size in sizes
        ]
        limits = (
            f"--memPoolSize=workspace:{recipe.workspace_mib} --builderOptimizationLevel={recipe.optimization_level}"
        )
        exact = " --noTF32" if graph == HEAD or manifest.precision == "fp32" else ""
        wider = " --versionCompatible" if recipe.version_compatible else ""
        wider += " --hardwareCompatibilityLevel=ampere+" if recipe.hardware_compatible else ""
        source, plan = f"--onnx={folder / graph}", f"--saveEngine={PLANS[graph]}"
        lines.append(f"trtexec {source} --stronglyTyped {' '.join(shapes)} {limits}{exact}{wider} {plan}")
    return tuple(lines)
