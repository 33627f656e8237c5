"""From a section of the configuration to its channel, secrets fetched and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.outbox.mqtt_paho import Mqtt, MqttOptions, plain
from mtkd_edge.device.outbox.webhook import Webhook, WebhookOptions
from mtkd_edge.device.station.config import MqttConfig, WebhookConfig
from mtkd_edge.device.station.pulse import Output
from mtkd_edge.device.station.secrets import secret
from mtkd_edge.errors import UsageError


def mqtt(wanted: MqttConfig, station: str, base: Path, root: Path) -> Mqtt:
    """`root` is the folder of the events. Raises UsageError, or MissingExtraError without paho-mqtt."""
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


def follow(channel: Mqtt) -> Output:
    """The output that publishes what each line's answer has become."""

    def publish(statuses: Sequence[Status]) -> None:
        for status in statuses:
            channel.answer(status.source, status.answer)

    return publish


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
