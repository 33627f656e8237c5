"""What stands in station.toml. Strict: an unknown key, a wrong type or a value out of range names its place.

Paths in the file start at the file's own folder. Secrets are not in it: `<key>_file` or `<key>_env` say where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mtkd_edge.device.decisions.focus import FocusSpec
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.decisions.window import Trigger
from mtkd_edge.device.plc.gpio_gpiod import GpioConfig
from mtkd_edge.errors import UsageError
from mtkd_edge.files import UNREADABLE

NAME = r"^[^\x00-\x1f]{0,100}$"
What = Literal["alarms", "events"]
"""`alarms`: alarms and their acknowledgements; `events`: every anomalous or invalid frame as well."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `[[source]]`: anything `watch` takes, or a file or variable that holds the address with its password."""

    address: str = ""
    address_file: str = ""
    address_env: str = ""
    name: Annotated[str, msgspec.Meta(pattern=NAME)] = ""
    follow: bool = False
    rules: Rules | None = None
    focus: FocusSpec = FocusSpec()
    trigger: Trigger | None = None

    def __post_init__(self) -> None:
        given = [key for key in ("address", "address_file", "address_env") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"one of address, address_file and address_env is wanted, got {given or 'none'}")


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[events]`: where they are kept, which verdicts become one, and for how long: the first limit that is reached."""

    folder: str
    keep: Literal["events", "all"] = "events"
    gigabytes: float = 10.0
    days: float | None = None

    def __post_init__(self) -> None:
        if not 0.001 <= self.gigabytes <= 1e6:
            raise ValueError(f"gigabytes lies between 0.001 and a million, got {self.gigabytes}")
        if self.days is not None and not 0 < self.days <= 36500:
            raise ValueError(f"days lies above 0 and at most at 36500, got {self.days}")


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[mqtt]`: a broker. `topic` defaults to mtkd/<station>; `pictures` sends the photo along, in base64.

    `trigger`: whoever may publish to <topic>/<source>/trigger says that a part is there.
    """

    host: str
    port: int = 1883
    topic: str = ""
    username: str = ""
    password_file: str = ""
    password_env: str = ""
    tls: bool = False
    ca: str = ""
    keepalive: int = 10
    what: What = "events"
    pictures: bool = False
    trigger: bool = False

    def __post_init__(self) -> None:
        _port(self.port)
        if not 2 <= self.keepalive <= 3600:
            raise ValueError(f"keepalive lies between 2 and 3600 seconds, got {self.keepalive}")
        if set(self.topic) & set("+#\0") or self.topic.startswith("$"):
            raise ValueError(f"a topic has no +, # or leading $, got {self.topic!r}")


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `[[webhook]]`: an address that takes POSTs. `name` tells several apart, also in what each has sent."""

    name: str = "webhook"
    url: str = ""
    url_file: str = ""
    url_env: str = ""
    token_file: str = ""
    token_env: str = ""
    timeout: float = 5.0
    headers: dict[str, str] = {}
    what: What = "events"
    pictures: bool = False

    def __post_init__(self) -> None:
        if len([key for key in ("url", "url_file", "url_env") if getattr(self, key)]) != 1:
            raise ValueError("one of url, url_file and url_env is wanted")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("url begins with http:// or https://")
        if not 0.1 <= self.timeout <= 60:
            raise ValueError(f"timeout lies between 0.1 and 60 seconds, got {self.timeout}")


class ModbusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[modbus]`: a server that a controller reads. By writing coils it may acknowledge alarms (`acknowledge`) and say
    that a part is there (`trigger`).
    """

    address: str = "127.0.0.1:1502"
    acknowledge: bool = False
    trigger: bool = False

    def __post_init__(self) -> None:
        split(self.address)


class OpcUaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[opcua]`: a server that a controller or a SCADA system reads and subscribes to. `trigger`: and where it calls a
    method to say that a part is there.
    """

    address: str = "127.0.0.1:4840"
    trigger: bool = False

    def __post_init__(self) -> None:
        split(self.address)


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[serve]`: the page. Without a token of yours one is made and shown at the start, on loopback only.

    `open`: no token at all, on loopback only. `viewers` may watch the pictures at once.
    """

    address: str = "127.0.0.1:8080"
    token_file: str = ""
    token_env: str = ""
    open: bool = False
    viewers: int = 8

    def __post_init__(self) -> None:
        split(self.address)
        if not 1 <= self.viewers <= 64:
            raise ValueError(f"viewers lies between 1 and 64, got {self.viewers}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `rules` hold for every source, but for what its own say. `silence`: when a camera is stalled."""

    station: str = "station"
    engine: str = ""
    source: tuple[Source, ...]
    rules: Rules = Rules()
    silence: float = 0.9
    events: Events | None = None
    mqtt: MqttConfig | None = None
    webhook: tuple[WebhookConfig, ...] = ()
    modbus: ModbusConfig | None = None
    opcua: OpcUaConfig | None = None
    gpio: GpioConfig | None = None
    serve: Serve | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("at least one [[source]] is wanted")
        if (self.mqtt or self.webhook) and self.events is None:
            raise ValueError("mqtt and webhook send what [events] keeps: add [events] with a folder")
        if self.events is None and any((each.rules or self.rules).latch for each in self.source):
            raise ValueError("latch wants [events]: an alarm is acknowledged as one of them")
        if self.events is None and any(each.trigger for each in self.source):
            raise ValueError("[source.trigger] wants [events]: the decision about a part is one of them")
        names = [each.name for each in self.webhook]
        if len({*names, "mqtt"}) <= len(names):
            raise ValueError('webhooks want names that differ, also from "mqtt"')
        if not 0.1 <= self.silence <= 3600:
            raise ValueError(f"silence lies between 0.1 and 3600 seconds, got {self.silence}")


def read(path: Path) -> Config:
    """A configuration file. Raises UsageError naming the file and the place in it."""
    try:
        return msgspec.convert(_completed(msgspec.toml.decode(path.read_bytes())), Config)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "--config station.toml") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}", _hint(str(error))) from error
    except UNREADABLE as error:
        raise UsageError(f"{path} is no TOML: {error}", "strings in quotes, sections in [brackets]") from error


def _completed(given: Any) -> Any:
    """The rules of a source say what is different there: the rest is that of `[rules]`, a latch above all."""
    common, sources = (given.get(key) for key in ("rules", "source"))
    for source in sources if isinstance(common, dict) and isinstance(sources, list) else ():
        if isinstance(source, dict) and isinstance(own := source.get("rules"), dict):
            source["rules"] = {**common, **own}
    return given


def _hint(message: str) -> str:
    for word in ("password", "token"):
        if f"unknown field `{word}`" in message:
            return f"a {word} is not written here: {word}_file = PATH or {word}_env = VARIABLE"
    return "docs/operations.md lists every key"


def split(address: str) -> tuple[str, int]:
    """HOST:PORT -> host (an IPv6 address without its brackets) and port; port 0 is any. Raises ValueError."""
    host, found, port = address.rpartition(":")
    if not (found and host and port.isdecimal()):
        raise ValueError(f"an address is HOST:PORT, such as 127.0.0.1:8080, got {address!r}")
    _port(int(port))
    return host.strip("[]"), int(port)


def _port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise ValueError(f"a port lies between 0 and 65535, got {port}")
