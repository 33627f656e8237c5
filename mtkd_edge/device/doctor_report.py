"""What the doctor hands over: findings, and whether the base install can work. Knows nothing of how they were found."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line: `status` is "fail" only where the base install cannot work. `fix` is a command, or what to do."""

    group: str
    name: str
    status: Status
    found: str
    fix: str = ""


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All findings; `ok` is false where one of them is a failure."""

    ok: bool
    findings: tuple[Finding, ...]
