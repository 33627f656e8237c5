"""`build-engine --explain`: what a frame costs, in a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtkd_edge.cli import console
from mtkd_edge.cli.extras import needs

if TYPE_CHECKING:
    from mtkd_edge.device.build import Precision
    from mtkd_edge.lab.explain import Explanation, Share

BY = {
    "names": "parts are the scopes in the names of the graph's nodes",
    "outputs": "the nodes have no scopes in their names: parts are the outputs that a node leads to",
}


def show(model: Path, precision: Precision, *, as_json: bool) -> None:
    """The costs of a run in `precision`, or of an engine folder as it was built. Raises BundleError."""
    from mtkd_edge import bundle, onnx_data, places

    with needs("train", "reading the graphs"):
        import onnx

        from mtkd_edge.lab import explain
    if places.is_engine(model):
        engine = bundle.load_engine(model)
        folder, manifest, asked, built = model, engine.model, engine.precision, True
    else:
        folder, built, asked = places.bundle_of(model), False, precision
        manifest = bundle.load_bundle(folder)
    for graph in (bundle.FEATURES, bundle.HEAD):
        onnx_data.demand(folder / graph)
    features = onnx.load(folder / bundle.FEATURES)
    if asked == "int8" and not built:
        features = explain.as_int8(features)
    found = explain.explain(
        features,
        onnx.load(folder / bundle.HEAD),
        [teacher.name for teacher in manifest.teachers],
        "fp16" if asked == "fp16" else "fp32",
    )
    guess = asked == "int8" and not built
    value = {"model": str(model), "precision": asked, "explanation": found}
    title = f"one frame through {model}, {asked}" + (", which layers are in INT8 is a guess before a build" * guess)
    console.emit(value, text(found, title), as_json=as_json)


def text(found: Explanation, title: str) -> str:
    """Both tables, and what told the parts apart."""
    kinds = [share.name for share in found.precisions]
    head = ("", "GMAC", "share", *(f"in {kind}" for kind in kinds), "M params", "weights MB", "activations MB", "share")
    rows = [head, *(row(share, kinds) for share in (*found.parts, found.total))]
    rows += [("",) * len(head), *(row(share, kinds) for share in found.precisions)]
    return f"{title}\n{console.table(rows)}\n{BY[found.by]}"


def row(share: Share, kinds: Sequence[str]) -> tuple[str, ...]:
    """One line of the table; the second share is that of all bytes."""
    inside = [f"{share.precisions.get(kind, 0) / share.macs:.0%}" if share.macs else "-" for kind in kinds]
    megabytes = [f"{amount / 1e6:.2f}" for amount in (share.parameters, share.weight_bytes, share.activation_bytes)]
    return (
        share.name,
        f"{share.macs / 1e9:.3f}",
        f"{share.macs_share:.1%}",
        *inside,
        *megabytes,
        f"{share.bytes_share:.1%}",
    )
