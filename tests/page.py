"""A station with a page, running in the test's own process, and the requests of somebody who looks at it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import line
import msgspec
import pytest

from mtkd_edge.device import health
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.station.config import Config
from mtkd_edge.device.station.station import Judge, Station
from mtkd_edge.device.watch import WatchOptions, watch

TOKEN = "a-token-of-the-test"
JUDGE = Judge(line.MANIFEST, line.THRESHOLD, "ab" * 32)


@dataclass
class Shown:
    """What runs. `get` and `post` are requests with the token."""

    station: Station
    page: Any
    stop: threading.Event

    def get(self, path: str, token: str = TOKEN, method: str = "GET", body: bytes = b"", **headers: str) -> Any:
        """(status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.server.port, timeout=10)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def state(self) -> dict[str, Any]:
        status, _, body = self.get("/api/state")
        assert status == 200
        return msgspec.json.decode(body)  # type: ignore[no-any-return]


@contextmanager
def shown(
    tmp_path: Path, sources: Sequence[line.Memory], serve: dict[str, Any] | None = None, **more: Any
) -> Iterator[Shown]:
    """The station with its page, watching until the end of the block."""
    pytest.importorskip("starlette", reason="no starlette: pip install 'mtkd-edge[serve]'")
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'mtkd-edge[serve]'")
    from mtkd_edge.device.serve.open import Page

    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "token").write_text(TOKEN)
    wanted = {"address": "127.0.0.1:0", "token_file": "token"} if serve is None else serve
    given = {
        "source": [{"address": source.name} for source in sources],
        "events": {"folder": "events"},
        "serve": wanted,
    }
    config = msgspec.convert({"station": "line 3", **given, "serve": wanted, **more}, Config)
    assert config.serve is not None
    stop = threading.Event()
    station = Station(config, tmp_path, JUDGE, sources, health.untold)
    page = Page(config.serve, tmp_path, station, JUDGE, config.station, "engines/part-cpu", [s.live for s in sources])
    options = WatchOptions(focus=station.focus, attach=station.attach)
    sinks = [station.sink, page.watcher.viewfinder]
    arguments = (FakeEngine(), line.MANIFEST, line.THRESHOLD, sources, sinks, stop, options)
    thread = threading.Thread(target=watch, args=arguments)
    thread.start()
    try:
        yield Shown(station, page, stop)
    finally:
        stop.set()
        thread.join(10)
        page.close()
        station.close()
