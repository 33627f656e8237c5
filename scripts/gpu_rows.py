"""Rows of `gpu_report.py`: what was found, or the reason why it was not. What fails costs no other row."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from mtkd_edge.errors import MtkdError

Row = dict[str, Any]
Found = TypeVar("Found")
WORDS = 1000
"""Characters of an error that a row keeps; torch.compile tells pages, which stand in the log."""


class CheckError(Exception):
    """A check that does not hold."""


class NotHereError(Exception):
    """Something for which this machine has not what it needs."""


def demand(holds: bool, complaint: str) -> None:
    """Raises CheckError unless it holds."""
    if not holds:
        raise CheckError(complaint)


def skipped(reason: str) -> Row:
    """The row of what could not run."""
    return {"state": "not run", "found": reason[:WORDS]}


def failed(reason: str) -> Row:
    """The row of what is wrong."""
    return {"state": "FAILED", "found": reason[:WORDS]}


def attempt(work: Callable[[], Found]) -> Found | Row:
    """What `work` gives, or a row that says why it gives nothing."""
    try:
        return work()
    except NotHereError as error:
        return skipped(str(error))
    except (CheckError, MtkdError) as error:
        return failed(str(error))
    except Exception as error:  # noqa: BLE001 - what nobody has thought of must not cost what others find
        traceback.print_exc()
        return failed(f"{type(error).__name__}: {error}")


def any_failed(found: Any) -> bool:
    """Whether a row in it, however deep, says FAILED."""
    if isinstance(found, dict):
        return found.get("state") == "FAILED" or any(any_failed(value) for value in found.values())
    return isinstance(found, list) and any(any_failed(value) for value in found)
