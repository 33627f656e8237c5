"""Photos of another shape than the training's are judged, and told: by the watch, by `evaluate`, by `threshold`."""

from __future__ import annotations

from pathlib import Path

import factory
import line
import msgspec
import numpy as np
import pytest
from line import Memory

from mtkd_edge import bundle, dataset
from mtkd_edge.aspect import Aspects, aspects_of
from mtkd_edge.cli import app
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.evaluate import evaluate, text
from mtkd_edge.device.health import Condition, Event, Health

SQUARE = msgspec.structs.replace(line.MANIFEST, aspects=Aspects(1.0, 1.0))


@pytest.mark.parametrize(
    ("height", "width", "told"),
    [
        (480, 480, ""),
        (480, 520, ""),  # 1.08: nearly
        (520, 480, ""),
        (480, 640, "640 x 480 pixels are 1.33 times as wide as high, the training's photos 1.00 times"),
        (640, 480, "480 x 640 pixels are 0.75 times as wide as high, the training's photos 1.00 times"),
    ],
)
def test_a_shape_within_a_tenth_of_a_known_one_is_known(height: int, width: int, told: str) -> None:
    assert Aspects(1.0, 1.0).other(height, width) == told


def test_between_two_known_shapes_every_shape_is_known() -> None:
    known = Aspects(0.5, 2.0)
    assert [known.other(100, width) == "" for width in (40, 50, 120, 200, 240)] == [False, True, True, True, False]
    assert known.other(100, 240).endswith("the training's photos 0.50 to 2.00 times")


def test_strays_among_the_photos_make_no_shape_known() -> None:
    assert aspects_of([(480, 640)] * 39 + [(100, 1000)]) == Aspects(640 / 480, 640 / 480)
    assert aspects_of([(100, 100)] * 10 + [(100, 200)] * 10) == Aspects(1.0, 2.0)


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_what_is_no_range_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="aspects want"):
        Aspects(*wrong)
    with pytest.raises(ValueError, match="no photos"):
        aspects_of([])


def wide(count: int) -> list[np.ndarray]:
    return [np.repeat(line.part(20), 2, 1) for _ in range(count)]


def test_a_source_is_told_each_time_its_photos_begin_to_be_of_another_shape() -> None:
    events: list[Event] = []
    photos = [line.part(20), *wide(3), None, *wide(2), line.part(20), *wide(2)]
    verdicts, _ = line.run([Memory("camera", photos)], events=events, manifest=SQUARE)
    assert len(verdicts) == len(photos)  # judged all the same
    told = [(event.what, event.reason.partition(";")[0]) for event in events if event.subject == "camera"]
    wider = "128 x 64 pixels are 2.00 times as wide as high, the training's photos 1.00 times"
    assert told == [("running", ""), ("running", wider), ("running", ""), ("running", wider), ("ended", "")]
    assert "train with its photos" in events[1].reason


def test_a_camera_of_another_shape_keeps_saying_so() -> None:
    health = Health({"cam": True}, silence=60.0)
    health.frame("cam", "odd")
    health.check()  # as the monitor does, ten times a second
    health.frame("cam", None)
    assert (health.record("cam").condition, health.record("cam").reason) == (Condition.RUNNING, "odd")
    health.frame("cam")
    assert health.record("cam").reason == ""


@pytest.mark.parametrize("aspects", [Aspects(1.0, 2.0), None], ids=["known", "of a bundle that keeps none"])
def test_known_shapes_are_not_told(aspects: Aspects | None) -> None:
    events: list[Event] = []
    manifest = msgspec.structs.replace(line.MANIFEST, aspects=aspects)
    line.run([Memory("camera", [*wide(2), line.part(20)])], events=events, manifest=manifest)
    assert {event.reason for event in events} == {""}


def test_an_evaluation_counts_the_photos_of_another_shape(tmp_path: Path) -> None:
    for n, photo in enumerate([line.part(20), *wide(2)]):
        line.write_photo(tmp_path / "test/good" / f"{n}.png", photo + np.uint8(n))
    listing = dataset.scan(tmp_path, needed=0)
    found = evaluate(FakeEngine(), SQUARE, line.THRESHOLD, listing)
    assert found.other_shape == 2
    assert "2 photos have another shape than those of the training" in text(found)
    same = evaluate(FakeEngine(), line.MANIFEST, line.THRESHOLD, listing)
    assert same.other_shape == 0
    assert "another shape" not in text(same)


def test_a_threshold_from_photos_of_another_shape_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = factory.build(tmp_path).engine
    levels = np.arange(80, 92, dtype=np.uint8)[:, None, None, None]
    photos = factory.write(tmp_path / "good", np.broadcast_to(levels, (12, 64, 64, 3)))
    manifest = bundle.load_engine(engine)
    capfd.readouterr()
    assert app.run(["threshold", str(engine), "--photos", str(photos)]) == 0
    assert "another shape" not in capfd.readouterr().err
    model = msgspec.structs.replace(manifest.model, aspects=Aspects(2.0, 2.0))
    bundle.save(engine, msgspec.structs.replace(manifest, model=model), bundle.load_threshold(engine))
    assert app.run(["threshold", str(engine), "--photos", str(photos)]) == 0
    assert "12 of 12 photos have another shape: 64 x 64 pixels are 1.00 times" in capfd.readouterr().err
