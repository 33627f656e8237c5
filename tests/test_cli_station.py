"""`watch --config` as a user runs it: a real engine, a real page, ways out that fail, and a canary that never sings."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time
import urllib.request
from pathlib import Path

import factory
import pytest
from factory import Factory
from program import started
from soak_around import free_port
from store import until

from mtkd_edge.cli import app
from mtkd_edge.device.events.database import Database

CANARY = "canary-7f3a9c"
CONFIG = """
station = "line 3"
engine = "{engine}"
[[source]]
address = "hot"
name = "top"
follow = true
[[source]]
address_env = "CAMERA"
[source.rules]
votes = 2
of = 3
[events]
folder = "events"
days = 30
[mqtt]
host = "127.0.0.1"
port = {port}
username = "line"
password_file = "secret"
[[webhook]]
url_env = "HOOK"
token_file = "secret"
[serve]
address = "127.0.0.1:{page}"
token_env = "PAGE_TOKEN"
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return factory.build(tmp_path_factory.mktemp("plant"))


def fetch(port: int, path: str, token: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        found: bytes = answer.read()
        return found


def test_a_station_runs_from_its_file_and_no_secret_is_ever_shown(plant: Factory, tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="no paho-mqtt: pip install 'mtkd-edge[mqtt]'")
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'mtkd-edge[serve]'")
    shutil.copytree(plant.bad, tmp_path / "hot")
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    page, token = free_port(), f"{CANARY}-and-longer"
    (tmp_path / "station.toml").write_text(CONFIG.format(engine=plant.engine, port=free_port(), page=page))
    secrets = {
        "CAMERA": f"rtsp://user:{CANARY}@127.0.0.1:{free_port()}/1?token={CANARY}",
        "HOOK": f"http://user:{CANARY}@127.0.0.1:{free_port()}/hook/?key={CANARY}",
        "PAGE_TOKEN": token,
    }
    with started(tmp_path, "watch", "--config", "station.toml", **secrets) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        state = json.loads(fetch(page, "/api/state", token))
        until(lambda: all(sink["failing"] for sink in json.loads(fetch(page, "/api/state", token))["sinks"]))
        shown = b"".join(fetch(page, path, token) for path in ("/api/state", "/metrics", "/", "/page.js"))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        took = time.monotonic() - began
    assert process.returncode == 0, err
    assert took < 5
    assert sum("anomalous" in line for line in lines) >= 4
    assert state["lines"][0]["source"] == "top"
    assert [sink["name"] for sink in state["sinks"]] == ["mqtt", "webhook"]
    assert "events wait on the disk" in err and f"http://127.0.0.1:{page}/\n" in err
    files = b"".join(path.read_bytes() for path in (tmp_path / "events").rglob("*") if path.is_file())
    for name, text in (("stdout", "".join(lines) + out), ("stderr", err), ("page", shown.decode())):
        assert CANARY not in text, name
    assert CANARY.encode() not in files
    assert len(files) > 10_000


@pytest.mark.parametrize("signals", [1, 2], ids=["drains", "now"])
def test_it_ends_in_time_although_a_server_hangs(signals: int, plant: Factory, tmp_path: Path) -> None:
    """Once: what is in hand is written within 5 seconds. Twice: at once."""
    shutil.copytree(plant.bad, tmp_path / "hot")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        text = f'engine = "{plant.engine}"\n[[source]]\naddress = "hot"\nfollow = true\n[events]\nfolder = "events"\n'
        (tmp_path / "station.toml").write_text(f'{text}[[webhook]]\nurl = "{url}"\ntimeout = 60\n')
        with started(tmp_path, "watch", "--config", "station.toml") as process:
            assert process.stdout is not None
            for _ in range(6):
                process.stdout.readline()
            time.sleep(0.5)
            for _ in range(signals):
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
            process.communicate()
            took = time.monotonic() - began
    assert (process.returncode, took < 5) == ((0, True) if signals == 1 else (130, True))
    assert signals == 1 or took < 1
    database = Database(tmp_path / "events", readonly=True)
    assert database.size().events >= 4
    database.close()


def test_the_token_that_was_made_is_shown_once(plant: Factory, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'mtkd-edge[serve]'")
    shutil.copytree(plant.bad, tmp_path / "hot")
    words = ("watch", "hot", "--follow", "--engine", str(plant.engine), "--serve", "127.0.0.1:0", "--json")
    with started(tmp_path, *words) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert len(re.findall(r"the page: http://127\.0\.0\.1:\d+/\?token=[\w-]{32}\n", err)) == 1, err


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (["--config", "{}/station.toml", "--follow"], '[[source]]\naddress = "0"\n', 2),
        (["--config", "{}/station.toml", "photos"], '[[source]]\naddress = "0"\n', 2),
        (["--config", "{}/station.toml"], "[[source]]\naddres = '0'\n", 2),
        (["--config", "{}/nothing.toml"], "", 2),
        (["--config", "{}/station.toml"], '[[source]]\naddress = "nowhere"\n', 7),
        (["{}/hot", "--follow", "--serve", "8080"], "", 2),
        (["{}/hot", "--follow", "--serve", "0.0.0.0:0"], "", 2),
        ([], "", 2),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_at_once(
    words: list[str],
    text: str,
    code: int,
    plant: Factory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "hot").mkdir()
    (tmp_path / "station.toml").write_text(text)
    monkeypatch.chdir(plant.root)
    assert app.run(["watch", *(word.format(tmp_path) for word in words)]) == code
    assert "error: " in capfd.readouterr().err
