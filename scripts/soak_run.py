"""One soak: the plant is put up, broken for a given time by the schedule, healed, and what is left is read back."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import msgspec
import soak_engine
from soak_around import Hook, HotFolder, Listener, broker, camera, free_port
from soak_disk import Disk, WallClock
from soak_faults import Fault, Happened, ImpossibleError, Plant, Schedule, all_faults
from soak_picture import number_of
from soak_station import Life, Station

from mtkd_edge import __version__
from mtkd_edge.device.events.database import Database, Filter

CAMERAS = ("camera-1", "camera-2")
CONFIG = """
station = "soak"
engine = "{engine}"
silence = {silence}
[[source]]
address = "rtsp://127.0.0.1:{cameras[0]}/line"
name = "camera-1"
[[source]]
address = "rtsp://127.0.0.1:{cameras[1]}/line"
name = "camera-2"
[[source]]
address = "hot"
name = "folder"
follow = true
[events]
folder = "{events}"
[mqtt]
host = "127.0.0.1"
port = {mqtt}
keepalive = 5
[[webhook]]
url = "http://127.0.0.1:{hook}/"
timeout = 2.0
[serve]
address = "127.0.0.1:{page}"
open = true
"""
SILENCE = 0.7
"""Seconds without a frame after which a camera is called stalled: with it, silence is told within a second."""
PHOTOS_EVERY = 1.0
DRAIN = 300.0
"""Seconds that everything may take to be delivered once all is healed: a sink pauses for up to a minute at a time."""


class Kept(msgspec.Struct, frozen=True):
    """An event as the store has it; `number` is that of the frame its photo shows, None where it shows none of ours."""

    id: str
    source: str
    kind: str
    state: str
    seq: int
    monotonic: float
    path: str
    photo: bool
    number: int | None


class Record(msgspec.Struct):
    """Everything that was seen, and nothing that was concluded. Monotonic seconds; `began` is when frame 0 was due."""

    seed: int
    seconds: float
    began: float
    broken_until: float
    drained: bool
    machine: dict[str, str]
    load: list[float]
    lives: list[Life]
    faults: list[Happened]
    shown: dict[str, list[int]]
    photos: dict[str, str]
    events: list[Kept]
    mqtt: dict[str, int]
    hook: dict[str, int]


def soak(work: Path, seconds: float, seed: int, apart: float, say: Callable[[str], None]) -> Record:
    """Run for so many seconds in an empty folder. `apart`: seconds between two ends of the station."""
    began = time.monotonic() + 1.0
    with put_up(work, seed, began, seconds) as (plant, listener):
        run = _Run(plant, Schedule(all_faults(plant), random.Random(seed), apart), began, say)
        run.for_(seconds)
        drained = run.drain(listener)
        plant.station.stop()
        events = list(kept(plant.disk.folder))
        return Record(
            seed=seed,
            seconds=seconds,
            began=began,
            broken_until=run.broken_until,
            drained=drained,
            machine=machine(plant),
            load=run.load,
            lives=plant.station.lives,
            faults=run.faults,
            shown={name: numbers(work / f"shown-{n}") for n, name in enumerate(CAMERAS, 1)},
            photos=dict(plant.folder.put),
            events=events,
            mqtt=dict(listener.got),
            hook=dict(plant.hook.got),
        )


@contextmanager
def put_up(work: Path, seed: int, began: float, seconds: float) -> Iterator[tuple[Plant, Listener]]:
    """Everything runs, and the station has given its first verdicts."""
    with ExitStack() as down:
        (work / "broker").mkdir()
        cameras = {name: camera(work, n, began) for n, name in enumerate(CAMERAS, 1)}
        post = broker(work / "broker")
        for program in (*cameras.values(), post):
            down.callback(program.end)
            program.start()
        hook, listener = Hook(), Listener(post.port)
        down.callback(hook.close)
        down.callback(listener.close)
        disk, clock = Disk(work / "disk", 64 + int(seconds / 10)), WallClock(work)
        down.callback(disk.allow)
        page, engine = free_port(), soak_engine.build(work / "engine")
        ports = [program.port for program in cameras.values()]
        words = {"engine": engine, "silence": SILENCE, "cameras": ports, "events": disk.folder, "mqtt": post.port}
        (work / "station.toml").write_text(CONFIG.format(**words, hook=hook.port, page=page))
        folder = HotFolder(work / "hot", seed)
        station = Station(work / "station.toml", page, clock.environment)
        station.start()
        down.callback(station.end)
        folder.drop("good")
        wait(lambda: station.running(len(CAMERAS) + 1), 90, "the station gives no verdicts", station)
        yield Plant(station, cameras, post, hook, folder, disk, clock, random.Random(seed + 1)), listener


def wait(true: Callable[[], bool], seconds: float, what: str, station: Station) -> None:
    """Until something holds. Raises RuntimeError with the station's last words where it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline or station.died() is not None:
            raise RuntimeError(f"{what}: {station.life.words[-5:]}")
        time.sleep(0.05)


class _Run:
    """The loop that breaks and heals."""

    def __init__(self, plant: Plant, schedule: Schedule, began: float, say: Callable[[str], None]) -> None:
        self._plant, self._schedule, self._began, self._say = plant, schedule, began, say
        self._open: list[tuple[float, Fault, Happened, Callable[[], None]]] = []
        self._busy: dict[str, float] = {}
        self.faults: list[Happened] = []
        self.load: list[float] = []
        self.broken_until = 0.0

    def for_(self, seconds: float) -> None:
        """Break something every few seconds until the time is over, then heal all."""
        start = time.monotonic()
        next_fault, next_photo, next_sample, next_word = start + 5.0, start, start, start + 30.0
        while (now := time.monotonic()) < start + seconds:
            self._heal(now)
            if now >= next_photo:
                self._plant.folder.drop()
                next_photo = now + PHOTOS_EVERY
            if now >= next_sample:
                self._sample()
                next_sample = now + 2.0
            if now >= next_fault:
                next_fault = now + (self._plant.chance.uniform(2, 6) if self._break(now - start) else 0.5)
            if now >= next_word:
                self._progress(now - start, seconds)
                next_word = now + 30.0
            if (code := self._plant.station.died()) is not None:
                words = self._plant.station.life.words[-5:]
                raise RuntimeError(f"the station has ended by itself, exit code {code}: {words}")
            time.sleep(0.05)
        self._heal(float("inf"))
        self.broken_until = time.monotonic()

    def drain(self, listener: Listener) -> bool:
        """Whether everything was judged, stored and delivered in time, now that nothing is broken."""
        station, folder = self._plant.station, self._plant.folder
        deadline = time.monotonic() + DRAIN
        while time.monotonic() < deadline:
            self._sample()
            state = station.state()
            waits = [sink["waiting"] for sink in state.get("sinks", [])] + [state.get("store", {}).get("waiting", 1)]
            if set(folder.put) <= station.judged and len(waits) > 1 and not any(waits):
                time.sleep(2.0)  # the listener's own connection may be a second behind
                return True
            time.sleep(1.0)
        return False

    def _break(self, at: float) -> bool:
        now = time.monotonic()
        fault = self._schedule.next(at, {name for name, until in self._busy.items() if until > now})
        if fault is None:
            return False
        happened = Happened(fault.kind, fault.target, now)
        self.faults.append(happened)
        try:
            heal = fault.make(self._plant)
        except ImpossibleError as error:
            happened.skipped = str(error)
            return True
        lasts = self._plant.chance.uniform(*fault.seconds)
        self._say(f"{at:7.1f} s  {fault.kind} {fault.target}, {lasts:.1f} s")
        self._open.append((now + lasts, fault, happened, heal))
        self._busy |= dict.fromkeys(fault.touches, float("inf"))
        return True

    def _heal(self, now: float) -> None:
        for entry in [entry for entry in self._open if entry[0] <= now]:
            _, fault, happened, heal = entry
            heal()
            happened.healed = time.monotonic()
            self._busy |= dict.fromkeys(fault.touches, happened.healed + fault.settle)
            self._open.remove(entry)

    def _sample(self) -> None:
        station = self._plant.station
        station.running(len(CAMERAS))
        station.sample()
        self.load.append(os.getloadavg()[0])
        self._plant.folder.clear(station.judged)

    def _progress(self, at: float, seconds: float) -> None:
        verdicts = sum(len(life.said) for life in self._plant.station.lives)
        samples = self._plant.station.life.samples
        memory = f"{samples[-1].rss / 1e6:.0f} MB" if samples else "starting"
        sent = f"{len(self._plant.hook.got)} events at the webhook"
        self._say(f"{at:7.1f} s of {seconds:.0f}: {verdicts} verdicts, {len(self.faults)} faults, {sent}, {memory}")


def kept(folder: Path) -> Iterator[Kept]:
    """Every event of the store, in the order of ids, with what its photo shows."""
    database = Database(folder, readonly=True)
    try:
        found = database.find(Filter(newest=False, limit=10**9))
    finally:
        database.close()
    for event in found:
        photo = cv2.imread(str(folder / event.image)) if event.image else None
        number = None
        if photo is not None:
            flat = photo[:, :, ::-1].tolist()
            number = number_of(lambda x, y, flat=flat: tuple(flat[y][x]))  # type: ignore[misc]
        place = event.source, event.kind.value, event.state, event.seq, event.monotonic
        yield Kept(event.id, *place, event.path, photo is not None, number)


def numbers(path: Path) -> list[int]:
    """The frames that a camera has shown."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def machine(plant: Plant) -> dict[str, str]:
    """What it ran on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "mtkd-edge": __version__,
        "processor": model.partition(":")[2].strip() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "disk of the events": plant.disk.cannot or "tmpfs",
        "clock": plant.clock.cannot or "preloaded",
    }
