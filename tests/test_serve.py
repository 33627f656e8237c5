"""The page: who may look, what it says, and that the scorer never waits for whoever looks."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import line
import msgspec
import numpy as np
import pytest
from page import TOKEN, Shown, shown
from store import MAKER, until, verdict

from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.serve import metrics
from mtkd_edge.device.serve import state as states
from mtkd_edge.device.serve.access import access, is_loopback
from mtkd_edge.device.serve.pictures import fitting
from mtkd_edge.errors import MissingExtraError, UsageError
from mtkd_edge.verdict import Region


def camera(name: str = "camera", frames: int = 3000, period: float = 0.01) -> line.Memory:
    """Every 50th part is bad, every 70th frame cannot be read."""
    good, bad = line.part(size=320), line.part(defect=True, size=320)
    photos = [None if n % 70 == 60 else bad if n % 50 == 20 else good for n in range(frames)]
    return line.Memory(name, photos, live=True, period=period)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    sources = [camera("<b>top</b>"), line.Memory("photos", [line.part()] * 5)]
    with shown(tmp_path_factory.mktemp("page"), sources, rules={"latch": True}) as running:
        until(lambda: complete(running.state()))
        yield running


def complete(state: dict[str, Any]) -> bool:
    """Whether every kind of frame has come by, and an alarm is listed: a busy machine drops some of them."""
    top, photos = state["lines"]
    listed = state["events"] and state["events"][0]["open"] and state["store"]["events"] >= 2
    return bool(top["invalid"] and top["anomalous"] and photos["condition"] == "ended" and listed)


def test_the_state_holds_lines_ledger_events_and_latency(running: Shown) -> None:
    state = running.state()
    top, photos = state["lines"]
    assert (state["station"], state["engine"], state["engine_sha"]) == ("line 3", "engines/part-cpu", "ab" * 32)
    assert top["captured"] == top["scored"] + top["invalid"] + top["waiting"] + sum(top["dropped"].values())
    assert (top["answer"], top["latched"], top["condition"], top["threshold"]) == ("bad", True, "running", 0.5)
    assert {row[2] for row in top["history"]} == {"normal", "anomalous", "invalid"}
    assert {"decode", "wait", "resize", "infer", "post", "total"} <= top["latency"].keys()
    assert all(median <= worst for median, worst in top["latency"].values())
    assert (photos["answer"], photos["captured"], photos["condition"]) == ("good", 5, "ended")
    assert state["store"]["events"] >= 2 and state["store"]["failing"] == ""
    assert state["events"][0]["open"] is True


def test_pictures_are_of_the_newest_frame_and_of_events(running: Shown) -> None:
    status, headers, data = running.get("/api/frame/0.jpg")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (320, 320, 3)
    bad = next(each["event"] for each in running.state()["events"] if each["event"]["image"])
    status, _, data = running.get(f"/api/event/{bad['id']}.jpg")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    # the defect is white; its heat, at twice the threshold, is yellow: little blue
    blue, _, red = picture[100, 220].astype(int)
    assert status == 200 and red - blue > 60


@pytest.mark.parametrize(
    "path",
    [
        "/api/frame/9.jpg",
        f"/api/event/{'0' * 26}.jpg",
        "/api/event/..%2F..%2Fetc%2Fpasswd.jpg",
        "/nothing",
        "/api/frame/x.jpg",
    ],
)
def test_what_is_not_there_is_404(path: str, running: Shown) -> None:
    assert running.get(path)[0] == 404


def test_an_alarm_is_acknowledged_on_the_page(running: Shown) -> None:
    alarm = next(each["event"]["id"] for each in running.state()["events"] if each["open"])
    body = json.dumps({"id": alarm, "by": "Ada"}).encode()
    assert running.get("/api/acknowledge", method="POST", body=body)[0] == 200
    assert running.get("/api/acknowledge", method="POST", body=body)[0] == 400
    for wrong in (b"", b"{}", b'{"id": "x"}', b'{"id": "x", "sql": 1}', b'{"id": "\xff"}', b"x" * 10_000):
        assert running.get("/api/acknowledge", method="POST", body=wrong)[0] == 400
    assert running.get("/api/trigger", method="POST", body=b'{"source": "\xff"}')[0] == 400
    until(lambda: all(each["event"]["id"] != alarm or not each["open"] for each in running.state()["events"]))
    assert running.get("/api/acknowledge")[0] == 405


def test_without_the_token_only_health_is_answered(running: Shown) -> None:
    for path in ("/api/state", "/metrics", "/api/frame/0.jpg", "/page.js", f"/api/event/{'0' * 26}.jpg", "/x"):
        assert running.get(path, token="")[0] == 401
        assert running.get(path, token="wrong-wrong-wrong")[0] == 401
    assert running.get("/api/acknowledge", token="", method="POST")[0] == 401
    assert running.get("/healthz", token="")[0] == 200
    status, headers, _ = running.get("/", token="")
    assert (status, headers["location"]) == (303, "/login")
    assert running.get("/login", token="")[0] == 200


def test_the_token_becomes_a_cookie_and_leaves_the_address(running: Shown) -> None:
    for answer in (
        running.get(f"/?token={TOKEN}", token=""),
        running.get("/login", token="", method="POST", body=f"token={TOKEN}".encode()),
    ):
        status, headers, _ = answer
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert running.get("/api/state", token="", Cookie=cookie.partition(";")[0])[0] == 200
    status, _, body = running.get("/login", token="", method="POST", body=b"token=wrong")
    assert status == 403 and b"not the token" in body


def test_the_page_loads_nothing_from_elsewhere_and_says_so_to_the_browser(running: Shown) -> None:
    for path in ("/", "/page.js", "/page.css", "/login"):
        status, headers, body = running.get(path)
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        links = re.findall(rb"https?://[^\s\"')]+", body)
        assert [link for link in links if link != b"http://www.w3.org/2000/svg"] == []
    assert b"innerHTML" not in running.get("/page.js")[2]


def test_ready_is_a_frame_that_was_really_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "READY", 0.4)

    class Pausing(line.Memory):
        def frames(self, lost: Any = None) -> Any:
            self._closed.wait(0.6)
            yield from super().frames()
            self._closed.wait(20)

    with shown(tmp_path, [Pausing("camera", [line.part()] * 60, live=True, period=0.01)]) as running:
        assert running.get("/readyz", token="")[0] == 503
        assert running.get("/healthz", token="")[0] == 200
        until(lambda: running.get("/readyz", token="")[0] == 200)
        until(lambda: running.get("/readyz", token="")[0] == 503)
        running.page.watcher.viewfinder(line.run([line.Memory("camera", [None])])[0][0], None, None)
        assert running.get("/readyz", token="")[0] == 503, "what could not be judged was not scored"
        assert json.loads(running.get("/readyz", token="")[2]) == {"ready": False, "sources": [False]}


def test_the_metrics_are_prometheus_text_with_every_figure_of_the_ledger(running: Shown) -> None:
    status, headers, body = running.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for row in body.decode().splitlines():
        if row.startswith("# TYPE"):
            _, _, name, kind = row.split()
            assert name not in kinds, "a name is grouped once"
            kinds[name] = kind
        elif not row.startswith("#"):
            found = re.fullmatch(r'(mtkd_edge_\w+)(\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\}) (\S+)', row)
            assert found, row
            assert kinds[found[1]] == ("counter" if found[1].endswith("_total") else "gauge")
            samples[found[1] + found[2]] = float(found[3])
    top = '{source="<b>top</b>"}'
    parts = [samples[f"mtkd_edge_frames_{what}{top}"] for what in ("scored_total", "invalid_total", "waiting")]
    prefix = 'mtkd_edge_frames_dropped_total{source="<b>top'
    dropped = sum(value for name, value in samples.items() if name.startswith(prefix))
    assert samples[f"mtkd_edge_frames_captured_total{top}"] == sum(parts) + dropped
    assert samples['mtkd_edge_source_condition{source="photos",condition="ended"}'] == 1
    assert samples["mtkd_edge_process_resident_bytes{}"] > 1e6
    # these appear with the first drop or loss, the first decoder that died, the first trigger, or the first sink
    seldom = ("dropped_total", "lost_total", "replaced_total", "part_windows_total")
    later = {name for name in metrics.HELP if name.startswith("sink_") or name.endswith(seldom)}
    assert {name.removeprefix("mtkd_edge_") for name in kinds} - later == set(metrics.HELP) - later


def rate(running: Shown) -> float:
    """Verdicts a second."""
    first, began = running.station.board.status("camera").sequence, time.monotonic()
    time.sleep(1.0)
    return (running.station.board.status("camera").sequence - first) / (time.monotonic() - began)


def test_those_who_look_never_hold_up_the_scorer_and_are_bounded(tmp_path: Path) -> None:
    source = line.Memory("camera", [line.part(size=512)] * 10_000, live=True, period=0.02)
    serve = {"address": "127.0.0.1:0", "token_file": "token", "viewers": 2}
    with shown(tmp_path, [source], serve) as running:
        until(lambda: running.station.board.status("camera").sequence > 5)
        alone = rate(running)
        hanging = [socket.create_connection(("127.0.0.1", running.page.server.port)) for _ in range(60)]
        for each in hanging:  # a request that never ends, and nobody who reads
            each.sendall(b"GET /api/state HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        watched = rate(running)
        for each in hanging:
            each.close()
        assert watched > 0.5 * alone > 0
        until(lambda: running.get("/healthz", token="")[0] == 200)


def test_pictures_beyond_the_number_of_viewers_are_refused(running: Shown) -> None:
    held = [running.page.pages._viewers.acquire(blocking=False) for _ in range(8)]
    assert all(held)
    try:
        assert running.get("/api/frame/0.jpg")[0] == 503
        assert running.get("/api/state")[0] == 200
    finally:
        for _ in held:
            running.page.pages._viewers.release()
    assert running.get("/api/frame/0.jpg")[0] == 200


def test_who_may_listen_where() -> None:
    assert access("127.0.0.1", "", open_=False).made and len(access("::1", "", open_=False).token) >= 24
    assert access("127.0.0.1", "", open_=True).allows("")
    assert access("0.0.0.0", "x" * 16, open_=False).token == "x" * 16
    for host, token, open_ in (
        ("0.0.0.0", "", False),
        ("0.0.0.0", "", True),
        ("::", "", False),
        ("::1", "short", False),
    ):
        with pytest.raises(UsageError):
            access(host, token, open_=open_)
    with pytest.raises(UsageError, match="one of them"):
        access("127.0.0.1", "x" * 16, open_=True)
    assert is_loopback("localhost") and not is_loopback("192.168.0.7")
    with pytest.raises(UsageError, match="no address of this machine"):
        is_loopback("no.such.name.invalid")


def test_an_open_page_answers_to_no_foreign_name(tmp_path: Path) -> None:
    """A foreign site may point its own name at 127.0.0.1; without a token its host name is what gives it away."""
    with shown(tmp_path, [camera(frames=5)], {"address": "127.0.0.1:0", "open": True}) as running:
        assert running.get("/api/state", token="")[0] == 200
        assert running.get("/api/state", token="", Host="evil.example")[0] == 421
        assert running.get("/", token="", Host="localhost:1234")[0] == 200


def test_no_other_page_can_use_an_open_one(tmp_path: Path) -> None:
    """A browser sends any page's POST to 127.0.0.1, and says from where; a program that is no browser says nothing."""
    with shown(tmp_path, [camera(frames=5)], {"address": "127.0.0.1:0", "open": True}) as running:
        own = f"127.0.0.1:{running.page.server.port}"
        for origin, status in (("", 400), (f"http://{own}", 400), ("https://evil.example", 403), ("null", 403)):
            words = {"Host": own} | ({"Origin": origin} if origin else {})
            assert running.get("/api/trigger", token="", method="POST", body=b"{}", **words)[0] == status


def test_boxes_of_an_event_are_where_they_were_although_its_photo_was_shrunk(tmp_path: Path) -> None:
    photo = np.zeros((2880, 3840, 3), np.uint8)
    region = Region((400, 300, 80, 60), 4800, 0.9, (440, 330))
    seen = msgspec.structs.replace(verdict(), regions=(region,))
    event, coded = MAKER.make(Draft(Kind.ALARM, seen, photo, None, Clock().stamp()))
    kept = cv2.imdecode(np.frombuffer(coded.image, np.uint8), cv2.IMREAD_COLOR)
    assert (kept.shape, event.frame) == ((1440, 1920, 3), (3840, 2880))
    assert [region.box for region in fitting(event, kept)] == [(200, 150, 40, 30)]
    assert fitting(msgspec.structs.replace(event, frame=(0, 0)), kept) == ()


def test_a_port_that_is_taken_and_a_missing_extra_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serve = {"address": f"127.0.0.1:{taken.getsockname()[1]}", "open": True}
        with pytest.raises(UsageError, match="cannot listen"), shown(tmp_path, [camera(frames=1)], serve):
            pass
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtraError, match="starlette"), shown(tmp_path / "b", [camera(frames=1)]):
        pass
