"""Events and answers by MQTT, with paho-mqtt (extra `mqtt`).

    <topic>/status            "online" | "offline"      retained; the broker itself says "offline" when we are gone
    <topic>/<line>/answer     "good" | "bad" | "invalid"  retained, QoS 0; what a display or a controller reads
    <topic>/<line>/trigger    heard, QoS 0: a part is there, the body is its id or nothing
    <topic>/<line>/event      JSON (`message.py`)       QoS 1: at least once, `id` tells a repetition

Traps of paho-mqtt, measured: while offline `publish()` reports failure and queues all the same, in memory and without
a limit, so nothing is published without a connection; a message on its way when the broker dies is sent again by paho,
so it is waited for and not published anew; `is_published()` raises for one that was never queued.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mtkd_edge.device.decisions.line import Answer
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.outbox import message
from mtkd_edge.device.outbox.channel import NotDelivered
from mtkd_edge.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import paho.mqtt.client as paho

ONLINE, OFFLINE = b"online", b"offline"
IN_FLIGHT = 20
GOODBYE = 1.0
"""Seconds for the last word, "offline"."""


Trigger = Callable[[str, str], None]
"""Called with a line's source and a part's id, "" for none; must not raise."""


def _unheard(source: str, part: str) -> None:
    """Nobody listens."""


class MqttOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`topic` is the prefix of all topics. `keepalive` and `timeout` in seconds: a station that hangs is declared dead
    by the broker after 1.5 times `keepalive`. `ca` is a file of certificates to trust besides the system's own.
    """

    host: str
    station: str
    topic: str
    port: int = 1883
    username: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""
    keepalive: int = 10
    timeout: float = 5.0
    root: Path | None = None


class Mqtt:
    """A channel (`channel.py`). Connects by itself, for ever. Raises MissingExtraError, UsageError for a bad `ca`."""

    def __init__(self, options: MqttOptions) -> None:
        mqtt = _paho()
        self.name = f"mqtt://{options.host}:{options.port}"
        self._options = options
        self._why = "not connected yet"
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._heard: dict[str, str] = {}
        self._trigger: Trigger = _unheard
        self._on_the_way: list[tuple[str, Any]] = []
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"mtkd-edge-{plain(options.station)}", clean_session=False
        )
        self._client.max_queued_messages_set(2 * IN_FLIGHT)
        self._client.reconnect_delay_set(1, 30)
        self._client.will_set(self._topic("status"), OFFLINE, 1, retain=True)
        if options.username:
            self._client.username_pw_set(options.username, options.password or None)
        if options.tls or options.ca:
            self._client.tls_set_context(_trusted(options.ca))
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_connect_fail = self._failed
        self._client.connect_async(options.host, options.port, options.keepalive)
        self._client.loop_start()

    @property
    def trouble(self) -> str:
        """Why there is no connection."""
        return "" if self._client.is_connected() else self._why

    def send(self, events: Sequence[Event]) -> int:
        """Publish up to IN_FLIGHT events and wait for the broker's receipts. Raises NotDelivered."""
        if not self._client.is_connected():
            raise NotDelivered(self._why)
        for event in events[:IN_FLIGHT]:
            if all(event.id != known for known, _ in self._on_the_way):
                body = message.encode(event, self._options.station, self._options.root)
                self._on_the_way.append((event.id, self._publish(f"{plain(event.source)}/event", body)))
        deadline = time.monotonic() + self._options.timeout
        done = 0
        for event in events[:IN_FLIGHT]:
            info = next(info for known, info in self._on_the_way if known == event.id)
            if not _received(info, deadline):
                break
            done += 1
        arrived = {event.id for event in events[:done]}
        self._on_the_way = [(known, info) for known, info in self._on_the_way if known not in arrived and not info.rc]
        if not done:
            raise NotDelivered(self._why or f"no receipt within {self._options.timeout:g} s")
        return done

    def answer(self, source: str, answer: Answer) -> None:
        """Publish what a line's answer has become; the newest ones again after each connection. Never waits."""
        with self._lock:
            changed = self._answers.get(source) is not answer
            self._answers[source] = answer
            if changed and self._client.is_connected():
                self._say(source, answer)

    def listen(self, sources: Sequence[str], trigger: Trigger) -> None:
        """Hear of parts on the lines of these sources.

        QoS 0, and nothing retained: a trigger that the broker had kept over an outage would be about a part long gone.
        """
        self._heard = {self._topic(f"{plain(source)}/trigger"): source for source in sources}
        self._trigger = trigger
        self._client.on_message = self._message
        if self._client.is_connected():
            self._subscribe()

    def close(self) -> None:
        """Say "offline" and leave; the broker's own word, the Last Will, is for those who cannot."""
        if self._client.is_connected():
            _received(self._publish("status", OFFLINE, retain=True), time.monotonic() + GOODBYE)
        self._client.disconnect()
        self._client.loop_stop()

    def _topic(self, rest: str) -> str:
        return f"{self._options.topic}/{rest}"

    def _publish(self, rest: str, body: bytes, retain: bool = False) -> paho.MQTTMessageInfo:
        info: paho.MQTTMessageInfo = self._client.publish(self._topic(rest), body, 1, retain)
        return info

    def _say(self, source: str, answer: Answer) -> None:
        """QoS 0: what is lost with a connection is said again after the next one, in its newest form.

        With QoS 1 paho repeats what was not acknowledged before the connection broke, and does so after `_connected`:
        an old "good" would then stand over a new "bad".
        """
        self._client.publish(self._topic(f"{plain(source)}/answer"), answer.value.encode(), 0, retain=True)

    def _connected(self, client: object, data: object, flags: object, reason: Any, properties: object) -> None:
        if reason.is_failure:
            self._why = f"the broker refused: {reason}"
            return
        self._why = ""
        self._publish("status", ONLINE, retain=True)
        self._subscribe()
        with self._lock:  # until they have left: an answer that changes meanwhile must come behind its old one
            for source, answer in self._answers.items():
                self._say(source, answer)

    def _subscribe(self) -> None:
        if self._heard:
            self._client.subscribe([(topic, 0) for topic in self._heard])

    def _message(self, client: object, data: object, message: Any) -> None:
        if not message.retain and message.topic in self._heard:
            self._trigger(self._heard[message.topic], message.payload.decode(errors="replace").strip())

    def _disconnected(self, client: object, data: object, flags: object, reason: Any, properties: object) -> None:
        # after a refusal the connection is closed as well: its reason is the better one
        self._why = self._why or f"disconnected: {reason}"

    def _failed(self, client: object, data: object) -> None:
        self._why = f"no connection to {self._options.host}:{self._options.port}"


def plain(name: str) -> str:
    """A source's name as one level of a topic, letters of any script: no wildcard, no further level."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "x"


def _received(info: Any, deadline: float) -> bool:
    """Whether the broker has said so before the deadline."""
    if info.rc:
        return False  # never left: there is no connection, or too much is on its way
    info.wait_for_publish(max(0.0, deadline - time.monotonic()))
    return bool(info.is_published())


def _trusted(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise UsageError(f"{ca} holds no certificates: {error}", "give a PEM file with ca = ...") from error


def _paho() -> Any:
    try:
        import paho.mqtt.client as mqtt
    except ModuleNotFoundError as error:
        raise MissingExtraError("paho-mqtt", "mqtt", "sending events by MQTT") from error
    return mqtt
