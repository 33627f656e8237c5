"""The answers of all lines as 16-bit registers.

    0          heartbeat: another number at every beat, ten a second; one that stands still means a dead station
    1          the worst answer of all lines: 0 invalid, 1 good, 2 bad
    2          how many lines there are
    3 ... 9    0
    10 n ...   line n, counted from 1:
       + 0     answer: 0 invalid, 1 good, 2 bad
       + 1     valid: 1 while the newest frame was judged and is fresh
       + 2     sequence: counts verdicts, 65535 is followed by 0
       + 3     latched: 1 while an alarm waits for its acknowledgement
       + 4, 5  score, float32, high word first; NaN where there is none
       + 6, 7  threshold, float32, high word first
       + 8     regions of the newest verdict
       + 9     age of the newest judged frame in hundredths of a second, 65535 for more or none

    1000 ...   the parts of triggered lines, ten for each, line 1 at 1000:
       + 0     how many were decided, 65535 is followed by 0
       + 1     the latest one: 0 invalid, 1 good, 2 bad

Zero is what a controller reads from a station that has just begun, and it means invalid.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.verdict import State

CODES = {Answer.INVALID: 0, Answer.GOOD: 1, Answer.BAD: 2}
PER_LINE = 10
PARTS = 1000
"""Where the parts' registers and the triggers' coils begin."""
WORD = 0xFFFF


def table(statuses: Sequence[Status], beat: int) -> tuple[int, ...]:
    """All registers at one moment."""
    head = [beat & WORD, CODES[worst(statuses)], len(statuses), *[0] * (PER_LINE - 3)]
    return (*head, *(word for status in statuses for word in _line(status)))


def parts(statuses: Sequence[Status]) -> tuple[int, ...]:
    """The registers from PARTS on."""
    return tuple(word for status in statuses for word in (status.parts & WORD, _part(status), *[0] * (PER_LINE - 2)))


def _part(status: Status) -> int:
    codes = {State.INVALID: 0, State.NORMAL: 1, State.ANOMALOUS: 2}
    return codes[status.last.state] if status.parts and status.last else 0


def worst(statuses: Sequence[Status]) -> Answer:
    """Bad before invalid before good; invalid without any line."""
    answers = [status.answer for status in statuses]
    return next((each for each in (Answer.BAD, Answer.INVALID, Answer.GOOD) if each in answers), Answer.INVALID)


def _line(status: Status) -> list[int]:
    last = status.last
    score = last.score if last and last.score is not None else math.nan
    age = WORD if status.age is None else min(WORD, round(status.age * 100))
    return [
        CODES[status.answer],
        int(status.valid),
        status.sequence & WORD,
        int(status.latched),
        *_float(score),
        *_float(last.threshold if last else math.nan),
        len(last.regions) if last else 0,
        age,
    ]


def _float(value: float) -> tuple[int, int]:
    high, low = struct.unpack(">HH", struct.pack(">f", value))
    return high, low
