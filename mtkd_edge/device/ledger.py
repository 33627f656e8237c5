"""The ledger: what became of every captured frame, per source, exactly.

    captured = scored + invalid + dropped (by reason) + waiting

`waiting` is never negative and is 0 once a watch has ended. Every entry is made under one lock, so the equation holds
at any moment and from any thread. This file knows nothing of queues or threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import msgspec

from mtkd_edge.verdict import State


class Account(msgspec.Struct, frozen=True):
    """The frames of one source. `waiting` have been captured and have no verdict yet."""

    captured: int
    scored: int
    invalid: int
    dropped: dict[str, int]
    waiting: int


def taken(account: Account) -> int:
    """Frames that have a verdict, or will have one."""
    return account.captured - sum(account.dropped.values())


class Ledger:
    """One account per source. Raises KeyError for a source it was not made for."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._captured = dict.fromkeys(sources, 0)
        self._ended: dict[str, Counter[str]] = {name: Counter() for name in self._captured}
        self._dropped: dict[str, Counter[str]] = {name: Counter() for name in self._captured}

    def capture(self, source: str) -> None:
        """One more frame is in hand."""
        with self._lock:
            self._captured[source] += 1

    def settle(self, source: str, state: State) -> None:
        """One frame has its verdict."""
        with self._lock:
            self._end(source, self._ended[source], "invalid" if state is State.INVALID else "scored")

    def drop(self, source: str, reason: str) -> None:
        """One frame was given up."""
        with self._lock:
            self._end(source, self._dropped[source], reason)

    def account(self, source: str) -> Account:
        """The state of one account at this moment."""
        with self._lock:
            ended, dropped = self._ended[source], self._dropped[source]
            return Account(
                captured=self._captured[source],
                scored=ended["scored"],
                invalid=ended["invalid"],
                dropped=dict(dropped),
                waiting=self._captured[source] - ended.total() - dropped.total(),
            )

    def close(self) -> dict[str, Account]:
        """All accounts. Raises RuntimeError if a frame is still unaccounted for: a defect of this program."""
        accounts = {source: self.account(source) for source in self._captured}
        open_accounts = {source: account for source, account in accounts.items() if account.waiting}
        if open_accounts:
            raise RuntimeError(f"frames without a verdict: {open_accounts}")
        return accounts

    def _end(self, source: str, column: Counter[str], entry: str) -> None:
        gone = self._ended[source].total() + self._dropped[source].total()
        if gone >= self._captured[source]:
            raise RuntimeError(f"{source}: a frame ends as {entry!r}, but all {gone} captured ones already have")
        column[entry] += 1
