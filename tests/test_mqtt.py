"""Events by MQTT through a real broker that is killed and brought back: all arrive, in order, and death is noticed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import store
from broker import Broker, Listener
from store import recorder, settle, until, verdict

from mtkd_edge.device import health
from mtkd_edge.device.decisions.board import Board
from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.outbox import mqtt_paho
from mtkd_edge.device.outbox.channel import NotDelivered
from mtkd_edge.device.outbox.mqtt_paho import Mqtt, MqttOptions
from mtkd_edge.device.outbox.sender import Sender, SenderOptions
from mtkd_edge.device.station.config import MqttConfig
from mtkd_edge.device.station.ways_out import Answers, mqtt
from mtkd_edge.errors import MissingExtraError, UsageError
from mtkd_edge.verdict import State, Verdict

FAST = SenderOptions(first=0.05, longest=0.2)
STATION = """
import sys, time
from pathlib import Path
import store
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.outbox.mqtt_paho import Mqtt, MqttOptions
from mtkd_edge.device.outbox.sender import Sender, SenderOptions
root, port, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store.recorder(root).close()
sender = Sender("mqtt", root, Mqtt(MqttOptions(host="127.0.0.1", port=port, station="s", topic="mtkd/s", keepalive=2)),
                SenderOptions(first=0.05, longest=0.2))
keeper = store.recorder(root, RecorderOptions(lossless=True), listeners=(sender.heard,))
for seq in range(first, first + 20):
    keeper(store.verdict(seq), None, None)
store.settle(keeper)
print("written", flush=True)
time.sleep(60)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    pytest.importorskip("paho.mqtt.client", reason="no paho-mqtt: pip install 'mtkd-edge[mqtt]'")
    broker = Broker(tmp_path / "broker")
    yield broker
    broker.kill()


def options(broker: Broker, **more: object) -> MqttOptions:
    return MqttOptions(host="127.0.0.1", port=broker.port, station="s", topic="mtkd/s", **more)  # type: ignore[arg-type]


def test_every_event_arrives_in_order_although_the_broker_is_killed(broker: Broker, tmp_path: Path) -> None:
    listener = Listener(broker.start().port)
    told: list[health.Event] = []
    recorder(tmp_path / "events").close()
    sender = Sender("mqtt", tmp_path / "events", Mqtt(options(broker)), FAST, told.append)
    keeper = recorder(tmp_path / "events", RecorderOptions(lossless=True), listeners=(sender.heard,))
    for seq in range(60):
        keeper(verdict(seq, source="cam #1"), None, None)
        if seq == 20:
            until(lambda: len(listener.events()) == 21)
            broker.kill()
        if seq == 50:
            settle(keeper)
            until(lambda: sender.failing)
            broker.start()
    until(lambda: len({event["id"] for event in listener.events()}) == 60)
    keeper.close()
    sender.close()
    listener.close()
    events = listener.events()
    first_seen = list(dict.fromkeys(event["seq"] for event in events))
    assert first_seen == list(range(60)), "in order, repetitions aside"
    assert len(events) - 60 <= mqtt_paho.IN_FLIGHT
    assert {topic for topic, _ in listener.got if topic.endswith("event")} == {"mtkd/s/cam-1/event"}
    assert events[0]["station"] == "s" and events[0]["state"] == "anomalous"
    assert [event.what for event in told] == ["failing", "recovered"]
    assert (sender.lost, sender.failing) == ({}, "")


def test_what_a_killed_station_had_not_sent_is_sent_by_the_next_one(broker: Broker, tmp_path: Path) -> None:
    def station(first: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", STATION, str(tmp_path / "events"), str(broker.port), str(first)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent)
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        return process

    victim = station(0)  # no broker is there: everything waits on the disk
    victim.kill()
    victim.communicate()
    listener = Listener(broker.start().port)
    victim = station(20)
    try:
        until(lambda: len({event["id"] for event in listener.events()}) == 40)
        assert list(dict.fromkeys(event["seq"] for event in listener.events())) == list(range(40))
        assert listener.said("mtkd/s/status")[-1] == "online"
        began = time.monotonic()
        victim.kill()
        until(lambda: listener.said("mtkd/s/status")[-1] == "offline")
        assert time.monotonic() - began < 3, "the broker itself says so: within 1.5 times the keepalive of 2 s"
    finally:
        victim.kill()
        victim.communicate()
        listener.close()


def test_answers_and_the_goodbye_are_retained_for_who_comes_later(broker: Broker) -> None:
    channel = Mqtt(options(broker.start()))
    channel.answer("camera/1", Answer.GOOD)
    until(channel._client.is_connected)
    for answer in (Answer.GOOD, Answer.INVALID, Answer.BAD, Answer.BAD):
        channel.answer("camera/1", answer)
    time.sleep(0.2)
    channel.close()
    late = Listener(broker.port)
    until(lambda: len(late.got) == 2)
    late.close()
    assert dict(late.got) == {"mtkd/s/status": b"offline", "mtkd/s/camera-1/answer": b"bad"}


def test_no_good_stands_when_the_beats_stop_nor_after_the_end(broker: Broker) -> None:
    board = Board({"a": Rules(), "b": Rules()})
    board.step(Verdict("a", 0, 0.0, State.NORMAL, 0.3, 0.5))
    channel = Mqtt(options(broker.start()))
    until(channel._client.is_connected)
    listener = Listener(broker.port)
    answers = Answers(channel, ["a", "b"])
    for _ in range(2):
        answers([board.status(source) for source in board.sources])
        until(lambda: listener.said("mtkd/s/a/answer")[-1:] == ["good"])
        began = time.monotonic()
        until(lambda: listener.said("mtkd/s/a/answer")[-1:] == ["invalid"])
        assert time.monotonic() - began < 2.5
    answers([board.status(source) for source in board.sources])
    answers.close()
    channel.close()
    until(lambda: listener.said("mtkd/s/status")[-1:] == ["offline"])
    listener.close()
    assert listener.said("mtkd/s/a/answer") == ["good", "invalid"] * 3
    assert listener.said("mtkd/s/b/answer") == ["invalid"]


def test_sources_that_would_share_a_topic_are_refused(tmp_path: Path) -> None:
    wanted = MqttConfig(host="127.0.0.1")
    with pytest.raises(UsageError, match="'cam 1' and 'cam/1' would have one topic") as refused:
        mqtt(wanted, "s", ["cam/1", "other", "cam 1"], tmp_path, tmp_path)
    assert refused.value.hint.startswith("name = ")


def test_the_newest_answer_is_published_again_after_an_outage(broker: Broker) -> None:
    channel = Mqtt(options(broker.start()))
    until(channel._client.is_connected)
    channel.answer("a", Answer.GOOD)
    broker.kill()
    until(lambda: not channel._client.is_connected())
    with pytest.raises(NotDelivered, match="disconnected"):
        channel.send([store.event("0" * 26)])
    channel.answer("a", Answer.BAD)
    listener = Listener(broker.start().port)
    until(lambda: listener.said("mtkd/s/a/answer")[-1:] == ["bad"])
    channel.close()
    listener.close()


def test_an_answer_that_changes_while_the_old_ones_are_said_again_comes_last(broker: Broker) -> None:
    channel = Mqtt(options(broker.start()))
    said: list[Answer] = []
    changing: list[threading.Thread] = []

    def say(source: str, answer: Answer) -> None:
        if not changing:  # the line goes bad just before its old answer leaves
            changing.append(threading.Thread(target=channel.answer, args=(source, Answer.BAD)))
            changing[0].start()
            changing[0].join(0.3)
        said.append(answer)

    packets = pytest.importorskip("paho.mqtt.packettypes")
    connected = pytest.importorskip("paho.mqtt.reasoncodes").ReasonCode(packets.PacketTypes.CONNACK)
    until(lambda: channel._client.is_connected())
    channel.answer("cam", Answer.GOOD)
    channel._say = say  # type: ignore[method-assign]
    channel._connected(None, None, None, connected, None)
    changing[0].join(5)
    channel.close()
    assert said == [Answer.GOOD, Answer.BAD]


def test_a_wrong_password_is_told_and_never_shown(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    broker = Broker(tmp_path, password="s3cret").start()
    try:
        right = Mqtt(options(broker, username="line", password="s3cret"))
        until(right._client.is_connected)
        assert right.send([store.event("0" * 26)]) == 1
        right.close()
        wrong = Mqtt(options(broker, username="line", password="canary"))
        until(lambda: "refused" in wrong._why)
        with pytest.raises(NotDelivered, match=r"the broker refused: Not authorized") as caught:
            wrong.send([store.event("0" * 26)])
        assert "canary" not in str(caught.value) + wrong.name
        wrong.close()
    finally:
        broker.kill()


def test_without_a_broker_it_says_so_and_closes_at_once(broker: Broker) -> None:
    channel = Mqtt(options(broker))
    until(lambda: "no connection" in channel._why)
    began = time.monotonic()
    channel.close()
    assert time.monotonic() - began < 1.5


def test_certificates_that_are_none_are_refused(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(UsageError, match="holds no certificates"):
        Mqtt(options(broker, ca=str(tmp_path / "ca.pem")))


def test_without_paho_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError) as caught:
        Mqtt(MqttOptions(host="h", station="s", topic="t"))
    assert "mtkd-edge[mqtt]" in caught.value.hint


def test_names_of_sources_are_one_level_of_a_topic() -> None:
    assert [mqtt_paho.plain(name) for name in ("/dev/video0", "rtsp://***@cam/1", "a+b#c", "上", "下/1", "")] == [
        "dev-video0",
        "rtsp-cam-1",
        "a-b-c",
        "上",
        "下-1",
        "x",
    ]
