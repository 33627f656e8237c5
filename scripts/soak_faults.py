"""The faults of a soak: what each breaks, how it is healed, and a schedule that a seed fixes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from soak_around import Hook, HotFolder, Program
from soak_disk import Disk, WallClock
from soak_station import Station

STATION = ("station_kill", "station_stop")
STEPS = (-3600.0, 86400.0, -0.5, 5.0, -86400.0 * 365)
"""Seconds by which the wall clock is set."""


class Happened(msgspec.Struct):
    """One fault: monotonic times of its beginning and of its cure; `skipped` is why it could not be made."""

    kind: str
    target: str
    began: float
    healed: float = 0.0
    skipped: str = ""


@dataclass(frozen=True)
class Plant:
    """Everything that can be broken."""

    station: Station
    cameras: dict[str, Program]
    broker: Program
    hook: Hook
    folder: HotFolder
    disk: Disk
    clock: WallClock
    chance: random.Random


@dataclass(frozen=True)
class Fault:
    """`touches`: what it breaks, so that nothing is broken twice at once. `make` -> what undoes it.

    `make` raises ImpossibleError where it cannot be made here. `seconds`: how long it lasts, between these two;
    `settle`: how much longer what it touches is then left alone.
    """

    kind: str
    target: str
    touches: frozenset[str]
    seconds: tuple[float, float]
    make: Callable[[Plant], Callable[[], None]]
    settle: float = 1.0


class ImpossibleError(Exception):
    """This fault cannot be made here; the message says why."""


def all_faults(plant: Plant) -> list[Fault]:
    """Every kind, for every target."""
    found: list[Fault] = []
    everything = frozenset({*plant.cameras, "workers", "disk", "station"})
    for name in plant.cameras:
        kill, freeze = _camera(name, signal.SIGKILL), _camera(name, signal.SIGSTOP)
        found += [
            Fault("camera_kill", name, frozenset({name}), (1, 6), kill, 4.0),
            Fault("camera_freeze", name, frozenset({name}), (2, 6), freeze, 4.0),
        ]
    workers = frozenset({*plant.cameras, "workers"})
    found += [
        Fault("worker_kill", "workers", workers, (0, 0), _worker(signal.SIGKILL), 6.0),
        Fault("worker_freeze", "workers", workers, (5, 5), _worker(signal.SIGSTOP), 4.0),
        Fault("broker_stop", "broker", frozenset({"broker"}), (1, 8), _broker_stop),
        Fault("broker_freeze", "broker", frozenset({"broker"}), (3, 12), _broker_freeze),
        Fault("hook_fail", "hook", frozenset({"hook"}), (2, 8), _hook("fail")),
        Fault("hook_hang", "hook", frozenset({"hook"}), (2, 8), _hook("hang")),
        Fault("disk_full", "disk", frozenset({"disk"}), (2, 8), _disk_full, 2.0),
        Fault("disk_readonly", "disk", frozenset({"disk"}), (2, 8), _disk_readonly, 2.0),
        Fault("photos_broken", "folder", frozenset({"folder"}), (0, 0), _photos),
        Fault("clock_step", "clock", frozenset({"clock"}), (2, 8), _clock),
        Fault("station_kill", "station", everything, (1, 1), _station_kill, 8.0),
        Fault("station_stop", "station", everything, (1, 1), _station_stop, 8.0),
    ]
    return found


class Schedule:
    """Faults in shuffled rounds, each once a round; those of the station every `apart` seconds, in turn."""

    def __init__(self, faults: list[Fault], chance: random.Random, apart: float) -> None:
        self._faults = [fault for fault in faults if fault.kind not in STATION]
        self._of_station = [fault for fault in faults if fault.kind in STATION]
        self._chance, self._apart = chance, apart
        self._deck: list[Fault] = []
        self._station_at = apart / 2

    def next(self, at: float, busy: set[str]) -> Fault | None:
        """What to break now, `at` seconds after the start; None where it would break a thing twice."""
        if at >= self._station_at:  # nothing else is begun meanwhile: it would never find everything whole
            of_station = self._of_station[0]
            if of_station.touches & busy:
                return None
            self._of_station.append(self._of_station.pop(0))
            self._station_at = at + self._apart
            return of_station
        self._deck = self._deck or self._chance.sample(self._faults, len(self._faults))
        fault = next((fault for fault in self._deck if not fault.touches & busy), None)
        if fault is not None:
            self._deck.remove(fault)
        return fault


def _camera(name: str, number: signal.Signals) -> Callable[[Plant], Callable[[], None]]:
    def make(plant: Plant) -> Callable[[], None]:
        camera = plant.cameras[name]
        camera.send(number)
        if number is signal.SIGSTOP:
            return lambda: camera.send(signal.SIGCONT)
        camera.end()
        return lambda: _ignore(camera.start())

    return make


def _worker(number: signal.Signals) -> Callable[[Plant], Callable[[], None]]:
    def make(plant: Plant) -> Callable[[], None]:
        workers = plant.station.workers()
        if not workers:
            raise ImpossibleError("the station has no processes beside its own")
        pid = plant.chance.choice(workers)
        os.kill(pid, number)

        def heal() -> None:
            if number is signal.SIGSTOP and pid in plant.station.workers():
                os.kill(pid, signal.SIGCONT)

        return heal

    return make


def _broker_stop(plant: Plant) -> Callable[[], None]:
    plant.broker.end(signal.SIGTERM)
    return lambda: _ignore(plant.broker.start())


def _broker_freeze(plant: Plant) -> Callable[[], None]:
    plant.broker.send(signal.SIGSTOP)
    return lambda: plant.broker.send(signal.SIGCONT)


def _hook(mode: str) -> Callable[[Plant], Callable[[], None]]:
    def make(plant: Plant) -> Callable[[], None]:
        plant.hook.mode = mode
        return lambda: setattr(plant.hook, "mode", "ok")

    return make


def _disk_full(plant: Plant) -> Callable[[], None]:
    if plant.disk.cannot:
        raise ImpossibleError(plant.disk.cannot)
    plant.disk.fill()
    return plant.disk.empty


def _disk_readonly(plant: Plant) -> Callable[[], None]:
    if plant.disk.cannot:
        raise ImpossibleError(plant.disk.cannot)
    plant.disk.forbid()
    return plant.disk.allow


def _photos(plant: Plant) -> Callable[[], None]:
    for _ in range(5):
        plant.folder.drop("broken")
    return lambda: None


def _clock(plant: Plant) -> Callable[[], None]:
    if plant.clock.cannot:
        raise ImpossibleError(plant.clock.cannot)
    plant.clock.step(plant.chance.choice(STEPS))
    return lambda: plant.clock.step(0)


def _station_kill(plant: Plant) -> Callable[[], None]:
    plant.station.kill()
    return plant.station.start


def _station_stop(plant: Plant) -> Callable[[], None]:
    plant.station.stop()
    return plant.station.start


def _ignore(result: object) -> None:
    """A cure gives nothing back."""
