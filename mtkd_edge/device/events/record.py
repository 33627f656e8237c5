"""What one event is, as it is written, listed and sent. Frozen; knows nothing of files or SQL."""

from __future__ import annotations

from enum import Enum

import msgspec

from mtkd_edge.verdict import Region


class Kind(str, Enum):
    """`verdict`: one frame's. `alarm`: raised by the line's rules. `acknowledged`: somebody has seen the alarm.

    `part`: the decision about a part; where it raises an alarm, the alarm is its event.
    """

    VERDICT = "verdict"
    ALARM = "alarm"
    ACKNOWLEDGED = "acknowledged"
    PART = "part"


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event. `id` sorts in the order of writing; `wall` is seconds since the epoch as the machine believed when the
    frame was captured, `monotonic` the same moment in seconds within `boot`.

    `engine` is the sha256 of the engine's manifest, `seal` that of the threshold: both name exactly what judged.
    `image` and `heat` are paths below the store's folder, empty where there is no such picture; `bytes` is their size.
    `latched`: an alarm that waits for an acknowledgement or has had it. `about`: the id an acknowledgement is for.
    `skipped`: repeated alarms that the rate limit has kept back since the alarm before.
    """

    id: str
    kind: Kind
    source: str
    seq: int
    wall: float
    monotonic: float
    boot: str
    state: str
    score: float | None = None
    threshold: float | None = None
    regions: tuple[Region, ...] = ()
    reason: str = ""
    path: str = ""
    engine: str = ""
    seal: str = ""
    image: str = ""
    heat: str = ""
    bytes: int = 0
    latched: bool = False
    about: str = ""
    skipped: int = 0
    frame: tuple[int, int] = (0, 0)
    """(width, height) of the frame in whose pixels `regions` are; its photo may be kept smaller, or not at all.

    Zeros where no frame has come.
    """
    mm: tuple[tuple[float, ...], ...] = ()
    """(left, top, width, height, area) of each region, in mm and mm², where the source has a scale."""
    part: str = ""
    """The id of the part that this decides about: exactly one event has it for each trigger."""
