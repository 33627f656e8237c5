"""From a section of the configuration to its channel, secrets fetched and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.decisions.line import STALE, Answer
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.outbox.mqtt_paho import Mqtt, MqttOptions, plain
from mtkd_edge.device.outbox.webhook import Webhook, WebhookOptions
from mtkd_edge.device.station.config import MqttConfig, WebhookConfig
from mtkd_edge.device.station.secrets import secret
from mtkd_edge.device.task import Task
from mtkd_edge.errors import UsageError

TICK = 0.1


def mqtt(wanted: MqttConfig, station: str, sources: Sequence[str], base: Path, root: Path) -> Mqtt:
    """`root` is the folder of the events. Raises UsageError, or MissingExtraError without paho-mqtt."""
    known: dict[str, str] = {}
    for name in sources:
        if (other := known.setdefault(plain(name), name)) != name:
            what = f"by MQTT {name!r} and {other!r} would have one topic, {plain(name)!r}, and one answer"
            raise UsageError(what, 'name = "camera-1" in each [[source]]')
    options = MqttOptions(
        host=wanted.host,
        station=station,
        topic=wanted.topic or f"mtkd/{plain(station)}",
        port=wanted.port,
        username=wanted.username,
        password=secret("password", wanted.password_file, wanted.password_env, base),
        tls=wanted.tls,
        ca=str(base / wanted.ca) if wanted.ca else "",
        keepalive=wanted.keepalive,
        root=root if wanted.pictures else None,
    )
    return Mqtt(options)


class Answers:
    """An output (`pulse.py`): publishes what each line's answer has become, and `invalid` once nobody beats.

    paho's own thread keeps the connection alive whatever happens to us, so the broker's Last Will does not come then.
    """

    def __init__(self, channel: Mqtt, sources: Sequence[str]) -> None:
        self._channel, self._sources = channel, tuple(sources)
        self._lock, self._closing, self._beaten_at = threading.Lock(), threading.Event(), time.monotonic()
        self._task = Task("mqtt answers", self._watch)

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat. Raises what the watching thread died of."""
        if self._task.error is not None:
            raise self._task.error
        with self._lock:
            self._beaten_at = time.monotonic()
            for status in statuses:
                self._channel.answer(status.source, status.answer)

    def close(self) -> None:
        """The station ends: no answer stands any more."""
        self._closing.set()
        self._task.join(1.0)
        self._invalid()

    def _watch(self) -> None:
        while not self._closing.wait(TICK):
            with self._lock:
                if time.monotonic() - self._beaten_at > STALE:
                    self._invalid()

    def _invalid(self) -> None:
        for source in self._sources:
            self._channel.answer(source, Answer.INVALID)


def webhook(wanted: WebhookConfig, station: str, base: Path, root: Path, clock: Clock) -> Webhook:
    """`root` is the folder of the events. Raises UsageError for an address that is none."""
    url = wanted.url or secret("url", wanted.url_file, wanted.url_env, base)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"the url of webhook {wanted.name!r} does not begin with http:// or https://", "url_file")
    options = WebhookOptions(
        url=url,
        station=station,
        token=secret("token", wanted.token_file, wanted.token_env, base),
        timeout=wanted.timeout,
        headers=wanted.headers,
        root=root if wanted.pictures else None,
    )
    return Webhook(options, clock)
