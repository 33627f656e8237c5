"""Wires: safe whenever the answer is not proven good, and triggers that come in; on a double of gpiod."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpiod_double
import line
import msgspec
import pytest
from gpiod_double import Chip
from store import until
from test_station import events, station

from mtkd_edge.device import health
from mtkd_edge.device.decisions.board import Board, Status
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.plc.gpio_gpiod import Gpio, GpioConfig
from mtkd_edge.errors import MissingExtraError, UsageError
from mtkd_edge.verdict import State, Verdict

CHIP = "/dev/gpiochip9"
MEANS = ("good", "reject", "valid", "heartbeat")
SAFE = {0: False, 1: True, 2: False}


def wanted(**more: Any) -> GpioConfig:
    outputs = [{"line": number, "means": means} for number, means in enumerate(MEANS)]
    return msgspec.convert({"chip": CHIP, "output": outputs, **more}, GpioConfig)


def statuses(*states: State) -> list[Status]:
    board = Board({name: Rules() for name in "abc"[: len(states)]})
    for name, state in zip("abc", states, strict=False):
        board.step(Verdict(name, 0, 0.0, state, None if state is State.INVALID else 0.3, 0.5))
    return [board.status(source) for source in board.sources]


def levels(chip: Chip) -> dict[int, bool]:
    return {number: chip.levels[number] for number in SAFE}


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Chip:
    made = Chip()
    for name, module in gpiod_double.module(made, CHIP).items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def gpio(chip: Chip) -> Iterator[Gpio]:
    made = Gpio(wanted(), lambda source: None)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("states", "good", "reject", "valid"),
    [
        ([State.NORMAL], True, False, True),
        ([State.ANOMALOUS], False, True, True),
        ([State.INVALID], False, True, False),
        ([State.NORMAL, State.NORMAL], True, False, True),
        ([State.NORMAL, State.ANOMALOUS], False, True, True),
        ([State.NORMAL, State.INVALID], False, True, False),
        ([], False, True, False),
    ],
)
def test_good_is_active_only_for_good_and_reject_is_its_fail_safe_opposite(
    states: list[State], good: bool, reject: bool, valid: bool, gpio: Gpio, chip: Chip
) -> None:
    assert levels(chip) == SAFE, "before the first beat"
    gpio(statuses(*states))
    assert levels(chip) == {0: good, 1: reject, 2: valid}
    gpio(statuses(State.INVALID))
    assert levels(chip) == SAFE


def test_the_heartbeat_changes_at_every_beat_and_stops_with_them(gpio: Gpio, chip: Chip) -> None:
    for _ in range(4):
        gpio(statuses(State.NORMAL))
    assert chip.history[3] == [False, True, False, True, False]


def test_outputs_are_safe_when_nobody_beats_any_more(gpio: Gpio, chip: Chip) -> None:
    gpio(statuses(State.NORMAL))
    assert levels(chip) != SAFE
    began = time.monotonic()
    until(lambda: levels(chip) == SAFE, 5)
    assert time.monotonic() - began > 0.8
    gpio(statuses(State.NORMAL))
    assert levels(chip) != SAFE


def test_at_the_end_every_line_is_safe_and_let_go(chip: Chip) -> None:
    made = Gpio(wanted(), lambda source: None)
    made(statuses(State.NORMAL))
    made.close()
    assert levels(chip) == SAFE and not chip.held


def test_active_low_turns_the_level_not_the_meaning(chip: Chip) -> None:
    outputs = [{"line": 0, "means": "good", "active_low": True}, {"line": 1, "means": "reject", "active_low": True}]
    made = Gpio(wanted(output=outputs), lambda source: None)
    assert (chip.levels[0], chip.levels[1]) == (True, False)
    made(statuses(State.NORMAL))
    assert (chip.levels[0], chip.levels[1]) == (False, True)
    made.close()
    assert (chip.levels[0], chip.levels[1]) == (True, False)


def test_a_line_may_speak_of_one_source_alone(chip: Chip) -> None:
    outputs = [{"line": 0, "means": "good", "source": "a"}, {"line": 1, "means": "good", "source": "b"}]
    made = Gpio(wanted(output=outputs), lambda source: None)
    made(statuses(State.NORMAL, State.ANOMALOUS))
    assert (chip.levels[0], chip.levels[1]) == (True, False)
    made.close()


def test_a_chip_that_goes_is_raised_and_asked_for_again(
    gpio: Gpio, chip: Chip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtkd_edge.device.plc.gpio_gpiod.RETRY", 0.2)
    chip.gone = True
    for _ in range(3):
        with pytest.raises(OSError, match=r"No such device|has failed"):
            gpio(statuses(State.NORMAL))
    chip.gone = False
    time.sleep(0.25)
    chip.history.clear()
    gpio(statuses(State.NORMAL))
    assert chip.history[0] == [False, True], "safe first, then what is known"


def test_edges_are_triggers_and_a_chip_that_goes_is_told_once(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtkd_edge.device.plc.gpio_gpiod.RETRY", 0.05)
    heard: list[str] = []
    told: list[health.Event] = []
    inputs = [{"line": 7, "source": "a", "bias": "pull-up", "edge": "falling"}, {"line": 8, "source": "b"}]
    made = Gpio(wanted(output=[], trigger=inputs), heard.append, told.append)
    try:
        settings = chip.settings[7]
        assert (settings.bias.name, settings.edge_detection.name) == ("PULL_UP", "FALLING")
        assert settings.debounce_period.total_seconds() == 0.005 and settings.direction.name == "INPUT"
        for number in (7, 8, 7):
            chip.edge(number)
        until(lambda: heard == ["a", "b", "a"], 3)
        chip.gone = True
        until(lambda: told, 3)
        time.sleep(0.3)
        chip.gone = False
        until(lambda: chip.held == {7, 8}, 3)
        chip.edge(8)
        until(lambda: heard[3:] == ["b"], 3)
        assert len(told) == 1 and "triggers are not heard" in told[0].reason
    finally:
        made.close()
    assert not chip.held


def test_on_a_station_a_wire_triggers_a_part_and_another_rejects_it(chip: Chip, tmp_path: Path) -> None:
    pins = {"chip": CHIP, "output": [{"line": 1, "means": "reject"}], "trigger": [{"line": 7, "source": "top"}]}
    source = {"address": "top", "trigger": {"ms": 200, "late_ms": 100}}
    running = station(tmp_path, [line.Memory("top", [])], source=[source], gpio=pins)
    try:
        until(lambda: chip.history.get(1, [])[-1:] == [True], 3)
        for state, level in ((State.NORMAL, False), (State.ANOMALOUS, True)):
            before = running.parts.waiting("top")
            chip.edge(7)
            until(lambda before=before: running.parts.waiting("top") > before, 3)  # type: ignore[misc]
            running.sink(Verdict("top", 0, time.time(), state, 0.3, 0.5), None, None)
            until(lambda level=level: chip.levels[1] is level, 3)  # type: ignore[misc]
    finally:
        running.close()
    assert [event.state for event in events(tmp_path)] == ["normal", "anomalous"] and chip.levels[1] is True


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"output": []}, "want lines that differ"),
        ({"output": [{"line": 1, "means": "good"}] * 2}, "want lines that differ"),
        ({"output": [{"line": -1, "means": "good"}]}, "numbered from 0"),
        ({"output": [{"line": 1, "means": "lamp"}]}, "Invalid enum value 'lamp'"),
        ({"output": [{"line": 1, "means": "good", "pin": 3}]}, "unknown field `pin`"),
        ({"output": [], "trigger": [{"line": 1, "source": "a", "debounce_ms": -1}]}, "debounce_ms"),
    ],
)
def test_wires_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        wanted(**given)


def test_lines_that_cannot_be_had_are_told_at_the_start(chip: Chip, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lines of /dev/gpiochip5 cannot be had: .*No such file"):
        Gpio(wanted(chip="/dev/gpiochip5"), lambda source: None)
    first = Gpio(wanted(), lambda source: None)
    with pytest.raises(UsageError, match="busy"):
        Gpio(wanted(), lambda source: None)
    first.close()
    pins = {"chip": CHIP, "output": [{"line": 1, "means": "good", "source": "side"}]}
    with pytest.raises(UsageError, match=r"names \['side'\]"):
        station(tmp_path, [line.Memory("top", [])], gpio=pins)
    pins = {"chip": CHIP, "trigger": [{"line": 1, "source": "top"}]}
    with pytest.raises(UsageError, match=r"\['top'\], which no trigger opens a window on") as refused:
        station(tmp_path, [line.Memory("top", [])], gpio=pins)
    assert refused.value.hint.startswith("trigger = {")


def test_without_gpiod_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(MissingExtraError) as caught:
        Gpio(wanted(), lambda source: None)
    assert "mtkd-edge[gpio]" in caught.value.hint


def test_the_double_is_what_the_package_is() -> None:
    real = pytest.importorskip("gpiod", reason="no gpiod: pip install 'mtkd-edge[gpio]'")
    double = gpiod_double.module(Chip())["gpiod"]

    def parameters(call: Any) -> list[tuple[str, str]]:
        return [(p.name, str(p.kind)) for p in inspect.signature(call).parameters.values()]

    assert parameters(double.request_lines) == parameters(real.request_lines)
    assert parameters(double.LineSettings) == parameters(real.LineSettings)
    for name in ("release", "set_values", "wait_edge_events", "read_edge_events"):
        assert parameters(getattr(double.LineRequest, name)) == parameters(getattr(real.LineRequest, name)), name
    for name in ("Value", "Direction", "Bias", "Edge", "Drive", "Clock"):
        assert [m.name for m in getattr(double.line, name)] == [m.name for m in getattr(real.line, name)], name
    for field in inspect.signature(real.LineSettings).parameters.values():
        ours = inspect.signature(double.LineSettings).parameters[field.name].default
        assert getattr(ours, "name", ours) == getattr(field.default, "name", field.default), field.name
    assert "line_offset" in real.EdgeEvent.__dataclass_fields__
    with pytest.raises(OSError, match="No such file"):
        real.request_lines("/dev/gpiochip99", {1: real.LineSettings()}, "x")
