"""`doctor`: what this machine has. `evaluate` and `bench`: what an engine reaches, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mtkd_edge.cli import console
from mtkd_edge.cli.groups import Command
from mtkd_edge.cli.options import Json

if TYPE_CHECKING:
    from mtkd_edge.device.doctor_report import Report

UNFIT = 6
COLOURS = {"ok": console.BLUE, "warn": console.ORANGE, "fail": console.RED}


def register(app: typer.Typer) -> None:
    """Add this group's commands to the program."""
    app.command("doctor", cls=Command, rich_help_panel="Look")(doctor)


def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing, and the line that fixes it.

    \b
    Ends with 0 where the base install works, with 6 where it cannot run an engine.
    """
    from mtkd_edge.device.doctor import examine

    report = examine()
    console.emit(report, findings(report), as_json=json)
    if not report.ok:
        raise typer.Exit(UNFIT)


def findings(report: Report) -> str:
    """One line a finding, and under each that is not ok the line that fixes it."""
    lines, group = [], ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            lines.append(console.colour(group, console.BOLD))
        status = console.colour(finding.status.ljust(4), COLOURS[finding.status])
        lines.append(f"  {status}  {finding.name}: {finding.found}")
        if finding.fix:
            lines.append(f"        -> {finding.fix}")
    verdict = "the base install works" if report.ok else "the base install does not work, see the lines marked fail"
    return "\n".join([*lines, verdict])
