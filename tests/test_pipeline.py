"""GStreamer pipelines as sources: right pictures, every end told and tried again, no process left behind.

Those with the real GStreamer, and a GenICam camera (GigE Vision, Aravis' own fake one) need the packages of
scripts/install_test_tools.sh; they skip without them, or fail with MTKD_REQUIRE=gstreamer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mtkd_edge.device.sources import SourceOptions, open_source
from mtkd_edge.device.sources.base import Captured, Loss
from mtkd_edge.device.sources.pipeline import Pipeline
from mtkd_edge.errors import SourceError

OPTIONS = SourceOptions(open_timeout=5, read_timeout=0.5, retry=0.05, retry_most=0.05)
RED = "videotestsrc is-live=true pattern=red ! video/x-raw,format=RGB,width=321,height=17,framerate=50/1"
CAMERA = "arv-fake-gv-camera-0.8"

LAUNCHED = """\
#!{python}
import os, pathlib, sys, time
out = int(sys.argv[-1].removeprefix("fd="))
for word in sys.argv[2:sys.argv.index("!")]:
    if word == "wait":
        time.sleep(60)
    elif word.startswith("say="):
        print(word[4:].replace("_", " "), flush=True)
    else:
        data = pathlib.Path(word).read_bytes()
        while data:
            data = data[os.write(out, data[:1000]):]
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gst-launch-1.0 that writes files into the pipe, says words, or waits."""
    program = tmp_path / "bin" / "gst-launch-1.0"
    program.parent.mkdir()
    program.write_text(LAUNCHED.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gstreamer() -> None:
    needed(shutil.which("gst-launch-1.0") is not None, "gst-launch-1.0")


def needed(there: bool, what: str) -> None:
    if not there and "gstreamer" in os.environ.get("MTKD_REQUIRE", "").split(","):
        pytest.fail(f"no {what} here: scripts/install_test_tools.sh")
    if not there:
        pytest.skip(f"no {what} here: scripts/install_test_tools.sh")


def pnm(photo: np.ndarray) -> bytes:
    height, width, _ = photo.shape
    return b"P6\n%d %d\n255\n" % (width, height) + photo.tobytes()


def some(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read(text: str, losses: int, most: int = 10**6) -> tuple[list[Captured], list[str]]:
    """Frames and reasons, up to so many of either."""
    source, told = Pipeline("line", text, OPTIONS), list[str]()

    def lost(reason: str, loss: Loss = Loss.CONNECTION) -> None:
        told.append(reason)
        if len(told) >= losses:
            source.close()

    frames = []
    for captured in source.frames(lost):
        frames.append(captured)
        if len(frames) >= most:
            source.close()
    return frames, told


def test_every_picture_comes_whole_whatever_its_size(fake: Path) -> None:
    photos = [some(0, 5, 7), some(1, 480, 641), some(2, 1, 1), some(3, 300, 2)]
    for number, photo in enumerate(photos):
        Path(str(number)).write_bytes(pnm(photo))
    frames, told = read("0 1 2 3", losses=2)
    assert told == ["the pipeline has ended"] * 2
    assert [captured.seq for captured in frames] == list(range(8))
    for captured, photo in zip(frames, photos * 2, strict=True):
        assert np.array_equal(captured.photo, photo) and not captured.problem


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5\n7 5\n255\n" + bytes(35), "what came is no picture"),
        (b"P6\n" + b"7" * 80, "what came is no picture"),
        (b"P6\n99999 99999\n255\n", "a picture of 99999 x 99999 came"),
        (b"P6\n7 5\n255\n" + bytes(30), "the pipeline has ended"),
    ],
    ids=["grey", "garbage", "huge", "cut off"],
)
def test_what_is_no_picture_is_told_and_is_no_frame(data: bytes, reason: str, fake: Path) -> None:
    Path("good").write_bytes(pnm(some(0, 5, 7)))
    Path("bad").write_bytes(data)
    frames, told = read("good bad", losses=2)
    assert len(frames) == 2 and len(told) == 2 and all(words.startswith(reason) for words in told)


def test_a_missing_package_is_named(fake: Path) -> None:
    with pytest.raises(SourceError, match='no element "pnmenc"') as refused:
        read('say=WARNING:_erroneous_pipeline:_no_element_\\"pnmenc\\"', losses=1)
    assert "gstreamer1.0-plugins-bad" in refused.value.hint


def test_a_complaint_of_gstreamer_is_told_without_its_secrets(fake: Path) -> None:
    complaint = "ERROR:_from_element_/GstPipeline:pipeline0/GstRTSPSrc:rtspsrc0:_no_rtsp://me:secret@cam/1_there."
    assert read(f"say={complaint}", losses=1) == ([], ["rtspsrc0: no rtsp://***@cam/1 there"])


def test_one_that_stops_sending_is_started_anew_in_time(fake: Path) -> None:
    Path("0").write_bytes(pnm(some(0, 5, 7)))
    began = time.monotonic()
    frames, told = read("0 wait", losses=2)
    assert len(frames) == 2 and told == ["it stopped sending"] * 2
    assert time.monotonic() - began < 2 * OPTIONS.read_timeout + 5
    assert not descendants()


def descendants() -> list[str]:
    return subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "gst-launch"], capture_output=True, text=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("text", "says"),
    [("gst:", "a pipeline is missing"), ("gst:'fakesrc", "is no command line"), ("gst: ", "a pipeline is missing")],
)
def test_what_is_no_command_line_is_refused(text: str, says: str, fake: Path) -> None:
    with pytest.raises(SourceError, match=says) as refused:
        open_source(text)
    assert refused.value.hint


def test_without_gstreamer_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match=r"gst-launch-1.0, which reads gst: sources, is not") as refused:
        open_source("gst:videotestsrc")
    assert "apt-get install gstreamer1.0-tools" in refused.value.hint


@pytest.mark.usefixtures("gstreamer")
def test_a_real_pipeline_gives_its_colours_at_its_pace_and_leaves_no_process() -> None:
    source = open_source(f"gst:{RED}", options=OPTIONS)
    frames = []
    for captured in source.frames():
        frames.append(captured)
        if len(frames) == 20:
            source.close()
    assert source.live and source.name == f"gst:{RED}"
    for captured in frames:
        assert captured.photo is not None and captured.photo.shape == (17, 321, 3)
        assert (captured.photo == (255, 0, 0)).all()
    numbers = [captured.seq for captured in frames]
    assert numbers == sorted(set(numbers))
    assert gone("width=321")


def gone(words: str) -> bool:
    deadline = time.monotonic() + 5
    while subprocess.run(["pgrep", "-f", f"gst-launch.*{words}"], capture_output=True).stdout:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.usefixtures("gstreamer")
def test_what_gstreamer_does_not_understand_ends_with_its_words() -> None:
    source = open_source("gst:nosuchelement ! fakesink", options=OPTIONS)
    with pytest.raises(SourceError, match=r'does not understand the pipeline.*no element "nosuchelement"') as refused:
        list(source.frames())
    assert refused.value.hint.startswith("gst-launch-1.0 nosuchelement")


@pytest.mark.usefixtures("gstreamer")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("victim", ["gstreamer", "worker"])
def test_whatever_dies_or_hangs_is_replaced_and_leaves_nothing(number: signal.Signals, victim: str) -> None:
    source = open_source(f"gst:{RED}", options=OPTIONS)
    told: list[str] = []
    hurt, after = 0.0, 0
    for count, captured in enumerate(source.frames(lambda reason, loss=Loss.CONNECTION: told.append(reason))):
        if count == 10:
            pid = source.pid  # type: ignore[attr-defined]
            if victim == "gstreamer":
                pid = int(subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout)
            os.kill(pid, number)
            hurt = captured.monotonic
        after += bool(hurt) and captured.monotonic > hurt + 0.5 and bool(told)
        if after > 5:
            source.close()
    assert len(told) == 1
    assert gone("width=321")


@pytest.fixture
def genicam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a GigE Vision camera on loopback. Raw packets do not pass there: who may use them must not."""
    needed(shutil.which(CAMERA) is not None and shutil.which("gst-launch-1.0") is not None, CAMERA)
    if os.geteuid() == 0:
        program = tmp_path / "bin" / "gst-launch-1.0"
        program.parent.mkdir()
        real, drop = shutil.which("gst-launch-1.0"), "setpriv --reuid 65534 --regid 65534 --clear-groups"
        program.write_text(f'#!/bin/sh\nexec {drop} {real} "$@"\n')
        program.chmod(0o755)
        tmp_path.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    serial = f"T{os.getpid()}"
    with subprocess.Popen([CAMERA, "-i", "127.0.0.1", "-s", serial]) as camera:
        try:
            time.sleep(0.5)
            yield f"Aravis-Fake-{serial}"
        finally:
            camera.kill()


def test_a_genicam_camera_is_read_through_aravis(genicam: str) -> None:
    # a region whose packets fit in the socket's buffer many times over: this camera does not send lost ones again
    part = "video/x-bayer,width=96,height=80"
    source = open_source(f"gst:aravissrc camera-name={genicam} ! {part} ! bayer2rgb", options=SourceOptions())
    told: list[str] = []
    frames = []
    limit = threading.Timer(60, source.close)
    limit.start()
    for captured in source.frames(lambda reason, loss=Loss.CONNECTION: told.append(reason)):
        frames.append(captured)
        if len(frames) == 5:
            source.close()
    limit.cancel()
    assert len(frames) == 5, told
    for captured in frames:
        assert captured.photo is not None and captured.photo.shape == (80, 96, 3)
        assert captured.photo.std() > 10, "its test picture is a ramp"
