"""station.toml: every wrong key is refused with its place, and secrets stay where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.station import config
from mtkd_edge.device.station.secrets import secret
from mtkd_edge.errors import UsageError

FULL = """
station = "line 1"
engine = "engines/part-cpu"
silence = 0.5

[[source]]
address = "/dev/video0"
name = "top"
[source.rules]
votes = 2
of = 3
release = 3.1
latch = true
alarm_every = 10
fresh = 1.5
[source.focus]
look = [[0.1, 0.1, 0.8, 0.8], [[0, 0], [1, 0], [0, 1]]]
ignore = [[0.4, 0.4, 0.1, 0.1]]
mask = "mask.png"
mm_per_pixel = 0.05

[[source]]
address_env = "CAMERA_2"
follow = true

[events]
folder = "events"
gigabytes = 2.5
days = 90

[mqtt]
host = "broker"
username = "line"
password_file = "secrets/mqtt"
tls = true
what = "alarms"

[[webhook]]
url = "https://mes.example/hook"
token_env = "MES_TOKEN"
headers = { "X-Line" = "1" }

[serve]
address = "[::1]:8080"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "station.toml"
    path.write_text(text)
    return path


def test_everything_that_can_be_said_is_understood(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, FULL))
    top, second = found.source
    assert top.rules is not None and (top.rules.votes, top.rules.of, top.rules.fresh) == (2, 3, 1.5)
    assert top.focus.look[1] == ((0, 0), (1, 0), (0, 1)) and second.rules is None
    assert found.events is not None and found.events.keep == "events"
    assert found.mqtt is not None and (found.mqtt.port, found.mqtt.what) == (1883, "alarms")
    assert found.serve is not None and config.split(found.serve.address) == ("::1", 8080)


LEAST = '[[source]]\naddress = "0"\n'
EVENTS = '[events]\nfolder = "e"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing required field `source`"),
        ("source = []", "at least one"),
        (LEAST + "speed = 3", r"unknown field `speed` - at `\$.source\[0\]`"),
        ("colour = 1\n" + LEAST, "unknown field `colour`"),
        (LEAST + 'address_env = "A"', r"one of address.*\$.source\[0\]"),
        ("[[source]]\nname = 'a'", "one of address"),
        (LEAST + "[source.rules]\nvotes = 4\nof = 3", r"1 <= votes <= of.*\$.source\[0\].rules"),
        (LEAST + "[source.rules]\nvotes = 'two'", r"Expected `int`, got `str` - at `\$.source\[0\].rules.votes`"),
        (LEAST + "[source.focus]\nlook = [[0, 0, 2, 1]]", r"inside the picture.*focus"),
        (LEAST + "[rules]\nlatch = true", r"latch wants \[events\]"),
        (LEAST + "[events]\nfolder = 'e'\ndays = 0", r"days.*\$.events"),
        (LEAST + "[events]\nfolder = 'e'\ngigabytes = 0", "gigabytes"),
        (LEAST + "[mqtt]\nhost = 'b'", r"add \[events\]"),
        (LEAST + EVENTS + "[mqtt]\nhost = 'b'\nport = 70000", r"port.*\$.mqtt"),
        (LEAST + EVENTS + "[mqtt]\nhost = 'b'\nkeepalive = 0", "keepalive"),
        (LEAST + EVENTS + "[mqtt]\nhost = 'b'\ntopic = 'a/#'", "topic"),
        (LEAST + EVENTS + "[mqtt]\nhost = 'b'\nwhat = 'all'", r"Invalid enum value 'all' - at `\$.mqtt.what`"),
        (LEAST + EVENTS + "[[webhook]]\nurl = 'ftp://x'", "http:// or https://"),
        (LEAST + EVENTS + "[[webhook]]\nname = 'x'", "one of url"),
        (LEAST + EVENTS + "[[webhook]]\nurl = 'http://x'\ntimeout = 0", "timeout"),
        (LEAST + EVENTS + "[[webhook]]\nurl = 'http://x'\n[[webhook]]\nurl = 'http://y'", "names that differ"),
        (LEAST + "[serve]\naddress = '8080'", r"HOST:PORT.*\$.serve"),
        (LEAST + "[serve]\nviewers = 0", "viewers"),
        (LEAST + "[modbus]\naddress = 'plc'", r"HOST:PORT.*\$.modbus"),
        ("silence = 0\n" + LEAST, "silence"),
        ("station = ", "is no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        config.read(write(tmp_path, text))
    assert "station.toml" in caught.value.message and caught.value.hint


def test_a_password_in_the_file_is_refused_with_the_way_to_do_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.read(write(tmp_path, LEAST + EVENTS + '[mqtt]\nhost = "b"\npassword = "canary"'))
    assert "password_file" in caught.value.hint and "canary" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        config.read(tmp_path / "nothing.toml")


def test_a_secret_is_one_line_of_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("s3cret\n")
    monkeypatch.setenv("VARIABLE", "other")
    assert secret("password", "file", "", tmp_path) == "s3cret"
    assert secret("password", str(tmp_path / "file"), "", Path("elsewhere")) == "s3cret"
    assert secret("password", "", "VARIABLE", tmp_path) == "other"
    assert secret("password", "", "", tmp_path) == ""


def test_a_secret_that_is_not_there_is_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two").write_text("canary\ncanary\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"canary\xff")
    monkeypatch.delenv("NOBODY_SET_THIS", raising=False)
    for file, env, message in (
        ("two", "", "more than one line"),
        ("empty", "", "empty or not set"),
        ("binary", "", "no text"),
        ("nothing", "", "cannot be read"),
        ("", "NOBODY_SET_THIS", "NOBODY_SET_THIS"),
        ("two", "HOME", "both set"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            secret("password", file, env, tmp_path)
        assert "canary" not in str(caught.value)


def test_the_rules_of_a_source_say_what_differs_from_those_of_the_station(tmp_path: Path) -> None:
    path = tmp_path / "station.toml"
    path.write_text(
        "[rules]\nlatch = true\nvotes = 2\nof = 3\n[events]\nfolder = 'e'\n"
        "[[source]]\naddress = 'a'\n[source.rules]\nvotes = 3\nfresh = 5.0\n[[source]]\naddress = 'b'\n"
    )
    found = config.read(path)
    first, second = found.source
    assert first.rules == Rules(votes=3, of=3, latch=True, fresh=5.0)
    assert (second.rules, found.rules) == (None, Rules(votes=2, of=3, latch=True))
