"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the name of the step, how much is done, how much there is, and a short note ("loss 0.12")."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` are done."""


def silent(step: str, done: int, total: int, note: str = "") -> None:
    """The listener that does not listen."""
