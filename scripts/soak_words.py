"""What the station says on stderr: what happens to its sources, and the ledger that it ends with."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec

CAPTURED = re.compile(r"^(.+): (\d+) frames? captured, ")
JUDGED = re.compile(r"^  (\d+) normal, (\d+) anomalous, (\d+) invalid(.*)$")
DROPPED = re.compile(r"(\d+) dropped")


class Totals(msgspec.Struct, frozen=True):
    """One source's account: the ledger's at the end, or as the station last showed it where it was killed."""

    source: str
    captured: int
    scored: int
    invalid: int
    dropped: int


def told(line: str) -> str:
    """A line of stderr; what was told as an object becomes "subject: what (reason)"."""
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
        return f"{found['subject']}: {found['what']} ({found['reason']})"
    except (msgspec.DecodeError, KeyError):
        return line


def totals(words: list[str]) -> list[Totals]:
    """The ledger, from the summary that the program ends with."""
    found = []
    for line, following in pairwise(words):
        if (head := CAPTURED.match(line)) and (body := JUDGED.match(following)):
            normal, anomalous, invalid = (int(body[group]) for group in (1, 2, 3))
            dropped = sum(map(int, DROPPED.findall(body[4])))
            found.append(Totals(head[1], int(head[2]), normal + anomalous, invalid, dropped))
    return found
