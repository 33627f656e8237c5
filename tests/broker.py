"""A real MQTT broker on loopback that can be killed and brought back, and somebody who listens to it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from soak_around import MOSQUITTO, answers, free_port
from store import until


class Broker:
    """mosquitto, with a disk behind it: what it has acknowledged it still has after a kill."""

    def __init__(self, folder: Path, password: str = "") -> None:
        if MOSQUITTO is None:
            reason = "no mosquitto here: scripts/install_test_tools.sh"
            if "mqtt" in os.environ.get("MTKD_REQUIRE", "").split(","):
                pytest.fail(reason)
            pytest.skip(reason)
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        lines = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"]
        lines += [
            "autosave_interval 1",
            "autosave_on_changes true",
            "allow_anonymous " + ("false" if password else "true"),
        ]
        lines += ["user root"] if os.geteuid() == 0 else []  # else it drops to a user that cannot write here
        if password:
            (folder / "users").write_text(f"line:{password}\n")
            (folder / "users").chmod(0o600)
            subprocess.run(["mosquitto_passwd", "-U", str(folder / "users")], check=True, capture_output=True)
            lines.append(f"password_file {folder / 'users'}")
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._config)], **quiet)
        until(lambda: answers(self.port))
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Listener:
    """A subscriber that lasts over the broker's outages: topics and bodies in the order of arrival."""

    def __init__(self, port: int, topic: str = "#", username: str = "", password: str = "") -> None:
        mqtt = pytest.importorskip("paho.mqtt.client")
        self.got: list[tuple[str, bytes]] = []
        self._ready = False
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        if username:
            self._client.username_pw_set(username, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda c, *rest: c.subscribe(topic, 1)
        self._client.on_subscribe = lambda *rest: setattr(self, "_ready", True)
        self._client.on_message = lambda c, d, m: self.got.append((m.topic, m.payload))
        self._client.connect("127.0.0.1", port, keepalive=5)
        self._client.loop_start()
        until(lambda: self._ready)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for topic, body in self.got if topic.endswith("/event")]

    def said(self, topic: str) -> list[str]:
        return [body.decode() for each, body in self.got if each == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
