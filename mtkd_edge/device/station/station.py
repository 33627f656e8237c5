"""Everything that runs beside the scorer: rules, events, ways out; put together from one file, ended in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from mtkd_edge.bundle import Manifest
from mtkd_edge.device import health
from mtkd_edge.device.decisions import rules
from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.focus import Focus
from mtkd_edge.device.decisions.parts import Parts
from mtkd_edge.device.events import progress
from mtkd_edge.device.events.acknowledge import acknowledge_line
from mtkd_edge.device.events.clock import Clock, Ids
from mtkd_edge.device.events.database import WHOLE
from mtkd_edge.device.events.draft import Maker
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.events.recorder import Recorder, RecorderOptions
from mtkd_edge.device.events.retention import Limits
from mtkd_edge.device.health import Health, Tell
from mtkd_edge.device.ledger import Ledger, taken
from mtkd_edge.device.outbox.channel import Channel
from mtkd_edge.device.outbox.sender import Sender, SenderOptions
from mtkd_edge.device.plc.gpio_gpiod import Gpio
from mtkd_edge.device.plc.modbus import Modbus
from mtkd_edge.device.plc.opcua_asyncua import OpcUa
from mtkd_edge.device.scoring import Scored
from mtkd_edge.device.sources import open_source
from mtkd_edge.device.sources.base import Captured, Resumable, Source, SourceOptions, decoders_replaced
from mtkd_edge.device.sources.pipeline import PREFIX
from mtkd_edge.device.station import pulse
from mtkd_edge.device.station.config import Config, split
from mtkd_edge.device.station.decide import Decide
from mtkd_edge.device.station.pulse import Output, Pulse
from mtkd_edge.device.station.secrets import secret
from mtkd_edge.device.station.watchdog import Watchdog
from mtkd_edge.device.station.ways_out import Answers, mqtt, webhook
from mtkd_edge.errors import UsageError
from mtkd_edge.threshold import Threshold


class Judge(msgspec.Struct, frozen=True):
    """What judges here: the model, its threshold, and the sha256 of the engine's manifest."""

    model: Manifest
    threshold: Threshold
    engine: str


WINDOW = "trigger = { ms = 400 } in that [[source]]"
LATER = 0.2
"""Seconds between calling a camera stalled and giving its connection up."""


def open_all(config: Config, base: Path) -> list[Source]:
    """The sources, ready to be read, under the names they were given. Raises SourceError or UsageError."""
    options = SourceOptions(read_timeout=config.silence + LATER)
    sources: list[Source] = []
    for wanted in config.source:
        address = wanted.address or secret("address", wanted.address_file, wanted.address_env, base)
        source = open_source(located(address, base), wanted.follow, options)
        source.name = wanted.name or source.name
        sources.append(source)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UsageError(f"sources want names that differ, got {names}", 'name = "camera-1" in each [[source]]')
    return sources


def located(address: str, base: Path) -> str:
    """A path relative to the configuration's folder; anything that is no relative path stays as it is."""
    elsewhere = "://" in address or address.startswith(PREFIX) or address.isdecimal()
    relative = not elsewhere and not Path(address).is_absolute()
    return str(base / address) if relative else address


class Station:
    """Starts at once. `sink` takes every verdict and ends everything when it is closed; `focus` goes to the watch."""

    def __init__(
        self,
        config: Config,
        base: Path,
        judge: Judge,
        sources: Sequence[Source],
        tell: Tell,
        resume: bool = True,
    ) -> None:
        """`sources` are those of the configuration, in its order; with `resume` files go on where they stopped.

        Raises UsageError, DataError or MissingExtraError for what cannot be as configured; nothing then runs.
        """
        self._config, self._tell, self.clock = config, tell, Clock()
        given = dict(zip((source.name for source in sources), config.source, strict=True))
        self._sources = {source.name: source for source in sources}
        specs = {name: wanted.trigger for name, wanted in given.items() if wanted.trigger}
        ids = Ids(self.clock)
        self.parts = Parts(specs, lambda source, decision: self.sink.part(source, decision), ids.next)
        self.root = base / config.events.folder if config.events else None
        aging = {source.name: source.live or source.name in specs for source in sources}
        self.rules = {
            name: rules.settled(given[name].rules or config.rules, ages, judge.threshold.score)
            for name, ages in aging.items()
        }
        self.focus: Mapping[str, Callable[[Scored], Scored]] = {
            name: Focus(wanted.focus.below(base), judge.model.frame, judge.model.score)
            for name, wanted in given.items()
            if not wanted.focus.everything
        }
        self.senders: list[Sender] = []
        self.recorder: Recorder | None = None
        self._pulse: Pulse | None = None
        self.modbus: Modbus | None = None
        self.opcua: OpcUa | None = None
        self.gpio: Gpio | None = None
        self.answers: Answers | None = None
        self._over = False
        self.vitals: tuple[Ledger, Health] | None = None
        self.watchdog = Watchdog({source.name: source.live for source in sources}, config.silence)
        try:
            answers = self._start(base, judge, lossless=not any(source.live for source in sources))
            self._resume(sources, resume)
            seen = pulse.newest(self.root)  # before the latches: what is acknowledged meanwhile is then heard of
            latched = pulse.latched(self.root) if any(each.latch for each in self.rules.values()) else frozenset()
            self.board = Board(self.rules, latched, triggered=frozenset(specs))
            scales = {name: wanted.focus.mm_per_pixel for name, wanted in given.items()}
            keep = config.events.keep if config.events else "events"
            self.sink = Decide(self.board, self.recorder, keep, scales, self.clock, self.close, self.losses, self.parts)
            outputs: list[Output] = [self.parts, *answers, *self._controllers(), self.watchdog]
            self._pulse = Pulse(self.board, self.sink.alarm, outputs, self.root, seen, tell)
        except BaseException:
            self.close()
            raise

    def attach(self, ledger: Ledger, health: Health) -> None:
        """For `WatchOptions.attach`: the watch has begun."""
        self.vitals = ledger, health
        self.watchdog.attach(ledger, health)
        self.parts.attach(lambda source: taken(ledger.account(source)))

    def done(self, captured: Captured) -> None:
        """For `WatchOptions.done`: how far each file is goes to the disk with the events of its frames."""
        if self.recorder is not None and captured.mark is not None:
            self.recorder.done(captured.source, captured.mark)

    def alive(self) -> bool:
        """Whether time still passes here: without it silence would not be noticed."""
        return self._pulse is not None and self._pulse.alive()

    def acknowledge(self, source: str, by: str) -> None:
        """Acknowledge the alarms of a line, if any wait. Raises DataError where that cannot be written."""
        if self.root is not None:
            acknowledge_line(self.root, source, by, self.clock)

    def triggered(self, who: str, source: str, part: str) -> None:
        """A part is there, says somebody who hears no answer: what is wrong about it is told here."""
        try:
            self.parts.trigger(source, part)
        except UsageError as error:
            self._tell(health.Event(who, "trigger refused", error.message, time.time()))

    def replaced(self, source: str) -> dict[str, int]:
        """How many decoders of a source died, by what they died of."""
        return decoders_replaced(self._sources[source])

    def losses(self) -> Counter[str]:
        """What was lost, by who lost it and why."""
        counted = Counter({f"store: {why}": n for why, n in self.recorder.lost.items()} if self.recorder else {})
        for sender in self.senders:
            counted.update({f"{sender.name}: {why}": count for why, count in sender.lost.items()})
        if self._pulse is not None:
            counted.update({f"{name}: beats failed": count for name, count in self._pulse.failures.items()})
        return counted

    def close(self) -> None:
        """End in order: no more time, the last events on the disk, then sent; some three seconds at most, once."""
        if self._over:
            return
        self._over = True
        self.watchdog.stopping()
        try:
            if self._pulse is not None:
                self._pulse.close()
                self.parts.close()
        finally:
            # a controller notices the end of a connection before that of a heartbeat
            for server in (self.modbus, self.opcua, self.gpio, self.answers):
                if server is not None:
                    server.close()
            try:
                if self.recorder is not None:
                    self.recorder.close()
            finally:
                for sender in self.senders:
                    sender.finish()
                for sender in self.senders:
                    sender.close()

    def _start(self, base: Path, judge: Judge, lossless: bool) -> list[Output]:
        """Recorder and senders -> the outputs that follow the answers of the lines."""
        events = self._config.events
        if events is None or self.root is None:
            return []
        limits = Limits(int(events.gigabytes * 1e9), events.days)
        maker = Maker(judge.model.frame, judge.threshold, judge.engine)
        options = RecorderOptions(keep=events.keep, lossless=lossless, limits=limits)
        self.recorder = Recorder(self.root, maker, options, self.clock, self._tell, (self._heard,))
        outputs: list[Output] = []
        if self._config.mqtt:
            channel = mqtt(self._config.mqtt, self._config.station, tuple(self.rules), base, self.root)
            self._send("mqtt", channel, SenderOptions(what=self._config.mqtt.what))
            self.answers = Answers(channel, tuple(self.rules))
            outputs.append(self.answers)
            if self._config.mqtt.trigger:
                channel.listen(self.parts.sources, partial(self.triggered, "mqtt"))
        for wanted in self._config.webhook:
            hook = webhook(wanted, self._config.station, base, self.root, self.clock)
            self._send(wanted.name, hook, SenderOptions(what=wanted.what))
        return outputs

    def _resume(self, sources: Sequence[Source], wanted: bool) -> None:
        if self.recorder is None:
            return
        for source in (source for source in sources if isinstance(source, Resumable)):
            marks, seq = progress.read(self.root, source.name)
            if not wanted:
                self.recorder.gone(source.name, [*(mark.item for mark in marks), WHOLE])
            else:
                source.resume(marks, seq, partial(self.recorder.gone, source.name))

    def _controllers(self) -> list[Output]:
        """The outputs that controllers read."""
        if wanted := self._config.modbus:
            may = self.acknowledge if wanted.acknowledge else None, self.parts.trigger if wanted.trigger else None
            self.modbus = Modbus(*split(wanted.address), *may)
        if ua := self._config.opcua:
            trigger = self.parts.trigger if ua.trigger else None
            self.opcua = OpcUa(*split(ua.address), self._config.station, tuple(self.rules), trigger)
        if wires := self._config.gpio:
            if strange := wires.sources - set(self.rules):
                raise UsageError(
                    f"[gpio] names {sorted(strange)}, the sources are {sorted(self.rules)}", "source = ..."
                )
            if deaf := {each.source for each in wires.trigger} - set(self.parts.sources):
                raise UsageError(f"[[gpio.trigger]] names {sorted(deaf)}, which no trigger opens a window on", WINDOW)
            self.gpio = Gpio(wires, lambda source: self.triggered("gpio", source, ""), self._tell)
        return [output for output in (self.modbus, self.opcua, self.gpio) if output is not None]

    def _send(self, name: str, channel: Channel, options: SenderOptions) -> None:
        assert self.root is not None, "ways out want events: the configuration has refused them without"
        self.senders.append(Sender(name, self.root, channel, options, self._tell))

    def _heard(self, events: Sequence[Event], stored: bool) -> None:
        for sender in self.senders:
            sender.heard(events, stored)
