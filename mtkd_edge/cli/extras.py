"""From "No module named torch" to the pip line that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mtkd_edge.errors import MissingExtraError


@contextmanager
def needs(extra: str, why: str) -> Iterator[None]:
    """Around an import: a package of others that is not there raises MissingExtraError naming the extra.

    A module of our own that is not there is a fault of ours and stays what it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "mtkd_edge"):
            raise
        raise MissingExtraError(package, extra, why) from error
