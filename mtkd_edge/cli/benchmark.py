"""`benchmark`: the paper's tables, run again on data sets that are on this disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mtkd_edge.cli import console, progress
from mtkd_edge.cli.extras import needs
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json
from mtkd_edge.cli.train import Device, TeacherInput, Teachers, Terms, chosen
from mtkd_edge.lab.benchmark.settings import Settings, Variant, complete, variants

SuiteArgument = Annotated[
    Literal["mvtec", "cifar10", "folder"],
    typer.Argument(metavar="SUITE", help="mvtec, cifar10, or folder: the layout of MVTec AD under other names."),
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="A folder of categories, one category, or CIFAR-10.")]
Categories = Annotated[str | None, typer.Option(metavar="A,B,C", help="Categories. [default: all]")]
Method = Annotated[Literal["map", "paper"], typer.Option(help="Feature maps, or as published.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Runs 0 to N - 1 of each category.")]
Protocol = Annotated[
    Literal["honest", "oracle"] | None,
    typer.Option(help="oracle: epoch and mix by test labels, as the authors did. [default: honest]"),
]
Ablate = Annotated[
    Literal["teachers", "weights"] | None, typer.Option(help="Also without some of it: teachers, or learned weights.")
]
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Teachers. [default: edge; paper for the published method]")
]
Student = Annotated[str | None, typer.Option(metavar="NAME", help="As for train; multi sums three of them.")]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="[default: 500 as published; of map its own]")]
Every = Annotated[int | None, typer.Option(metavar="N", help="Epochs between two looks of the oracle. [default: 50]")]
Size = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Side of a photo. [default: mvtec 1024, cifar10 256; of map 256]")
]
Crop = Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of a crop. [default: 224]")]
Crops = Annotated[
    int | None, typer.Option(metavar="N", help="Random crops of a photo in an epoch. [default: mvtec 16]")
]
Stride = Annotated[int | None, typer.Option(metavar="PIXELS", help="Between two test crops. [default: mvtec 200]")]
Batch = Annotated[
    int | None, typer.Option(metavar="N", help="Crops in a step. [default: mvtec 64, cifar10 32; of map 8]")
]
TrainPhotos = Annotated[int | None, typer.Option(metavar="N", help="At most so many, evenly spread. [default: all]")]
TestPhotos = Annotated[int | None, typer.Option(metavar="N", help="At most so many, evenly spread. [default: all]")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="[default: benchmarks/<suite>-<method>-<protocol>]")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("benchmark", cls=Command, rich_help_panel="Train")(benchmark)


def benchmark(
    suite: SuiteArgument,
    root: Root,
    categories: Categories = None,
    method: Method = "map",
    seeds: Seeds = 1,
    protocol: Protocol = None,
    ablate: Ablate = None,
    preset: Preset = None,
    teachers: Teachers = None,
    student: Student = None,
    epochs: Epochs = None,
    every: Every = None,
    size: Size = None,
    crop: Crop = None,
    crops: Crops = None,
    stride: Stride = None,
    batch: Batch = None,
    terms: Terms = None,
    teacher_input: TeacherInput = None,
    train_photos: TrainPhotos = None,
    test_photos: TestPhotos = None,
    device: Device = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run the paper's tables again:  mtkd-edge benchmark mvtec ./mvtec --method paper

    \b
    Trains and evaluates every category, prints the published column beside ours, and writes
    benchmark.md and benchmark.json. Run it again to go on where it was stopped, or to add
    categories and seeds. Test labels are read after the scores; only --protocol oracle chooses by
    them, and says so in its tables.

    \b
    Examples:
      mtkd-edge benchmark cifar10 ./cifar --method paper --protocol oracle --categories cat
      mtkd-edge benchmark mvtec ./mvtec/bottle --method paper --ablate weights --seeds 3
      mtkd-edge benchmark folder ./parts --seeds 5
    """
    given = chosen(
        method=method, protocol=protocol, preset=preset, teachers=teachers, student=student, epochs=epochs,
        every=every, size=size, crop=crop, crops=crops, stride=stride, batch=batch, terms=terms, device=device,
        teacher_input=teacher_input, train_photos=train_photos, test_photos=test_photos,
    )  # fmt: skip
    settings = complete(suite, str(root), given)
    rows = variants(settings, ablate)
    names = tuple(filter(None, (categories or "").split(",")))
    folder = out or Path("benchmarks") / f"{suite}-{method}-{settings.protocol}"
    report(settings, rows, names, seeds, folder, as_json=json)


def report(
    settings: Settings, rows: Sequence[Variant], names: Sequence[str], seeds: int, folder: Path, *, as_json: bool
) -> None:
    """Run what is missing and say what all of it found."""
    with needs("train", "benchmark"):
        from mtkd_edge.lab.benchmark.run import run
    try:
        with progress.shown() as listener:
            found = run(settings, rows, names, seeds, folder, listener)
    except KeyboardInterrupt:
        console.note("stopped, the same command goes on from here")
        raise typer.Exit(console.INTERRUPTED) from None
    console.emit(found, (folder / "benchmark.md").read_text().rstrip(), as_json=as_json)
    console.note(f"{folder}/benchmark.md and benchmark.json are written")
