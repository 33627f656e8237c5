"""systemd's watchdog on a fake notify socket: fed while frames are scored, hungry while engine or camera hangs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import line
import pytest
from store import until
from test_parts import triggered
from test_station import station

from mtkd_edge.device.engine import Frames, Inference
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Health
from mtkd_edge.device.ledger import Ledger
from mtkd_edge.device.station.watchdog import Watchdog
from mtkd_edge.verdict import State

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "packaging" / "mtkd-edge.service"


class Systemd:
    """What sits at the other end of $NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.words: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while data := self._socket.recv(4096):
                self.words += data.decode().splitlines()
        except OSError:
            return  # closed at the end of the test

    def fed(self, seconds: float) -> int:
        """How often it is fed in that time."""
        before = self.words.count("WATCHDOG=1")
        time.sleep(seconds)
        return self.words.count("WATCHDOG=1") - before

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")  # fed every 0.1 s at most
    yield systemd
    systemd.close()


class Hanging(FakeEngine):
    """Scores until told to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def infer(self, frames: Frames) -> Inference:
        self.go.wait(20)
        return super().infer(frames)


class Camera(line.Memory):
    """Stops after so many frames: silently, or with word that it is gone."""

    def __init__(self, frames: int, away: bool) -> None:
        super().__init__("camera", [line.part()] * frames, live=True, period=0.01)
        self.away = away

    def frames(self, lost: Any = None) -> Any:
        yield from super().frames()
        if self.away:
            lost("no connection")
        self._closed.wait(20)


def watched(
    tmp_path: Path, camera: line.Memory, engine: FakeEngine, during: Any, silence: float = 0.2, **more: Any
) -> None:
    running, stop = station(tmp_path, [camera], silence=silence, **more), threading.Event()
    arguments = {"attach": running.attach, "silence": silence, "grace": 0.2}
    thread = threading.Thread(target=line.run, args=([camera], engine, stop, [running.sink]), kwargs=arguments)
    thread.start()
    try:
        during()
    finally:
        stop.set()
        thread.join(10)


def test_nothing_is_said_after_the_last_word(systemd: Systemd) -> None:
    ledger, health = Ledger({"a": True}), Health({"a": True}, silence=1.0)
    watchdog = Watchdog({"a": True}, 1.0)
    watchdog.attach(ledger, health)
    watchdog(())
    watchdog.stopping()
    time.sleep(0.15)  # a beat that is on its way would feed again now
    ledger.capture("a")
    ledger.settle("a", State.NORMAL)
    watchdog(())
    until(lambda: "STOPPING=1" in systemd.words)
    time.sleep(0.1)
    assert systemd.words[-1] == "STOPPING=1"


def test_it_is_fed_by_scored_frames_and_not_while_the_engine_hangs(tmp_path: Path, systemd: Systemd) -> None:
    engine = Hanging()

    def during() -> None:
        until(lambda: systemd.fed(0.2) >= 1)
        assert systemd.words[:2] == ["READY=1", "STATUS=watching"]
        assert 2 <= systemd.fed(1.0) <= 11
        engine.go.clear()
        time.sleep(0.3)
        assert systemd.fed(0.8) == 0, "frames come and none is scored"
        engine.go.set()
        until(lambda: systemd.fed(0.2) >= 1)

    watched(tmp_path, Camera(100_000, away=False), engine, during)
    until(lambda: systemd.words[-1] == "STOPPING=1")
    assert any(word.startswith("STATUS=") and word.endswith("camera good") for word in systemd.words)


def test_a_camera_that_is_known_to_be_away_is_no_reason_to_restart(tmp_path: Path, systemd: Systemd) -> None:
    def during() -> None:
        until(lambda: systemd.words.count("WATCHDOG=1") >= 1)
        time.sleep(0.8)
        assert systemd.fed(0.8) >= 2

    watched(tmp_path, Camera(30, away=True), FakeEngine(), during)


def test_it_is_fed_by_frames_of_a_triggered_line_while_no_part_comes(tmp_path: Path, systemd: Systemd) -> None:
    def during() -> None:
        until(lambda: systemd.words.count("WATCHDOG=1") >= 1)
        assert systemd.fed(1.0) >= 2

    watched(tmp_path, Camera(100_000, away=False), FakeEngine(), during, **triggered(address="camera"))


def test_a_camera_may_pause_for_as_long_as_was_set(tmp_path: Path, systemd: Systemd) -> None:
    def during() -> None:
        until(lambda: systemd.words.count("WATCHDOG=1") >= 1)
        time.sleep(0.5)
        assert systemd.fed(0.8) >= 2, "longer than the watchdog's time, and within the silence that was set"
        until(lambda: systemd.fed(0.8) == 0)

    watched(tmp_path, Camera(30, away=False), FakeEngine(), during, silence=2.0)


def test_a_camera_whose_driver_hangs_is(tmp_path: Path, systemd: Systemd) -> None:
    def during() -> None:
        until(lambda: systemd.words.count("WATCHDOG=1") >= 1)
        time.sleep(0.8)
        assert systemd.fed(0.8) == 0

    watched(tmp_path, Camera(30, away=False), FakeEngine(), during)


def test_a_folder_without_new_photos_is_idle(tmp_path: Path, systemd: Systemd) -> None:
    class Idle(line.Memory):
        def frames(self, lost: Any = None) -> Any:
            yield from super().frames()
            self._closed.wait(20)

    def during() -> None:
        until(lambda: systemd.words.count("WATCHDOG=1") >= 1)
        assert systemd.fed(0.8) >= 2

    watched(tmp_path, Idle("folder", [line.part()] * 3), FakeEngine(), during)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    def verify(text: str) -> subprocess.CompletedProcess[str]:
        unit = tmp_path / "mtkd-edge.service"
        # the program and the user are made when a station is set up
        unit.write_text(
            text.replace("/opt/mtkd-edge/bin/mtkd-edge", "/bin/true").replace("User=mtkd-edge", "User=nobody")
        )
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
        environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = verify(UNIT.read_text())
    assert (done.returncode, done.stderr) == (0, "")
    assert verify(UNIT.read_text().replace("WatchdogSec=30", "WatchdogSecs=30")).stderr
