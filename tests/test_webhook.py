"""Events by HTTP: a real server that answers 500, asks to wait, hangs and dies; the outbox behind it loses nothing."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import line
import pytest
import store
from store import recorder, until, verdict

from mtkd_edge.device import health
from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.outbox import sender as senders
from mtkd_edge.device.outbox.channel import NotDelivered, Refused
from mtkd_edge.device.outbox.sender import Sender, SenderOptions
from mtkd_edge.device.outbox.webhook import LONGEST, Webhook, WebhookOptions

FAST = SenderOptions(first=0.02, longest=0.1)


class Server:
    """A real HTTP server on loopback; `reply` says the status and headers of each request, or hangs."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.reply: Callable[[int], tuple[int, dict[str, str]]] = lambda number: (200, {})
        outer, count = self, iter(range(10**9))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = outer.reply(next(count))
                if status == 200:
                    outer.got.append((dict(self.headers), json.loads(body)))
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    return  # the sender has given up meanwhile

            def log_message(self, *words: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=canary"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def seqs(self) -> list[int]:
        return [body["seq"] for _, body in self.got]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def webhook(url: str, **more: Any) -> Webhook:
    return Webhook(WebhookOptions(url=url, station="s", **{"timeout": 3.0, **more}), Clock())


def station(root: Path, channel: Any, options: SenderOptions = FAST, told: list[health.Event] | None = None):  # type: ignore[no-untyped-def]
    recorder(root).close()
    sender = Sender("hook", root, channel, options, health.untold if told is None else told.append)
    keeper = recorder(root, RecorderOptions(lossless=True), listeners=(sender.heard,))
    return keeper, sender


def test_an_event_is_one_post_with_its_id_its_token_and_its_photo(server: Server, tmp_path: Path) -> None:
    channel = webhook(server.url, token="s3cret", headers={"X-Line": "7"}, root=tmp_path)
    keeper, sender = station(tmp_path, channel)
    keeper(verdict(5), line.part(defect=True), store.MAP)
    until(lambda: server.got)
    keeper.close()
    sender.close()
    ((headers, body),) = server.got
    assert headers["Idempotency-Key"] == body["id"] and headers["Authorization"] == "Bearer s3cret"
    assert (headers["X-Line"], headers["Content-Type"]) == ("7", "application/json")
    assert (body["station"], body["seq"], body["state"], body["score"]) == ("s", 5, "anomalous", 0.9)
    assert base64.b64decode(body["image_jpeg"]) == (tmp_path / body["image"]).read_bytes()
    assert channel.name.endswith("/hook?token=***")


def test_500s_hangs_and_a_dead_server_delay_events_and_lose_none(server: Server, tmp_path: Path) -> None:
    told: list[health.Event] = []
    replies = [(500, {}), (200, {}), (503, {"Retry-After": "0"}), (200, {}), (408, {}), (429, {})]
    hang = threading.Event()

    def reply(number: int) -> tuple[int, dict[str, str]]:
        if number in (6, 7):
            hang.wait(2)
        return replies[number] if number < len(replies) else (200, {})

    server.reply = reply
    keeper, sender = station(tmp_path, webhook(server.url, timeout=0.7), told=told)
    for seq in range(10):
        keeper(verdict(seq), None, None)
    until(lambda: len(set(server.seqs())) == 10)
    hang.set()
    assert list(dict.fromkeys(server.seqs())) == list(range(10))
    server.stop()
    keeper(verdict(10), None, None)
    until(lambda: sender.failing)
    assert "Connection refused" in sender.failing and "canary" not in sender.failing
    assert sender.waiting() == 1
    keeper.close()
    sender.close()
    assert sender.lost == {}
    assert [event.what for event in told][:2] == ["failing", "recovered"]
    assert told[0].reason == "HTTP 500; events wait on the disk"


def test_a_hanging_server_never_holds_up_the_scorer(server: Server, tmp_path: Path) -> None:
    go, scored = threading.Event(), []
    server.reply = lambda number: (200, {}) if go.wait(60) else (500, {})
    keeper, sender = station(tmp_path, webhook(server.url, timeout=30))
    source = line.Memory("folder", [line.part(defect=True)] * 100)
    _, summary = line.run([source], sinks=[keeper, lambda v, p, m: scored.append(go.is_set())])
    assert scored == [False] * 100 and summary.sinks[1].lost == {}
    began = time.monotonic()
    sender.close()
    assert time.monotonic() - began < senders.PATIENCE + 3
    go.set()
    assert sender.waiting() > 0, "they are on the disk, for the next start"


def test_what_is_refused_for_good_is_counted_and_does_not_hold_up_the_rest(server: Server, tmp_path: Path) -> None:
    told: list[health.Event] = []
    server.reply = lambda number: (422, {}) if number == 0 else (413, {}) if number == 1 else (200, {})
    keeper, sender = station(tmp_path, webhook(server.url), told=told)
    for seq in range(4):
        keeper(verdict(seq), None, None)
    until(lambda: len(server.got) == 2)
    keeper.close()
    sender.close()
    assert server.seqs() == [2, 3]
    assert sender.lost == {"refused: HTTP 422": 1, "refused: HTTP 413": 1}
    assert [event.reason for event in told] == ["refused: HTTP 422", "refused: HTTP 413"]


@pytest.mark.parametrize("code", [307, 401, 403, 404, 405])
def test_a_way_that_is_wrong_loses_nothing_once_it_is_mended(code: int, server: Server, tmp_path: Path) -> None:
    told: list[health.Event] = []
    server.reply = lambda number: (code, {"Location": server.url})
    keeper, sender = station(tmp_path, webhook(server.url), told=told)
    for seq in range(3):
        keeper(verdict(seq), None, None)
    until(lambda: sender.failing == f"HTTP {code}")
    server.reply = lambda number: (200, {})
    until(lambda: sender.sent == 3)
    keeper.close()
    sender.close()
    assert server.seqs() == [0, 1, 2] and not sender.lost
    assert [event.what for event in told] == ["failing", "recovered"]


def test_alarms_alone_are_alarms_and_what_was_said_to_them(server: Server, tmp_path: Path) -> None:
    sender = Sender("calls", tmp_path, webhook(server.url), SenderOptions(what="alarms"))
    kinds = [Kind.VERDICT, Kind.PART, Kind.ALARM, Kind.ACKNOWLEDGED]
    sender.heard([store.event(f"{number:026}", kind=kind) for number, kind in enumerate(kinds)], False)
    until(lambda: sender.sent == 2)
    sender.close()
    assert [body["kind"] for _, body in server.got] == ["alarm", "acknowledged"]


def test_the_server_may_ask_to_be_left_alone_for_a_while(server: Server) -> None:
    channel = webhook(server.url)
    for given, wanted in (("7", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", 0), ("999999", LONGEST)):
        server.reply = lambda number, given=given: (503, {"Retry-After": given})  # type: ignore[misc]
        with pytest.raises(NotDelivered, match="HTTP 503") as caught:
            channel.send([store.event("0" * 26)])
        assert caught.value.after == wanted
    server.reply = lambda number: (400, {})
    with pytest.raises(Refused):
        channel.send([store.event("0" * 26)])


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(NotDelivered, match="timed out"):
            webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3).send([store.event("0" * 26)])
        assert time.monotonic() - began < 2
