"""All lines of a station: stepped by the scorer, aged by the clock, read by outputs and the page, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from mtkd_edge.device.decisions import line
from mtkd_edge.device.decisions.line import Alarm, Answer, Memory
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.verdict import Verdict


class Status(msgspec.Struct, frozen=True):
    """One line at one moment. `sequence` counts its verdicts; `last` is the newest, None before the first.

    `bad_votes` of the last `voted` judged frames; `age` is seconds since the newest judged frame was captured.
    """

    source: str
    answer: Answer
    valid: bool
    latched: bool
    sequence: int
    bad_votes: int
    voted: int
    age: float | None
    last: Verdict | None
    parts: int = 0
    part: str = ""
    """Of a triggered line: how many parts were decided, and the id of the latest; `last` is then that part's."""


class Board:
    """The memory of every line. Raises KeyError for a source it was not made for."""

    def __init__(
        self,
        rules: Mapping[str, Rules],
        latched: frozenset[str] = frozenset(),
        monotonic: Callable[[], float] = time.monotonic,
        triggered: frozenset[str] = frozenset(),
    ) -> None:
        """`latched`: lines with an alarm that nobody had acknowledged when the station last ended.

        `triggered`: lines that are stepped by parts; between them it is silent, which alarms nobody.
        """
        self._triggered, self._part = triggered, dict.fromkeys(rules, "")
        self._rules, self._monotonic = dict(rules), monotonic
        self._lock = threading.Lock()
        self._memories = {name: Memory(since=monotonic(), latched=name in latched) for name in rules}
        self._last: dict[str, Verdict] = {}
        self._sequence = dict.fromkeys(rules, 0)

    @property
    def sources(self) -> tuple[str, ...]:
        """The lines, in the order in which they were given."""
        return tuple(self._rules)

    def rules(self, source: str) -> Rules:
        """What was set for a line."""
        return self._rules[source]

    def step(self, verdict: Verdict, part: str = "") -> Alarm | None:
        """One verdict, of a frame or a part -> the alarm it raises. Its age is what `latency_ms` says it is."""
        name = verdict.source
        with self._lock:
            now = self._monotonic()
            since = max(0.0, verdict.latency_ms.get("total", 0.0) - verdict.latency_ms.get("decode", 0.0)) / 1e3
            memory, rules = self._memories[name], self._rules[name]
            self._memories[name], alarm = line.step(
                memory, rules, verdict.state, verdict.score, now - since, now, verdict.reason
            )
            self._last[name] = verdict
            self._sequence[name] += 1
            self._part[name] = part
            return alarm

    def tick(self) -> list[tuple[str, Alarm]]:
        """Call this several times a second: the alarms that time has raised."""
        found = []
        with self._lock:
            now = self._monotonic()
            for name, rules in self._rules.items():
                rules = msgspec.structs.replace(rules, fresh=None) if name in self._triggered else rules
                self._memories[name], alarm = line.tick(self._memories[name], rules, now)
                if alarm is not None:
                    found.append((name, alarm))
        return found

    def acknowledge(self, source: str, at: float | None = None) -> None:
        """Open the latch of a line, unless an alarm was raised after `at`, or is still kept back: nobody saw it."""
        with self._lock:
            memory = self._memories[source]
            later = at is not None and memory.alarmed is not None and memory.alarmed > at
            if not later and not memory.pending:
                self._memories[source] = line.acknowledge(memory)

    def status(self, source: str) -> Status:
        """One line now."""
        with self._lock:
            now, memory, rules = self._monotonic(), self._memories[source], self._rules[source]
            return Status(
                source=source,
                answer=line.answer(memory, rules, now),
                valid=line.valid(memory, rules, now),
                latched=memory.latched,
                sequence=self._sequence[source],
                bad_votes=sum(memory.votes),
                voted=len(memory.votes),
                age=None if memory.judged is None else max(0.0, now - memory.judged),
                last=self._last.get(source),
                parts=self._sequence[source] if source in self._triggered else 0,
                part=self._part[source],
            )
