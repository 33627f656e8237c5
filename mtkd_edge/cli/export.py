"""`export`: an engine for the programs of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtkd_edge.cli import console
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import EngineArgument, Json

Triton = Annotated[Path, typer.Option("--triton", metavar="DIR", help="The model repository to write into.")]
Onnx = Annotated[bool, typer.Option("--onnx", help="The ONNX graphs, where the engine has plans as well.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("export", cls=Command, rich_help_panel="Build")(export)


def export(engine: EngineArgument, triton: Triton, onnx: Onnx = False, json: Json = False) -> None:
    """Write a model repository for Triton:  mtkd-edge export engines/bottle-rtx --triton models

    \b
    Features, head, and an ensemble frames -> map, score. Where the engine has TensorRT plans they
    are exported, which run on the GPU they were built on; else the ONNX graphs, for ONNX Runtime.
    The command lines that build the plans with NVIDIA's trtexec are printed as well.
    """
    from mtkd_edge import bundle
    from mtkd_edge.device import targets
    from mtkd_edge.device import triton as repository

    kind: repository.Kind | None = "onnx" if onnx else None
    written = repository.export(engine, triton, kind)
    manifest = bundle.load_engine(engine)
    recipe = targets.load(manifest.target).tensorrt if manifest.target in targets.known() else targets.TensorrtRecipe()
    lines = repository.trtexec(engine, manifest, recipe)
    threshold = bundle.load_threshold(engine)
    switch = repository.switch(manifest, kind)
    value = {"models": [str(path) for path in written], "trtexec": lines, "threshold": threshold.score}
    value["tritonserver"] = switch
    models = "\n".join(f"  {path}" for path in written)
    if switch:
        models += f"\nthese plans are version-compatible: start tritonserver with {switch}"
    text = f"{models}\na frame is anomalous where score > {threshold.score:.6g}\n\n" + "\n\n".join(lines)
    console.emit(value, text, as_json=json)
