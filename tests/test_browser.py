"""The page in a real browser, on a desktop and on a phone: it shows what there is, fits the screen and runs no markup.

Needs Chromium (scripts/install_test_tools.sh). MTKD_SCREENSHOTS=DIR keeps the pictures for people to look at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import line
import numpy as np
import pytest
from clicks import tab
from page import Shown, shown
from store import until
from test_parts import triggered

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --no-first-run"
QUIET += " --disable-component-update --disable-sync"
SOON = "--virtual-time-budget=4000"
VERMILION = np.array([0x00, 0x5E, 0xD5])
BLUE = np.array([0xB2, 0x72, 0x00])
"""Anomalous and normal, as OpenCV has them: blue, green, red."""


@pytest.fixture(scope="module", autouse=True)
def _browser() -> None:
    if CHROMIUM is None and "browser" in os.environ.get("MTKD_REQUIRE", "").split(","):
        pytest.fail("no Chromium here: scripts/install_test_tools.sh")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: scripts/install_test_tools.sh")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    part, defect = line.part(size=320), line.part(defect=True, size=320)
    bad = [defect if n % 9 == 4 else part for n in range(20_000)]
    sources = [
        line.Memory("<img src=x onerror=document.title='owned'>", bad, live=True, period=0.02),
        line.Memory("good", [part] * 20_000, live=True, period=0.02),
    ]
    serve = {"address": "127.0.0.1:0", "open": True}
    with shown(tmp_path_factory.mktemp("page"), sources, serve, rules={"latch": True}) as running:
        until(lambda: len(running.state()["events"]) > 5)
        yield running


def browse(running: Shown, tmp_path: Path, *words: str) -> str:
    command = [str(CHROMIUM), *QUIET.split(), SOON, f"--user-data-dir={tmp_path / 'profile'}", *words]
    command.append(running.page.address)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def picture(running: Shown, tmp_path: Path, width: int, height: int) -> np.ndarray:
    place = Path(os.environ.get("MTKD_SCREENSHOTS", tmp_path)) / f"page-{width}x{height}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    browse(running, tmp_path, f"--window-size={width},{height}", f"--screenshot={place}")
    found = cv2.imread(str(place))
    assert found.shape == (height, width, 3)
    return found


def test_it_shows_answers_scores_and_events_and_runs_no_markup(running: Shown, tmp_path: Path) -> None:
    dom = browse(running, tmp_path, "--window-size=1400,900", "--dump-dom")
    assert "<title>line 3 · mtkd-edge</title>" in dom, "a name of a source is text and nothing else"
    assert "&lt;img src=x onerror" in dom and '<img src="x"' not in dom
    assert dom.count('class="panel line') == 2 + 1, "two lines, and the template"
    assert 'class="pill bad"' in dom and 'class="pill good"' in dom
    assert dom.count("Acknowledge</button>") == 1, "one button a line that waits"
    assert dom.count('class="event"') > 5
    assert 'id="link" class="muted">up ' in dom
    assert '<path class="threshold" d="M0 ' in dom
    assert 'id="trouble" class="trouble" role="status" hidden=""' in dom


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)], ids=["desktop", "phone"])
def test_it_fits_the_screen(width: int, height: int, running: Shown, tmp_path: Path) -> None:
    found = picture(running, tmp_path, width, height).astype(int)
    vermilion = (np.abs(found - VERMILION).sum(2) < 12).sum()
    blue = (np.abs(found - BLUE).sum(2) < 12).sum()
    assert vermilion > 500 and blue > 500, "the bad line's pill, the strips of normal frames"
    margin = found[height // 4 :, -8:]
    assert (np.abs(margin - margin[0, -1]).sum(2) < 12).all(), "nothing runs out of the screen on the right"
    # the live picture: an even grey part with a defect now and then
    assert (np.abs(found[100:400, 20 : width // 3] - 20).sum(2) < 30).mean() > 0.3


def test_its_buttons_trigger_a_part_and_acknowledge_an_alarm(tmp_path: Path) -> None:
    source = line.Memory("top", [line.part(defect=True)] * 100_000, live=True, period=0.01)
    serve = {"address": "127.0.0.1:0", "open": True}
    settings = triggered(rules={"fresh": 600, "latch": True})
    chromium = [str(CHROMIUM), *QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    with shown(tmp_path, [source], serve, **settings) as page, tab(chromium, page.page.address) as seen:
        trigger, last = "document.querySelector('#lines .part button')", "document.querySelector('#lines .part .last')"
        until(lambda: seen.run(f"{last}?.textContent") == "no part decided yet")
        seen.run(f"{trigger}.click()")
        until(lambda: seen.run(f"{trigger}.textContent") == "Triggered")
        until(lambda: page.state()["lines"][0]["parts"] == 1)
        part = page.state()["lines"][0]["part"]
        until(lambda: seen.run(f"{last}.textContent") == f"part {part}, 1 decided")
        until(lambda: seen.run(f"{trigger}.disabled") is False)
        assert page.state()["lines"][0]["latched"]
        until(lambda: seen.run("document.querySelector('.act')?.textContent") == "Acknowledge")
        seen.run("document.querySelector('.act').click()")
        until(lambda: not page.state()["lines"][0]["latched"])
        until(lambda: seen.run("document.querySelector('.act')") is None)
