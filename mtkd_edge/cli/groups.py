"""Help that reads from top to bottom in the order of the work, and commands that keep stdout to themselves."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from mtkd_edge.cli import console


class Grouped(TyperGroup):
    """A command group whose help lists the commands under the headings they were registered with."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section a heading; the first line of a command's help says what it does."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            sections.setdefault(command.rich_help_panel, []).append((name, command.get_short_help_str(90)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class Command(TyperCommand):
    """A command during which libraries that print on stdout print on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command's function."""
        with console.own_stdout():
            return super().invoke(ctx)
