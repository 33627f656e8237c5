"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; everything else on stderr.")]
FalseAlarms = Annotated[
    float | None,
    typer.Option(metavar="RATE", help="Accepted share of good parts called anomalous; 1e-3 is one in a thousand."),
]
EngineArgument = Annotated[Path, typer.Argument(metavar="ENGINE", help="The engine folder.")]
