"""A real RTSP camera on loopback is killed, frozen and brought back: every frame is accounted for, no outage is missed.

Needs GStreamer's RTSP server (scripts/install_test_tools.sh); skips without it, or fails with MTKD_REQUIRE=rtsp.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import line
import numpy as np
import pytest
from soak_around import free_port

from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.health import Condition, Event
from mtkd_edge.device.mailbox import OVERWRITTEN
from mtkd_edge.device.sources import SourceOptions, open_source
from mtkd_edge.device.sources.refusal import ask, reach
from mtkd_edge.device.summary import SourceSummary
from mtkd_edge.frames import Photo
from mtkd_edge.verdict import State, Verdict

SERVER = Path(__file__).with_name("rtsp_server.py")
PYTHON = "/usr/bin/python3"  # GStreamer's bindings are no wheel: only the system's interpreter has them
OPTIONS = SourceOptions(open_timeout=5, read_timeout=1, retry=0.1, retry_most=0.5)


@pytest.fixture(scope="module", autouse=True)
def gstreamer() -> None:
    needs = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer, Gst; "
    needs += "Gst.init(None); exit(0 if Gst.ElementFactory.find('x264enc') else 1)"
    try:
        found = subprocess.run([PYTHON, "-c", needs], capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        reason = "no GStreamer RTSP server here: scripts/install_test_tools.sh"
        if "rtsp" in os.environ.get("MTKD_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)


class Camera:
    """The server's process; it ends with this object at the latest."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"rtsp://operator:s3cret@127.0.0.1:{self.port}/line"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, width: int = 320, height: int = 240, login: str = "") -> float:
        command = [PYTHON, str(SERVER), str(self.port), str(width), str(height), *filter(None, [login])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return time.time()

    def signal(self, number: signal.Signals) -> float:
        assert self._process is not None
        self._process.send_signal(number)
        return time.time()

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    try:
        yield camera
    finally:
        camera.end()


class Watching:
    """A watch of one source in the background, with what it gave so far."""

    def __init__(self, address: str, engine: FakeEngine) -> None:
        self.verdicts: list[Verdict] = []
        self.photos: list[Photo] = []
        self.events: list[Event] = []
        self.summary: SourceSummary | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, engine), daemon=True)
        self._thread.start()

    def _keep(self, verdict: Verdict, photo: Photo | None, values: object) -> None:
        assert photo is not None
        self.verdicts.append(verdict)
        self.photos.append(photo[:2, :2].copy())
        self.shape = photo.shape

    def _run(self, address: str, engine: FakeEngine) -> None:
        source = open_source(address, options=OPTIONS)
        _, summary = line.run([source], engine, self._stop, [self._keep], self.events, silence=0.5)
        self.summary = summary.sources[0]

    def wait_for(self, count: int, seconds: float = 10) -> None:
        wanted = len(self.verdicts) + count
        deadline = time.monotonic() + seconds
        while len(self.verdicts) < wanted:
            assert time.monotonic() < deadline, f"{len(self.verdicts)} of {wanted} verdicts, {self.events}"
            assert self._thread.is_alive()
            time.sleep(0.02)

    def wait_for_event(self, what: str, seconds: float = 10) -> Event:
        deadline = time.monotonic() + seconds
        while not self.events or self.events[-1].what != what:
            assert time.monotonic() < deadline, f"no {what!r} in {self.events}"
            time.sleep(0.02)
        return self.events[-1]

    def finish(self) -> SourceSummary:
        self._stop.set()
        self._thread.join(10)
        assert self.summary is not None
        return self.summary


def test_a_killed_and_a_frozen_camera_are_noticed_reported_and_found_again(camera: Camera) -> None:
    camera.start()
    watching = Watching(camera.address, FakeEngine())
    watching.wait_for(25)

    killed = camera.signal(signal.SIGKILL)
    noticed = watching.wait_for_event("reconnecting")
    assert noticed.at - killed < 1.5
    time.sleep(1)
    camera.end()
    before = len(watching.verdicts)
    back = camera.start(480, 320)  # another size, as after a change of its settings
    watching.wait_for(25)
    assert watching.verdicts[before].captured - back < 2.5
    assert watching.shape == (320, 480, 3)

    frozen = camera.signal(signal.SIGSTOP)  # the connection lives and nothing comes: the hard case
    assert watching.wait_for_event("stalled").at - frozen < 1.5
    watching.wait_for_event("reconnecting")
    camera.end()
    camera.start()
    watching.wait_for(25)

    summary = watching.finish()
    assert summary.captured == summary.scored + summary.invalid + sum(summary.dropped.values())
    assert summary.invalid == 0
    assert len(watching.verdicts) == summary.scored
    assert summary.outage_count == len(summary.outages) == 2
    assert all(outage.over and outage.seconds > 1 for outage in summary.outages)
    assert abs(summary.outages[0].began - killed) < 1.5
    # a red picture is red in every frame, the first after a reconnect too, and none is black or made up
    assert all(photo[..., 0].min() > 180 and photo[..., 1:].max() < 80 for photo in watching.photos)
    assert [v.seq for v in watching.verdicts] == sorted({v.seq for v in watching.verdicts})
    assert "s3cret" not in f"{watching.verdicts} {watching.events} {summary}"


def test_a_camera_that_is_switched_on_later_is_waited_for(camera: Camera) -> None:
    watching = Watching(camera.address, FakeEngine())
    watching.wait_for_event("reconnecting")
    camera.start()
    watching.wait_for(5)
    summary = watching.finish()
    assert (summary.outage_count, summary.outages[0].reason) == (1, "no connection")


def test_looking_whether_a_camera_is_there_does_not_keep_ffmpeg_from_opening_it(camera: Camera) -> None:
    """DESCRIBE does: this server tears down what it has set up for us, and has no answer for FFmpeg meanwhile."""
    camera.start()
    for _ in range(5):
        assert reach(camera.address, 2) is None
        assert cv2.VideoCapture(camera.address, cv2.CAP_FFMPEG).isOpened()


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_a_camera_that_refuses_our_login_is_no_missing_camera(method: str, camera: Camera) -> None:
    camera.start(login=method)
    right, wrong = camera.address, camera.address.replace("s3cret", "wr0ng")
    assert ask(right, 2) is None
    refusal = ask(wrong, 2)
    assert refusal is not None and refusal.login and refusal.reason == "it refuses the login (401)"
    none = ask(right.replace("operator:s3cret@", ""), 2)
    assert none is not None and none.reason == "it wants a login (401), and the address has none"
    watching = Watching(wrong, FakeEngine())
    told = watching.wait_for_event("auth-failed")
    time.sleep(1.5)
    assert watching.events[-1] is told, "it is tried again slowly, lest the account is locked"
    assert watching.finish().condition is Condition.AUTH_FAILED
    assert "wr0ng" not in f"{watching.events} {watching.summary}"
    watching = Watching(right, FakeEngine())
    watching.wait_for(5)
    watching.finish()


def test_a_slow_engine_scores_the_newest_frame_of_a_fast_camera(camera: Camera) -> None:
    camera.start()
    watching = Watching(camera.address, FakeEngine(delay=0.12))  # 8 a second of the camera's 25
    watching.wait_for(20)
    summary = watching.finish()
    assert summary.captured == summary.scored + summary.dropped[OVERWRITTEN]
    assert summary.dropped[OVERWRITTEN] > summary.scored
    waits = [verdict.latency_ms["wait"] for verdict in watching.verdicts]
    assert np.median(waits) < 60  # one period of the camera is 40 ms


@contextmanager
def motion_jpeg(photos: list[np.ndarray]) -> Iterator[str]:
    """A camera that sends JPEGs over HTTP for ever, as most cheap ones do."""
    parts = [cv2.imencode(".jpg", photo[:, :, ::-1])[1].tobytes() for photo in photos]
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while not over.is_set():
                    for part in parts:
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                        self.wfile.write(head.encode() + part + b"\r\n")
                        over.wait(0.04)
            except (BrokenPipeError, ConnectionResetError):
                return  # the reader has gone

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stream"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_motion_jpeg_stream_over_http_is_a_camera() -> None:
    with motion_jpeg([line.part(20, size=128), line.part(20, defect=True, size=128)]) as address:
        watching = Watching(address, FakeEngine())
        watching.wait_for(20)
        summary = watching.finish()
    states = [verdict.state for verdict in watching.verdicts]
    assert {State.NORMAL, State.ANOMALOUS} == set(states)
    assert summary.captured == summary.scored + sum(summary.dropped.values())
