"""What surrounds the station in a soak: cameras, a broker and who listens to it, a webhook's receiver, a hot folder."""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from soak_picture import SIDE, picture

PYTHON = "/usr/bin/python3"
"""GStreamer's bindings are no wheel: only the system's interpreter has them."""
MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until_it_answers(port: int, what: str, seconds: float = 30.0) -> None:
    """Raises RuntimeError where nobody listens in time."""
    deadline = time.monotonic() + seconds
    while not answers(port):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} does not listen on port {port} after {seconds:g} s")
        time.sleep(0.02)


class Program:
    """A program that can be started, signalled and started again."""

    def __init__(self, command: list[str], port: int, what: str) -> None:
        self.command, self.port, self.what = command, port, what
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """-> the monotonic time at which it listens."""
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere)
        until_it_answers(self.port, self.what)
        return time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Nothing where it does not run."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Gone when this returns."""
        if self.process is not None:
            self.send(signal.SIGCONT)
            self.send(number)
            self.process.communicate()
            self.process = None


def camera(folder: Path, number: int, began: float) -> Program:
    """Camera 1, 2, ...: its defects come at other times than those of the others."""
    port, script = free_port(), Path(__file__).with_name("soak_camera.py")
    words = [str(port), repr(began), str(offset(number)), str(folder / f"shown-{number}")]
    return Program([PYTHON, str(script), *words], port, f"camera {number}")


def offset(number: int) -> int:
    """By how many frames a camera's defects are shifted."""
    return 17 * number


def broker(folder: Path) -> Program:
    """mosquitto, which keeps what it has taken over a stop."""
    if MOSQUITTO is None:
        raise RuntimeError("no mosquitto here: scripts/install_test_tools.sh")
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder}/",
    ]
    lines += ["autosave_interval 1", "autosave_on_changes true", "max_queued_messages 0"]
    lines += ["user root"] if os.geteuid() == 0 else []  # else it drops to a user that cannot write here
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    return Program([MOSQUITTO, "-c", str(folder / "mosquitto.conf")], port, "the broker")


class Listener:
    """A subscriber that lasts over the broker's outages; `got` counts deliveries by event id."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.got: Counter[str] = Counter()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="soak", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *rest: client.subscribe("mtkd/#", 1)
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", port, keepalive=5)
        self._client.loop_start()

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, client: object, data: object, message: Any) -> None:
        if message.topic.endswith("/event"):
            self.got[json.loads(message.payload)["id"]] += 1


class Hook:
    """A webhook's receiver. `mode`: "ok", "fail" (HTTP 500) or "hang" (no answer while it lasts)."""

    def __init__(self) -> None:
        self.got: Counter[str] = Counter()
        self.mode = "ok"
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                while hook.mode == "hang":
                    time.sleep(0.1)
                good = hook.mode == "ok"
                try:
                    self.send_response(200 if good else 500)
                    self.end_headers()
                except OSError:
                    return  # the sender's patience was over: it has not been told, and comes again
                if good:
                    hook.got[json.loads(body)["id"]] += 1

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the report does."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """No more requests."""
        self.mode = "ok"
        self._server.shutdown()
        self._server.server_close()


class HotFolder:
    """Photos arrive, each by a rename: good ones, ones with a defect, broken ones. What has aged is taken away."""

    KEEP = 60.0
    BROKEN = ("truncated", "noise", "text", "empty")

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir()
        self._folder, self._chance, self._count = folder, random.Random(seed), 0
        self.put: dict[str, str] = {}
        """Path of every photo that was put there -> "good", "bad" or "broken"."""
        self._since: dict[str, float] = {}

    def drop(self, kind: str = "") -> None:
        """One more photo, of a kind by chance where none is asked for."""
        kind = kind or self._chance.choices(("good", "bad", "broken"), (6, 2, 2))[0]
        self._count += 1
        pixels = np.frombuffer(picture(self._count, kind == "bad"), np.uint8).reshape(SIDE, SIDE, 3)
        data = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
        if kind == "broken":
            how = self._chance.choice(self.BROKEN)
            noise = self._chance.randbytes(2000)
            data = {"truncated": data[: len(data) // 2], "noise": noise, "text": b"no photo\n", "empty": b""}[how]
        path = self._folder / f"{self._count:06d}-{kind}.png"
        hidden = path.with_name(f".{path.name}")
        hidden.write_bytes(data)
        hidden.rename(path)
        self.put[str(path)] = kind
        self._since[str(path)] = time.monotonic()

    def clear(self, judged: set[str]) -> None:
        """Take away what has aged and was judged, as whoever owns the folder does: it must not grow for ever."""
        now = time.monotonic()
        for path, since in list(self._since.items()):
            if now - since > self.KEEP and path in judged:
                Path(path).unlink()
                del self._since[path]
