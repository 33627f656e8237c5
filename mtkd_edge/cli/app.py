"""The command line: `main` runs one command and turns every outcome into an exit code. The only place that does.

Commands live one group a file and import what they run inside their own function, so that `--help` stays quick.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from mtkd_edge import __version__
from mtkd_edge.cli import benchmark, build, console, demo, events, export, look, threshold, train, watch
from mtkd_edge.cli.groups import Grouped
from mtkd_edge.errors import MtkdError

EXIT_CODES = """\
  0 done                                  5 an optional package is missing
  1 a fault in mtkd-edge itself           6 a vendor runtime refused
  2 wrong command, option or setting      7 a camera, stream or file failed
  3 photos missing, unreadable, too few   8 results that should agree do not
  4 bundle or engine damaged              130 interrupted"""

EPILOG = f"""\b
Three commands take a folder of good photos to verdicts on the line:
  mtkd-edge train ./bottle                good parts -> runs/bottle
  mtkd-edge build-engine --int8           newest run -> engines/bottle-cpu
  mtkd-edge watch /dev/video0             newest engine -> verdicts

\b
Every command takes --json: one JSON object on stdout (watch: one a line), all else on stderr.

\b
Exit codes:
{EXIT_CODES}
"""

# what typer raises for a wrong command line is a class of the click inside it, which has no public name of its own
WrongCommandLine: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    cls=Grouped,
    epilog=EPILOG,
    add_completion=False,
    rich_markup_mode=None,  # drawing help with rich takes 0.1 s more
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for group in (train, benchmark, build, export, threshold, watch, events, look, demo):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        console.say(f"mtkd-edge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Find defects from photos of good parts alone: train, build an INT8 engine, watch the line."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    # --debug belongs to the program but may stand anywhere
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    try:
        code = typer.main.get_command(app).main(words, prog_name="mtkd-edge", standalone_mode=False)
    except MtkdError as error:
        console.failure(error.message, error.hint, error.exit_code, as_json=as_json)
        return error.exit_code
    except WrongCommandLine as error:
        message = error.format_message()  # type: ignore[attr-defined]
        console.failure(message, f"mtkd-edge {_known(words)}--help", 2, as_json=as_json)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        console.note("interrupted")
        return console.INTERRUPTED
    except Exception as error:  # noqa: BLE001  the boundary: a fault of ours becomes one line and exit code 1
        if debug:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {error}"
        console.failure(what, f"see where: mtkd-edge --debug {' '.join(words)}", 1, as_json=as_json)
        return 1
    return code if isinstance(code, int) else 0


def _known(words: Sequence[str]) -> str:
    """The command's name and a space, where the words begin with one: for the hint."""
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    return f"{words[0]} " if words and words[0] in names else ""


def main() -> None:
    """The entry point of the installed program."""
    sys.exit(run(sys.argv[1:]))
