"""The soak: its judge catches each broken promise, and a short one is run for real.

The real one lasts MTKD_SOAK_MINUTES (1 without it, 0 leaves it out). It needs the camera and the broker of
scripts/install_test_tools.sh; it skips without them, or fails where MTKD_REQUIRE has `rtsp` or `mqtt`.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soak
import soak_judge
import soak_report
from soak_faults import Happened
from soak_judge import Bounds, judge
from soak_picture import RATE, SIDE, is_bad, number_of, picture
from soak_run import Kept, Record
from soak_station import Life, Said, Sample
from soak_words import Totals, totals

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "soak.py"
MINUTES = float(os.environ.get("MTKD_SOAK_MINUTES", "1"))
BEGAN = 1000.0
SECONDS = 2400


def sound() -> Record:
    """Forty minutes in which everything was kept: one camera, one photo, one outage of the camera from 100 to 105."""
    life, events, shown = Life(BEGAN - 5, BEGAN, BEGAN + SECONDS, code=0, stopped_in=1.0), [], []
    for number in range(SECONDS * RATE - 50):
        at = BEGAN + number / RATE
        if 100 <= at - BEGAN < 105:
            continue
        bad, seq = is_bad(number, 17), len(shown)
        shown.append(number)
        life.said.append(Said(at + 0.1, "camera-1", seq, "anomalous" if bad else "normal", 5.0, ""))
        if bad:
            events.append(Kept(f"{seq:06}", "camera-1", "verdict", "anomalous", seq, at + 0.1, "", True, number))
    life.said.append(Said(BEGAN + 9, "folder", 0, "invalid", 5.0, "hot/1.png"))
    events.append(Kept("9", "folder", "verdict", "invalid", 0, BEGAN + 9, "hot/1.png", False, None))
    life.away = [(BEGAN + 100.9, "camera-1: stalled: no frame for 0.8 s")]
    count = len(shown)
    none = Totals("camera-2", 0, 0, 0, 0)
    life.totals = [Totals("camera-1", count + 2, count, 0, 2), none, Totals("folder", 1, 0, 1, 0)]
    row = {"captured": 10, "scored": 7, "invalid": 1, "waiting": 0, "dropped": {"late": 2}}
    life.states = [{"camera-1": row}]
    life.samples = [Sample(BEGAN + at, 200 << 20, 40, 20, 3) for at in range(0, SECONDS, 2)]
    sent = {event.id: 1 for event in events}
    faults = [Happened("camera_freeze", "camera-1", BEGAN + 100, BEGAN + 104)]
    return Record(
        seed=0,
        seconds=SECONDS,
        began=BEGAN,
        broken_until=BEGAN + SECONDS - 6,
        drained=True,
        machine={"cores": "2"},
        load=[0.5],
        lives=[life],
        faults=faults,
        shown={"camera-1": shown},
        photos={"hot/1.png": "broken"},
        events=events,
        mqtt=dict(sent),
        hook=dict(sent),
    )


SOUND = sound()


def test_a_sound_record_breaks_nothing_and_is_judged_in_full() -> None:
    checks = judge(SOUND, Bounds())
    assert soak_judge.broken(checks) == []
    unsaid = {
        "longest pause of the other camera meanwhile",
        "pause after a killed worker",
        "pause after a frozen worker",
    }
    assert {check.name for check in checks if check.ok is None} == unsaid | {
        "first verdicts of all cameras after a start of the program"
    }
    text = soak_report.markdown(SOUND, checks)
    assert "**broken**" not in text and f"0 of {len(SOUND.events)} lost" in text
    assert json.dumps(soak_report.report(SOUND, checks))


def lose(record: Record) -> None:
    del record.events[3]


def unequal(record: Record) -> None:
    record.lives[0].totals[0] = Totals("camera-1", 5, 4, 0, 0)


def unprinted(record: Record) -> None:
    record.lives[0].said.pop(0)


def negative(record: Record) -> None:
    record.lives[0].states[0]["camera-1"]["scored"] = 8


def never_shown(record: Record) -> None:
    record.events[0] = Kept("000000", "camera-1", "verdict", "anomalous", 3, BEGAN + 0.4, "", True, None)


def unsent(record: Record) -> None:
    record.mqtt.popitem()


def unknown(record: Record) -> None:
    record.hook["gone"] = 1


def untold(record: Record) -> None:
    record.lives[0].away.clear()


def late(record: Record) -> None:
    record.faults[0].healed = BEGAN + 102


def good_photo_alarmed(record: Record) -> None:
    record.photos["hot/1.png"] = "good"


def disordered(record: Record) -> None:
    record.events[0], record.events[1] = record.events[1], record.events[0]


def hangs(record: Record) -> None:
    record.lives[0].stopped_in = 6.0


def leaks(record: Record) -> None:
    samples = record.lives[0].samples
    samples[:] = [Sample(s.at, s.rss + int((s.at - BEGAN) * 3000), s.fds, s.threads, 3) for s in samples]


def leaks_files(record: Record) -> None:
    samples = record.lives[0].samples
    samples[:] = [Sample(s.at, s.rss, s.fds + int((s.at - BEGAN) / 60), s.threads, 3) for s in samples]


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (lose, "every anomalous or invalid verdict is stored"),
        (lose, "what was delivered is in the store"),
        (unequal, "ledger at the end"),
        (unprinted, "ledger at the end"),
        (negative, "ledger while it ran"),
        (never_shown, "no invented, stale or colour-swapped frame"),
        (unsent, "every event is delivered at least once"),
        (unknown, "what was delivered is in the store"),
        (untold, "silence of a camera is told"),
        (late, "first verdict after the camera is back"),
        (good_photo_alarmed, "every photo of the hot folder has its verdict"),
        (disordered, "clock steps do not change the order"),
        (hangs, "SIGTERM ends it, nothing outlives it"),
        (leaks, "memory"),
        (leaks_files, "open files"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_broken_promise_is_caught(harm: Callable[[Record], None], name: str) -> None:
    record = copy.deepcopy(SOUND)
    harm(record)
    assert name in {check.name for check in soak_judge.broken(judge(record, Bounds()))}


def test_more_defects_gone_than_frames_dropped_are_lost_events() -> None:
    record = copy.deepcopy(SOUND)
    gone = [event for event in record.events if event.number is not None][10:13]
    record.events = [event for event in record.events if event not in gone]
    name = "every defect that a camera showed is stored"
    assert name in {check.name for check in soak_judge.broken(judge(record, Bounds()))}
    record.events += gone[:1]  # two, as many as the ledger has dropped
    assert name not in {check.name for check in soak_judge.broken(judge(record, Bounds()))}


def test_times_are_not_judged_while_others_take_the_processors() -> None:
    record = copy.deepcopy(SOUND)
    untold(record)
    samples = record.lives[0].samples
    samples[:] = [Sample(s.at, s.rss, s.fds, s.threads, 3, stalled=s.at * 0.6) for s in samples]
    hangs(record)
    found = {check.name: check for check in judge(record, Bounds())}
    told = found["silence of a camera is told"]
    assert told.ok is found["SIGTERM ends it, nothing outlives it"].ok is None
    record.lives[0].code = -6  # what is no matter of time stays broken
    assert soak_judge.broken(judge(record, Bounds()))
    assert "of 1 faults the times are not judged" in soak_report.markdown(record, [told])


def test_an_hour_is_long_enough_to_judge_memory() -> None:
    """The station is first ended after half of what lies between two ends."""
    first = soak.apart(soak.HOUR) / 2
    warm = [life - soak_judge.WARM_UP for life in (first, soak.HOUR - first)]
    assert sum(warm) > soak_judge.SLOPE_NEEDS and max(warm) > soak_judge.SLOPE_NEEDS / 2
    assert soak.apart(180) == 50


def test_a_worker_that_is_away_is_no_memory_that_was_given_back() -> None:
    record = copy.deepcopy(SOUND)
    leaks(record)
    samples = record.lives[0].samples
    for place in range(1200 - 60, 1200, 3):  # they die oftener towards the end: without them it seems to shrink
        samples[place] = Sample(samples[place].at, 100 << 20, 40, 20, 2)
    assert "memory" in {check.name for check in soak_judge.broken(judge(record, Bounds()))}


def test_a_picture_tells_its_number_and_a_swapped_colour() -> None:
    for number in (0, 1, 12345, 2**24 - 1):
        raw = picture(number, True)

        def pixel(x: int, y: int, raw: bytes = raw) -> tuple[int, int, int]:
            red, green, blue = raw[3 * (y * SIDE + x) :][:3]
            return red, green, blue

        assert number_of(pixel) == number
        assert number_of(lambda x, y, pixel=pixel: pixel(x, y)[::-1]) is None  # type: ignore[misc]


def test_the_summary_of_the_program_is_read_as_its_ledger() -> None:
    words = ["camera-1: 1 frame captured, running", "  0 normal, 1 anomalous, 0 invalid"]
    words += ["a: b: 9 frames captured, ended", "  4 normal, 1 anomalous, 2 invalid, 1 dropped (x), 1 dropped (y)"]
    assert totals(words) == [Totals("camera-1", 1, 1, 0, 0), Totals("a: b", 9, 5, 2, 2)]


WRITERS = """
import tempfile, threading, time
from pathlib import Path
import soak_disk
soak_disk.enter_namespace()
disk = soak_disk.Disk(Path(tempfile.mkdtemp(), "disk"), 4)
def write(name):
    while True:
        try:
            with (disk.folder / name).open("wb"):
                time.sleep(0.0005)
        except OSError:
            pass
if not disk.cannot:
    for number in range(8):
        threading.Thread(target=write, args=(str(number),), daemon=True).start()
    for _ in range(5):
        disk.forbid()
        try:
            (disk.folder / "mine").touch()
        except OSError as error:
            print(error.strerror, flush=True)
        disk.allow()
        (disk.folder / "mine").touch()
print(disk.cannot or "done")
"""


def test_a_disk_becomes_read_only_while_others_write_on_it(tmp_path: Path) -> None:
    script = tmp_path / "writers.py"
    script.write_text(WRITERS)
    places = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=places)
    if "mounted here" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.stdout.split("\n") == [*["Read-only file system"] * 5, "done", ""], done.stderr


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.skipif(not MINUTES, reason="MTKD_SOAK_MINUTES=0")
def test_a_station_that_is_broken_every_few_seconds_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    gstreamer = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    has = subprocess.run(["/usr/bin/python3", "-c", gstreamer], capture_output=True).returncode == 0
    from soak_around import MOSQUITTO

    for there, name in ((has, "rtsp"), (MOSQUITTO, "mqtt")):
        if not there and name in os.environ.get("MTKD_REQUIRE", "").split(","):
            pytest.fail(f"no {name} here: scripts/install_test_tools.sh")
        if not there:
            pytest.skip(f"no {name} here: scripts/install_test_tools.sh")
    command = [sys.executable, str(SCRIPT), "--minutes", f"{MINUTES:g}", "--out", str(tmp_path)]
    if "time" not in os.environ.get("MTKD_REQUIRE", "").split(
        ","
    ):  # what is lost counts here; times want a quiet machine
        command += ["--bounds", '{"noticed": 8, "back": 10, "worker": 12, "others": 8, "age": 10, "stop": 15}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES * 60 + 400)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] and len(report["faults"]) >= 5
