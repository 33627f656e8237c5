"""Everything that can go wrong, as one tree.

    MtkdError                     exit code
    ├── UsageError                2   a wrong argument, option or configuration key
    ├── DataError                 3   photos that are missing, unreadable or too few
    ├── BundleError               4   a bundle or engine folder that is damaged, foreign or incomplete
    ├── MissingExtraError         5   an optional package that is not installed
    ├── BackendError              6   a vendor runtime, builder or parser that refused
    ├── SourceError               7   a camera, stream or file that cannot be opened
    └── GateError                 8   two results that should agree and do not

An error says what was given, what was wanted and the next command to type (`hint`). Only `mtkd_edge.cli` turns
errors into exit codes and prints them; everything below raises.
"""

from __future__ import annotations

from typing import ClassVar


class MtkdError(Exception):
    """Base of all errors a user can cause or meet. `hint` is the next thing to try, ready to type where possible."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(MtkdError):
    """An argument, an option or a configuration key that makes no sense."""

    exit_code = 2


class DataError(MtkdError):
    """Photos that are missing, unreadable, too few or of the wrong kind."""

    exit_code = 3


class BundleError(MtkdError):
    """A bundle or engine folder that is damaged, incomplete or of another version."""

    exit_code = 4


class MissingExtraError(MtkdError):
    """An optional package is needed and not installed. `fix` is what to do, where it is not to install the extra."""

    exit_code = 5

    def __init__(self, package: str, extra: str, why: str, fix: str = "") -> None:
        super().__init__(
            f"{why} needs the package {package!r}, which is not installed", fix or f"pip install 'mtkd-edge[{extra}]'"
        )


class BackendError(MtkdError):
    """A vendor runtime, builder or parser refused; the message carries its own words."""

    exit_code = 6


class SourceError(MtkdError):
    """A camera, stream or file that cannot be opened or has ended badly."""

    exit_code = 7


class GateError(MtkdError):
    """Two results that should agree do not: a golden frame, a graph against its checkpoint, INT8 against FP32."""

    exit_code = 8
