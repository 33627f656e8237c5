"""gpiod 2 without a chip: the same names, signatures and errors; `test_gpio.py` compares it with the package itself."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from types import ModuleType


class Value(Enum):
    INACTIVE = 0
    ACTIVE = 1


class Direction(Enum):
    AS_IS = 1
    INPUT = 2
    OUTPUT = 3


class Bias(Enum):
    AS_IS = 1
    UNKNOWN = 2
    DISABLED = 3
    PULL_UP = 4
    PULL_DOWN = 5


class Edge(Enum):
    NONE = 1
    RISING = 2
    FALLING = 3
    BOTH = 4


class Drive(Enum):
    PUSH_PULL = 1
    OPEN_DRAIN = 2
    OPEN_SOURCE = 3


class Clock(Enum):
    MONOTONIC = 1
    REALTIME = 2
    HTE = 3


@dataclass(repr=False)
class LineSettings:
    direction: Direction = Direction.AS_IS
    edge_detection: Edge = Edge.NONE
    bias: Bias = Bias.AS_IS
    drive: Drive = Drive.PUSH_PULL
    active_low: bool = False
    debounce_period: timedelta = timedelta()
    event_clock: Clock = Clock.MONOTONIC
    output_value: Value = Value.INACTIVE


@dataclass(frozen=True)
class EdgeEvent:
    line_offset: int


class RequestReleasedError(Exception):
    """What a released request raises in the package, too."""


class LineRequest:
    def __init__(self, chip: Chip, config: dict[int, LineSettings]) -> None:
        self._chip, self.config, self.released = chip, config, False

    def release(self) -> None:
        self._check()
        self.released = True
        self._chip.held -= set(self.config)

    def set_values(self, values: dict[int | str, Value]) -> None:
        self._check()
        self._chip.check()
        for line, value in values.items():
            settings = self.config[line]  # type: ignore[index]
            if settings.direction is not Direction.OUTPUT:
                raise PermissionError(1, "Operation not permitted")
            self._chip.drive(line, settings, value)  # type: ignore[arg-type]

    def wait_edge_events(self, timeout: timedelta | float | None = None) -> bool:
        self._check()
        assert isinstance(timeout, float)
        with self._chip.changed:
            self._chip.changed.wait_for(lambda: self._chip.edges or self._chip.gone, timeout)
        self._chip.check()
        return bool(self._chip.edges)

    def read_edge_events(self, max_events: int | None = None) -> list[EdgeEvent]:
        self._check()
        found = [EdgeEvent(line) for line in self._chip.edges]
        self._chip.edges.clear()
        return found

    def _check(self) -> None:
        if self.released:
            raise RequestReleasedError()


class Chip:
    """The pins. `levels` are electrical: True is high. `history` has every change of each line."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.history: dict[int, list[bool]] = {}
        self.held: set[int] = set()
        self.settings: dict[int, LineSettings] = {}
        self.edges: deque[int] = deque()
        self.changed = threading.Condition()
        self.gone = False

    def check(self) -> None:
        if self.gone:
            raise OSError(19, "No such device")

    def drive(self, line: int, settings: LineSettings, value: Value) -> None:
        level = (value is Value.ACTIVE) is not settings.active_low
        self.levels[line] = level
        self.history.setdefault(line, []).append(level)

    def edge(self, line: int) -> None:
        """Somebody outside changes the level in the direction that was asked for."""
        assert self.settings[line].edge_detection in (Edge.RISING, Edge.FALLING)
        with self.changed:
            self.edges.append(line)
            self.changed.notify_all()


def module(chip: Chip, path: str = "/dev/gpiochip9") -> dict[str, ModuleType]:
    """For `sys.modules`: the package with one chip at `path`."""

    def request_lines(
        path: str,
        config: dict[Iterable[int | str] | int | str, LineSettings | None],
        consumer: str | None = None,
        event_buffer_size: int | None = None,
        output_values: dict[int | str, Value] | None = None,
    ) -> LineRequest:
        if path != where:
            raise FileNotFoundError(2, "No such file or directory")
        chip.check()
        if chip.held & set(config):  # type: ignore[arg-type]
            raise OSError(16, "Device or resource busy")
        for line, settings in config.items():
            assert isinstance(line, int) and settings is not None
            chip.held.add(line)
            chip.settings[line] = settings
            if settings.direction is Direction.OUTPUT:
                chip.drive(line, settings, settings.output_value)
        return LineRequest(chip, config)  # type: ignore[arg-type]

    where = path
    made, line = ModuleType("gpiod"), ModuleType("gpiod.line")
    for kind in (Value, Direction, Bias, Edge, Drive, Clock):
        setattr(line, kind.__name__, kind)
    for name, value in {"line": line, "LineSettings": LineSettings, "LineRequest": LineRequest}.items():
        setattr(made, name, value)
    made.request_lines = request_lines  # type: ignore[attr-defined]
    made.__path__ = []
    assert "gpiod" not in sys.modules or sys.modules["gpiod"] is not made
    return {"gpiod": made, "gpiod.line": line}
