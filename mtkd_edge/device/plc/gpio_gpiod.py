"""Wires: answers on output lines and triggers from input lines of a GPIO chip, with gpiod 2 (extra `gpio`, LGPL).

    good        active only while the line (of all lines: the worst) is good
    reject      active unless it is
    valid       active while the newest frame was judged and is fresh
    heartbeat   another level at every beat, ten a second

Fail-safe: an output is requested at its safe level, and goes back there when the answer is not good, when the station's
beats stop for STALE seconds, when it ends, and when it starts again. Safe is inactive, of `reject` it is active. What a
pin does once the process was killed is the kernel driver's choice, usually nothing: then the heartbeat alone tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal

import msgspec

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.decisions.line import STALE, Answer
from mtkd_edge.device.health import Event, Tell, untold
from mtkd_edge.device.plc.registers import worst
from mtkd_edge.device.task import Task
from mtkd_edge.errors import MissingExtraError, UsageError

CONSUMER = "mtkd-edge"
TICK = 0.1
RETRY = 1.0
"""Seconds until a chip that failed is asked for again: one on USB may come back."""
Means = Literal["good", "reject", "valid", "heartbeat"]
Heard = Callable[[str], object]
"""Called with the source of a line whose part is there; must not raise."""


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[gpio.output]]`: which line of the chip means what; without a source, of all lines together."""

    line: int
    means: Means
    source: str = ""
    active_low: bool = False


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[gpio.trigger]]`: an edge on this line says that a part is there, `debounce_ms` after it has come to rest."""

    line: int
    source: str
    edge: Literal["rising", "falling"] = "rising"
    bias: Literal["as-is", "disabled", "pull-up", "pull-down"] = "as-is"
    debounce_ms: float = 5.0
    active_low: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.debounce_ms <= 10_000:
            raise ValueError(f"debounce_ms lies between 0 and 10000, got {self.debounce_ms}")


class GpioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[gpio]`: wires of one chip (`gpiodetect` and `gpioinfo` list chips and lines)."""

    chip: str = "/dev/gpiochip0"
    output: tuple[Output, ...] = ()
    trigger: tuple[Input, ...] = ()

    def __post_init__(self) -> None:
        lines = [each.line for each in self.output] + [each.line for each in self.trigger]
        if not lines or len(set(lines)) < len(lines) or min(lines) < 0:
            raise ValueError(f"output and trigger want lines that differ, numbered from 0, got {lines}")

    @property
    def sources(self) -> set[str]:
        """Those that are named."""
        return ({each.source for each in self.output} | {each.source for each in self.trigger}) - {""}


class Gpio:
    """An output (`station/pulse.py`), and the threads that watch over it and hear triggers.

    Raises UsageError where the lines cannot be had, MissingExtraError without gpiod. Later failures of the chip are
    raised at every beat (outputs) or told once (triggers), and the lines are asked for again.
    """

    def __init__(self, wanted: GpioConfig, heard: Heard, tell: Tell = untold) -> None:
        self._gpiod, self._wanted, self._heard, self._tell = _gpiod(), wanted, heard, tell
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._beat, self._beaten_at, self._lost_at = False, time.monotonic(), float("-inf")
        self._outputs: Any = None
        self._inputs: Any = None
        try:
            self._outputs = self._request_outputs()
            self._inputs = self._request_inputs()
        except (OSError, ValueError) as error:
            self.close()
            what = f"lines of {wanted.chip} cannot be had: {error}"
            raise UsageError(what, f"gpioinfo {wanted.chip}; sudo usermod -aG gpio mtkd-edge") from error
        self._tasks = [Task("gpio", self._watch)] if wanted.output else []
        self._tasks += [Task("gpio triggers", self._hear)] if wanted.trigger else []

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat. Raises OSError while the chip is away."""
        with self._lock:
            self._beat, self._beaten_at = not self._beat, time.monotonic()
            self._write({each.line: self._is_active(each, statuses) for each in self._wanted.output})

    def close(self) -> None:
        """Every output to its safe level, then let go of the lines."""
        self._closing.set()
        for task in getattr(self, "_tasks", []):
            task.join(1.0)
        with self._lock, suppress(OSError):  # a chip that has gone has no level any more
            self._write(self._safe())
        for request in (self._outputs, self._inputs):
            if request is not None:
                request.release()
        self._outputs = self._inputs = None

    def _is_active(self, output: Output, statuses: Sequence[Status]) -> bool:
        chosen = [status for status in statuses if output.source in ("", status.source)]
        good = worst(chosen) is Answer.GOOD
        if output.means == "heartbeat":
            return self._beat
        if output.means == "valid":
            return bool(chosen) and all(status.valid for status in chosen)
        return good if output.means == "good" else not good

    def _safe(self) -> dict[int, bool]:
        return {each.line: each.means == "reject" for each in self._wanted.output}

    def _write(self, levels: dict[int, bool]) -> None:
        """Raises OSError; the lines are then asked for again, at most every RETRY seconds."""
        if not levels:
            return
        if self._outputs is None:
            if self._closing.is_set() or time.monotonic() - self._lost_at < RETRY:
                raise OSError(f"{self._wanted.chip} has failed")
            self._lost_at = time.monotonic()
            self._outputs = self._request_outputs()
        value = self._gpiod.line.Value
        try:
            self._outputs.set_values({line: value.ACTIVE if on else value.INACTIVE for line, on in levels.items()})
        except OSError:
            lost, self._outputs, self._lost_at = self._outputs, None, time.monotonic()
            lost.release()
            raise

    def _watch(self) -> None:
        """Outputs are safe when nobody beats: an old `good` must not stand."""
        while not self._closing.wait(TICK):
            with self._lock:
                if time.monotonic() - self._beaten_at > STALE:
                    with suppress(OSError):  # asked for again at the next tick
                        self._write(self._safe())

    def _hear(self) -> None:
        sources = {each.line: each.source for each in self._wanted.trigger}
        failing = ""
        while not self._closing.is_set():
            before, failing = failing, self._heard_once(sources)
            if failing and not before:
                self._tell(Event("gpio", "failing", f"triggers are not heard: {failing}", time.time()))
            if failing:
                self._closing.wait(RETRY)

    def _heard_once(self, sources: Mapping[int, str]) -> str:
        """Wait a TICK for edges -> why none can come, "" otherwise; the lines are then asked for again."""
        try:
            self._inputs = self._inputs or self._request_inputs()
            if self._inputs.wait_edge_events(TICK):
                for event in self._inputs.read_edge_events():
                    self._heard(sources[event.line_offset])
        except OSError as error:
            if self._inputs is not None:
                self._inputs.release()
            self._inputs = None
            return str(error)
        return ""

    def _request_outputs(self) -> Any:
        line, safe = self._gpiod.line, self._safe()
        config = {
            each.line: self._gpiod.LineSettings(
                direction=line.Direction.OUTPUT,
                active_low=each.active_low,
                output_value=line.Value.ACTIVE if safe[each.line] else line.Value.INACTIVE,
            )
            for each in self._wanted.output
        }
        return self._gpiod.request_lines(self._wanted.chip, config, CONSUMER) if config else None

    def _request_inputs(self) -> Any:
        line = self._gpiod.line
        config = {
            each.line: self._gpiod.LineSettings(
                direction=line.Direction.INPUT,
                edge_detection=line.Edge[each.edge.upper()],
                bias=line.Bias[each.bias.replace("-", "_").upper()],
                active_low=each.active_low,
                debounce_period=timedelta(milliseconds=each.debounce_ms),
            )
            for each in self._wanted.trigger
        }
        return self._gpiod.request_lines(self._wanted.chip, config, CONSUMER) if config else None


def _gpiod() -> Any:
    try:
        import gpiod
        import gpiod.line
    except ModuleNotFoundError as error:
        raise MissingExtraError("gpiod", "gpio", "driving GPIO lines") from error
    return gpiod
