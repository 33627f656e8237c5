"""What the commands say and where: results on stdout, everything else on stderr.

A command's own result is the only thing that ever reaches stdout. While a command runs (`own_stdout`), whatever a
library prints there, in Python or in C, lands on stderr instead, so `--json` is always parseable. This file knows no
command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import msgspec

_stdout: list[int] = []
"""While a command runs: the descriptor of the real stdout."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
BLUE, ORANGE, GREY, BOLD, RED = "34", "38;5;208", "90", "1", "31"
"""Colours that stay apart for colour-blind eyes: normal is blue, anomalous is orange."""


@contextmanager
def own_stdout() -> Iterator[None]:
    """Until the end of the block, file descriptor 1 is stderr, and only `say` and `emit` write to the real stdout."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    _stdout.append(real)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # what a library left in its buffer belongs to stderr, before the descriptors swap back
        sys.stdout.flush()
        _stdout.remove(real)
        os.dup2(real, 1)
        os.close(real)


def say(text: str) -> None:
    """One line, or a few, of result for people, on stdout, at once. Raises BrokenPipeError where nobody reads it."""
    if not _stdout:
        print(text, flush=True)
        return
    # no buffer: after a broken pipe there is nothing left to flush; file names need not be UTF-8
    data = f"{text}\n".encode(errors="surrogateescape")
    while data:
        data = data[os.write(_stdout[-1], data) :]


def emit(value: object, text: str, *, as_json: bool) -> None:
    """The result of a command: `value` as one line of JSON, or `text` for people."""
    say(msgspec.json.encode(value).decode() if as_json else text)


def note(text: str) -> None:
    """Something worth knowing that is not the result, on stderr."""
    print(text, file=sys.stderr, flush=True)


def colour(text: str, code: str) -> str:
    """`text` in an ANSI colour where stdout is a terminal and NO_COLOR (https://no-color.org) is not set."""
    plain = not os.isatty(_stdout[-1] if _stdout else 1) or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def failure(message: str, hint: str, exit_code: int, *, as_json: bool) -> None:
    """An error for people on stderr and, with --json, for programs on stdout."""
    note(f"error: {message}" + (f"\nhint: {hint}" if hint else ""))
    if as_json:
        emit({"error": message, "hint": hint, "exit_code": exit_code}, "", as_json=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, two spaces apart; the last column is not padded."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
