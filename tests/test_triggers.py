"""Who may say that a part is there: the page's server, MQTT, a controller; and the program as a whole."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import time
import urllib.request
from pathlib import Path

import factory
import line
import pytest
from broker import Broker, Listener
from page import shown
from program import started
from soak_around import answers, free_port
from store import until
from test_parts import BAD, Line, decisions, triggered
from test_station import station

from mtkd_edge.device.plc.modbus import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, Modbus
from mtkd_edge.device.plc.opcua_asyncua import OpcUa
from mtkd_edge.verdict import Verdict


def test_over_http_with_the_token_and_on_the_page_s_state(tmp_path: Path) -> None:
    source = line.Memory("top", [line.part()] * 100_000, live=True, period=0.01)
    with shown(tmp_path, [source], **triggered(rules={"fresh": 600})) as page:
        until(lambda: page.state()["lines"][0]["captured"] > 0)
        body = json.dumps({"source": "top", "part": "4711"}).encode()
        assert page.get("/api/trigger", token="", method="POST", body=body)[0] == 401
        assert page.get("/api/trigger", method="POST", body=b'{"source": "side"}')[0] == 400
        status, _, answer = page.get("/api/trigger", method="POST", body=body)
        assert (status, json.loads(answer)) == (200, {"part": "4711"})
        until(lambda: page.state()["lines"][0]["parts"] == 1)
        found = page.state()["lines"][0]
        assert (found["part"], found["state"], found["answer"]) == ("4711", "normal", "good")
        assert 'mtkd_edge_parts_total{source="top"} 1' in page.get("/metrics")[2].decode()
    assert [event.part for event in decisions(tmp_path)] == ["4711"]


def test_over_mqtt_and_the_decision_comes_back_as_an_event(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    listener = Listener(broker.port)
    settings = {"mqtt": {"host": "127.0.0.1", "port": broker.port, "topic": "mtkd/s", "trigger": True}}
    import paho.mqtt.publish as publish

    def send(topic: str, body: str, retain: bool = False) -> None:
        publish.single(topic, body, 0, retain, "127.0.0.1", broker.port)

    send("mtkd/s/top/trigger", "old", retain=True)
    told: list[object] = []
    source = line.Memory("top", [])
    running = station(tmp_path, [source], told, **triggered(), **settings)  # type: ignore[arg-type]
    try:
        until(lambda: not running.senders[0].trouble())
        time.sleep(0.3)
        send("mtkd/s/top/trigger", "4711")
        send("mtkd/s/top/trigger", "x" * 200)
        until(lambda: running.board.status("top").parts == 1)
        until(lambda: listener.events())
        assert [(event["part"], event["state"]) for event in listener.events()] == [("4711", "invalid")]
        until(lambda: any(getattr(event, "what", "") == "trigger refused" for event in told))
    finally:
        running.close()
        broker.kill()


def test_a_controller_triggers_by_a_coil_and_reads_the_part(tmp_path: Path) -> None:
    settings = {"modbus": {"address": "127.0.0.1:0", "trigger": True}}
    running = station(tmp_path, [line.Memory("top", [])], **triggered(), **settings)
    try:
        modbus = running.modbus
        assert modbus is not None
        read = struct.pack(">BHH", 3, 1000, 2)
        until(lambda: modbus.answer(read, "x") == struct.pack(">BBHH", 3, 4, 0, 0))
        press = struct.pack(">BHH", 5, 1000, 0xFF00)
        assert modbus.answer(press, "x") == press
        running.sink(Verdict("top", 0, time.time(), BAD, 0.9, 0.5), None, None)
        until(lambda: modbus.answer(read, "x") == struct.pack(">BBHH", 3, 4, 1, 2))
        assert modbus.answer(struct.pack(">BHH", 5, 1001, 0xFF00), "x") == bytes([0x85, ILLEGAL_ADDRESS])
        assert modbus.answer(struct.pack(">BHH", 5, 0, 0xFF00), "x") == bytes([0x85, ILLEGAL_FUNCTION])
        assert modbus.answer(struct.pack(">BHH", 3, 1000, 11), "x") == bytes([0x83, ILLEGAL_ADDRESS])
    finally:
        running.close()


async def call(port: int, part: str) -> str:
    import asyncua

    async with asyncua.Client(f"opc.tcp://127.0.0.1:{port}/") as client:
        space = await client.get_namespace_index("urn:mtkd-edge")
        method = client.get_node(f"ns={space};s=top.Trigger")
        return str(await client.get_node(f"ns={space};s=top").call_method(method, part))


@pytest.mark.filterwarnings("default")  # asyncua and what it stands on warn of their own future
def test_opc_ua_clients_trigger_by_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtkd_edge.device.plc.opcua_asyncua.START", 100.0)
    asyncua = pytest.importorskip("asyncua", reason="no asyncua: pip install 'mtkd-edge[opcua]'")
    parts = Line().parts
    port = free_port()
    server = OpcUa("127.0.0.1", port, "s", ["top"], parts.trigger)
    try:
        assert asyncio.run(call(port, "4711")) == "4711" and asyncio.run(call(port, "")) == "1"
        assert parts.waiting("top") == 2
        with pytest.raises(asyncua.ua.UaStatusCodeError):
            asyncio.run(call(port, "x" * 200))
    finally:
        server.close()


def test_without_leave_nobody_triggers() -> None:
    modbus = Modbus("127.0.0.1", 0, lambda source, who: None)
    try:
        modbus(())
        assert modbus.answer(struct.pack(">BHH", 5, 1000, 0xFF00), "x") == bytes([0x85, ILLEGAL_FUNCTION])
    finally:
        modbus.close()


CONFIG = """
engine = "{engine}"
[[source]]
address = "hot"
name = "top"
follow = true
[source.trigger]
ms = 60000
frames = 2
[events]
folder = "events"
[serve]
address = "127.0.0.1:{page}"
token_env = "PAGE_TOKEN"
"""


def test_the_program_decides_two_parts_and_one_without_a_frame(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'mtkd-edge[serve]'")
    plant = factory.build(tmp_path_factory.mktemp("plant"))
    (tmp_path / "hot").mkdir()
    page, token = free_port(), "a-token-of-this-test"
    (tmp_path / "station.toml").write_text(CONFIG.format(engine=plant.engine, page=page))

    def trigger(part: str) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{page}/api/trigger",
            json.dumps({"source": "top", "part": part}).encode(),
            {"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(json.loads(answer.read()) == {"part": part})

    def known() -> list[str]:
        return [event.part for event in decisions(tmp_path)] if (tmp_path / "events" / "events.db").exists() else []

    with started(tmp_path, "watch", "--config", "station.toml", PAGE_TOKEN=token) as process:
        until(lambda: answers(page))
        for part, photos in (("good", sorted(plant.photos.iterdir())), ("bad", sorted(plant.bad.iterdir()))):
            assert trigger(part)
            for photo in photos[:2]:
                shutil.copy(photo, tmp_path / "hot" / f"{part}-{photo.name}")
            until(lambda part=part: part in known())
        assert trigger("nothing")
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 0, err
    found = {event.part: event.state for event in decisions(tmp_path)}
    assert found["bad"] == "anomalous" and found["nothing"] == "invalid" and len(found) == 3
    assert found["good"] in ("normal", "anomalous")
