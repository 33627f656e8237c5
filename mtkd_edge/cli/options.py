"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; everything else on stderr.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where it runs: auto, cpu, cuda, or an OpenVINO device.")]
FalseAlarms = Annotated[
    float | None,
    typer.Option(metavar="RATE", help="Accepted share of good parts called anomalous; 1e-3 is one in a thousand."),
]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder of photos, or the MVTec AD layout.")]
