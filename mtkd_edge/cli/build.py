"""`build-engine`: a run -> an engine folder. `check`: does it still compute what it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.explain import show
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import EngineArgument, FalseAlarms, Json
from mtkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mtkd_edge.bundle import EngineManifest
    from mtkd_edge.device.build import Precision
    from mtkd_edge.device.targets import Limits

TARGETS = "cpu, rtx, h100, orin-nano, orin-agx, thor, or a recipe's TOML file"
Run = Annotated[Path | None, typer.Argument(metavar="RUN", help="The run folder. [default: the newest in runs/]")]
Int8 = Annotated[bool, typer.Option("--int8", help="Quantise, and compare with FP32 before it is accepted.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Half precision.")]
Fp32 = Annotated[bool, typer.Option("--fp32", help="Single precision.")]
TargetName = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"{TARGETS}. [default: this machine's GPU, else cpu]")
]
Evidence = Annotated[
    Path, typer.Option(metavar="DIR", help="Where INT8 ranges are kept, and taken from where they fit.")
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="With --int8: teach the student what rounding does; kept if it is as good.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Print what a frame costs, part by part, and build nothing.")]
Out = Annotated[Path | None, typer.Option(metavar="ENGINE", help="[default: engines/<name>-<target>]")]

NOTES = {"layers": "", "finetune": "fine-tune: "}
"""What the manifest says of how the graph was made, and what goes before it on the console."""


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("build-engine", cls=Command, rich_help_panel="Build")(build_engine)
    app.command("check", cls=Command, rich_help_panel="Build")(check)


def build_engine(
    run: Run = None,
    int8: Int8 = False,
    fp16: Fp16 = False,
    fp32: Fp32 = False,
    target: TargetName = None,
    calibration: Evidence = Path("calibration"),
    out: Out = None,
    false_alarms: FalseAlarms = None,
    finetune: Finetune = False,
    explain: Explain = False,
    json: Json = False,
) -> None:
    """Make an engine of a run:  mtkd-edge build-engine --int8

    \b
    The threshold becomes the engine's own: fitted again on its scores where the photos suffice, else
    carried over from FP32. A build that is not as good as FP32 ends with exit code 8 and leaves the
    engine before it as it was. Without a precision, the target's recipe decides.

    \b
    Examples:
      mtkd-edge build-engine --int8                     the newest run, for this machine
      mtkd-edge build-engine runs/bottle --int8 --target rtx
      mtkd-edge build-engine runs/bottle --int8 --finetune
      mtkd-edge build-engine runs/bottle --fp32 --out engines/reference
      mtkd-edge build-engine runs/bottle --explain      operations and bytes; takes an engine too
    """
    from mtkd_edge import bundle, places
    from mtkd_edge.cli.extras import needs
    from mtkd_edge.device import targets
    from mtkd_edge.device.default_target import default_target

    asked = precision(int8=int8, fp16=fp16, fp32=fp32)
    folder = run or places.newest_run()
    name, why = (target, "as asked") if target else default_target()
    recipe = targets.load(name)
    if explain:
        show(folder, asked or recipe.precision, as_json=json)
        return
    source = places.bundle_of(folder)
    folder = source.parent if source == folder else folder  # a run may be named by its bundle
    console.note(f"building {folder} for {recipe.name} ({why})")
    where = out or places.engine_folder(bundle.load_bundle(source).name, recipe.name)
    with needs("train", "quantising to INT8"), progress.shown() as listener:
        from mtkd_edge.lab.build_run import build

        form = asked or recipe.precision
        build(folder, source, where, recipe, form, calibration, false_alarms, listener, finetune)
    report(where, recipe.gate, as_json=json)


def report(where: Path, limits: Limits, *, as_json: bool) -> None:
    """What was built, and what to type next."""
    from mtkd_edge import bundle

    manifest, found = bundle.load_engine(where), bundle.load_threshold(where)
    value = {
        "engine": str(where),
        "target": manifest.target,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "threshold": found,
        "gate": manifest.gate,
        "layers": manifest.built.get("layers", ""),
        "finetune": manifest.built.get("finetune", ""),
        "calibration": manifest.calibration,
    }
    said = "".join(f"{start}{manifest.built[k]}\n" for k, start in NOTES.items() if k in manifest.built)
    text = f"{figures(manifest, limits)}\n{said}threshold {found.describe()}\n{where} is ready"
    console.emit(value, text, as_json=as_json)
    console.note(f"next: mtkd-edge watch SOURCE --engine {where}")


def precision(*, int8: bool, fp16: bool, fp32: bool) -> Precision | None:
    """The one that was asked for, or None. Raises UsageError for more than one."""
    options: dict[Precision, bool] = {"int8": int8, "fp16": fp16, "fp32": fp32}
    asked = [name for name, given in options.items() if given]
    if len(asked) > 1:
        raise UsageError(f"one precision at a time, got {' and '.join(asked)}", f"mtkd-edge build-engine --{asked[0]}")
    return asked[0] if asked else None


def figures(manifest: EngineManifest, limits: Limits) -> str:
    """What the gate found, for people: what decides, with its limit, then the errors behind it."""
    from mtkd_edge.device import gate

    found = manifest.gate
    rows = [("", "found", "limit", "")]
    rows += [(r.name, r.found, r.limit, "kept" if r.kept else "broken") for r in gate.rulings(found, limits)]
    rows += [("AUROC", f"{found['auroc']:.4f} (fp32 {found['auroc_fp32']:.4f})", "", "")]
    if "before_auroc" in found:
        before = {k.removeprefix("before_"): v for k, v in found.items() if k.startswith("before_")}
        rows += [(f"before: {r.name}", r.found, r.limit, "") for r in gate.rulings(found | before, limits)[:4]]
    rows += [(k.replace("_", " "), f"{v:.4f}", "", "") for k, v in found.items() if "error" in k]
    what = f"{found['frames']:.0f} held-out good parts and copies of them with pasted defects"
    return f"gate: {manifest.precision} against fp32 on {what}\n{console.table(rows)}"


def check(engine: EngineArgument, json: Json = False) -> None:
    """Replay the golden frames:  mtkd-edge check engines/bottle-cpu

    \b
    Every file is compared with its sha256, the threshold with its seal, every stage with what the
    reference made of the same frames. Ends with 8 where they differ by more than the precision
    explains, with 4 where the folder is damaged.
    """
    from mtkd_edge.device import engines
    from mtkd_edge.device.check import check as replay

    with engines.load(engine) as loaded:
        report = replay(engine, loaded)
    rows = [("stage", "deviation", "bound"), *((r.name, f"{r.deviation:.2g}", f"{r.bound:g}") for r in report.rows)]
    text = f"{console.table(rows)}\n{engine} reproduces its {report.frames} golden frames ({report.precision})"
    console.emit(report, text, as_json=json)
