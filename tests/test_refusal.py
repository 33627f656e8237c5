"""Why a stream gives no picture: silent, absent, or a refused login; by Basic and by Digest, over RTSP and HTTP."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mtkd_edge.device.sources.base import SourceOptions
from mtkd_edge.device.sources.live import Live
from mtkd_edge.device.sources.refusal import ask, reach

LOGIN = "user:p%40ss"
"""What is in an address is quoted; the password is p@ss."""


class Guarded:
    """A server of one request a connection, which asks for a login."""

    def __init__(self, challenge: str, realm: str = "cam", status: int = 401) -> None:
        self._challenge, self._status = challenge, status
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.heads: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()
        self.port = self._socket.getsockname()[1]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (chunk := connection.recv(4096)):
                    head += chunk
                self.heads.append(head.decode())
                connection.sendall(self._answer(head.decode()).encode())

    def _answer(self, head: str) -> str:
        version = "RTSP/1.0" if " RTSP/1.0" in head else "HTTP/1.1"
        if not self._challenge:
            return f"{version} {self._status} Whatever\r\n\r\n"
        if self._allowed(head):
            return f"{version} 200 OK\r\n\r\n"
        return f"{version} 401 Unauthorized\r\nWWW-Authenticate: {self._challenge}\r\n\r\n"

    def _allowed(self, head: str) -> bool:
        if "Authorization: Basic dXNlcjpwQHNz\r\n" in head:
            return True
        given = re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', head.partition("Authorization: Digest ")[2])
        words = {name: quoted or bare for name, quoted, bare in given}
        if not words:
            return False
        method, uri = head.split()[:2]
        one = hashlib.md5(b"user:cam:p@ss").hexdigest()
        two = hashlib.md5(f"{method}:{uri}".encode()).hexdigest()
        middle = f":{words['nc']}:{words['cnonce']}:{words['qop']}:" if "qop" in words else ":"
        return words["response"] == hashlib.md5(f"{one}:{words['nonce']}{middle}{two}".encode()).hexdigest()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def guarded(challenge: str, status: int = 401) -> Iterator[Guarded]:
    server = Guarded(challenge, status=status)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    "challenge",
    ['Basic realm="cam"', 'Digest realm="cam", nonce="abc"', 'Digest realm="cam", qop="auth-int, auth", nonce="a,b"'],
    ids=["basic", "digest", "digest with qop"],
)
def test_the_right_login_passes_and_a_wrong_one_is_told(scheme: str, challenge: str) -> None:
    with guarded(challenge) as server:
        place = f"127.0.0.1:{server.port}/stream?channel=2"
        assert ask(f"{scheme}://{LOGIN}@{place}", 2) is None
        wrong = ask(f"{scheme}://user:no@{place}", 2)
        assert wrong is not None and (wrong.reason, wrong.login) == ("it refuses the login (401)", True)
        none = ask(f"{scheme}://{place}", 2)
        assert none is not None and none.login and "the address has none" in none.reason
        first_line = server.heads[0].partition("\r\n")[0]
    assert "user" not in first_line and "channel=2" in first_line


@pytest.mark.parametrize(("status", "login"), [(200, None), (404, False), (454, False), (503, False), (403, True)])
def test_only_401_and_403_are_a_refused_login(status: int, login: bool | None) -> None:
    with guarded("", status) as server:
        refusal = ask(f"rtsp://{LOGIN}@127.0.0.1:{server.port}/1", 2)
    assert (refusal and refusal.login) == login
    assert login is not False or (refusal and refusal.reason == f"it answers, and gives no such stream ({status})")


@pytest.mark.parametrize("status", [404, 454, 503])
def test_whoever_is_asked_only_whether_it_is_there_is_there_whatever_it_says(status: int) -> None:
    with guarded("", status) as server:
        assert reach(f"rtsp://{LOGIN}@127.0.0.1:{server.port}/1", 2) is None


def test_a_host_that_is_silent_and_one_that_is_not_there_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refusal = ask(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/1", 0.2)
        port = silent.getsockname()[1]
    assert refusal is not None and (refusal.reason, refusal.login) == ("no answer", False)
    refusal = ask(f"rtsp://127.0.0.1:{port}/1", 0.2)
    assert refusal is not None and refusal.reason == "no connection"


@pytest.mark.parametrize(
    ("status", "again"), [(503, ["OPTIONS", "DESCRIBE"]), (401, ["DESCRIBE", "DESCRIBE"])], ids=["busy", "login"]
)
def test_only_where_our_login_was_refused_is_the_stream_described_before_ffmpeg_asks(
    status: int, again: list[str]
) -> None:
    """A server sets up its encoder for whoever asks, and has no answer for the next while it tears it down again."""
    told: list[object] = []
    with guarded('Basic realm="cam"' if status == 401 else "", status) as server:
        address = f"rtsp://user:no@127.0.0.1:{server.port}/1"
        live = Live("cam", address, False, SourceOptions(retry=0.01, retry_most=0.01, login_retry=0.01))

        def lost(*words: object) -> None:
            told.append(words[0])
            if len(told) == 4:
                live.close()

        assert list(live.frames(lost)) == []
        ours = [head.split()[0] for head in server.heads if "mtkd-edge" in head]
    first = ["DESCRIBE"] if status == 503 else ["DESCRIBE", "DESCRIBE"]  # without and with the login
    assert ours == first + again * 3, told


@pytest.mark.parametrize("address", ["udp://127.0.0.1:5000", "rtmp://cam/live", "rtsp://cam:99999/1", "rtsp://[::/1"])
def test_what_cannot_be_asked_is_left_to_ffmpeg(address: str) -> None:
    assert ask(address, 0.2) is None
