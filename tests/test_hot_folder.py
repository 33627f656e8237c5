"""A followed folder: each photo once and when it is complete, whatever happens to the folder meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import line
import numpy as np
import pytest
from store import until

from mtkd_edge.device.health import Condition, Health
from mtkd_edge.device.sources import SourceOptions, open_source
from mtkd_edge.device.sources.base import Captured, Loss, Source

FAST = SourceOptions(poll=0.02, settle=0.1)


class Reader(threading.Thread):
    """Reads a followed folder in the background."""

    def __init__(self, source: Source) -> None:
        super().__init__(daemon=True)
        self.source, self.captured, self.lost = source, list[Captured](), list[str]()
        self.start()

    def run(self) -> None:
        for captured in self.source.frames(lambda why, loss=Loss.CONNECTION: self.lost.append(why)):
            self.captured.append(captured)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.captured) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # one too many would come now
        assert len(self.captured) == count

    def finish(self) -> list[str]:
        began = time.monotonic()
        self.source.close()
        self.join(5)
        assert not self.is_alive() and time.monotonic() - began < 1
        return [c.path.name for c in self.captured if c.path]


def test_a_hot_folder_gives_each_photo_once_when_it_is_complete(tmp_path: Path) -> None:
    line.write_photo(tmp_path / "there.png", line.part(1))
    reader = Reader(open_source(str(tmp_path), follow=True, options=FAST))
    reader.wait_for(1)
    data = line.write_photo(
        tmp_path.parent / "slow.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    ).read_bytes()
    with (tmp_path / "slow.png").open("wb") as file:  # a camera that writes for longer than it takes to settle
        for start in range(0, len(data), len(data) // 8):
            file.write(data[start : start + len(data) // 8])
            file.flush()
            time.sleep(0.05)
    line.write_photo(tmp_path / ".moved.png", line.part(2)).rename(tmp_path / "moved.png")
    line.write_photo(tmp_path / "sub" / "deep.png", line.part(3))
    reader.wait_for(4)
    assert sorted(reader.finish()) == ["deep.png", "moved.png", "slow.png", "there.png"]
    assert all(c.photo is not None for c in reader.captured)


def test_a_photo_written_anew_under_its_name_is_a_new_photo(tmp_path: Path) -> None:
    reader = Reader(open_source(str(tmp_path / "*.png"), follow=True, options=FAST))
    for brightness in (10, 20, 30):
        line.write_photo(tmp_path / "latest.png", line.part(brightness))
        reader.wait_for(brightness // 10)
    assert reader.finish() == ["latest.png"] * 3
    assert [int(c.photo[0, 0, 0]) for c in reader.captured if c.photo is not None] == [10, 20, 30]


def test_a_photo_rewritten_while_it_waits_is_judged_once_as_it_is_then(tmp_path: Path) -> None:
    for n in range(12):
        line.write_photo(tmp_path / f"{n:02d}.png", line.part(n))
    source = open_source(str(tmp_path), follow=True, options=FAST)
    got: list[Captured] = []

    def read() -> None:
        for captured in source.frames():
            if not got:  # the engine is slow, and the last photo far from being decoded
                line.write_photo(tmp_path / "11.png", line.part(200, size=128))
            got.append(captured)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    until(lambda: len(got) >= 12)
    time.sleep(0.5)  # one too many would come now
    source.close()
    thread.join(5)
    assert sorted(c.path.name for c in got if c.path) == [f"{n:02d}.png" for n in range(12)]
    assert got[-1].photo is not None and got[-1].photo.shape == (128, 128, 3)


def test_an_empty_file_that_stays_empty_is_a_problem_not_silence(tmp_path: Path) -> None:
    reader = Reader(open_source(str(tmp_path), follow=True, options=SourceOptions(poll=0.02, settle=0.05)))
    (tmp_path / "empty.png").touch()
    reader.wait_for(1)
    reader.finish()
    assert "empty" in reader.captured[0].problem


def test_a_followed_folder_that_goes_away_is_told_and_found_again(tmp_path: Path) -> None:
    options = SourceOptions(poll=0.02, settle=0.05, retry_most=0.1)
    folder = tmp_path / "share"
    line.write_photo(folder / "a.png", line.part())
    reader = Reader(open_source(str(folder), follow=True, options=options))
    reader.wait_for(1)
    folder.rename(tmp_path / "away")
    time.sleep(0.3)
    (tmp_path / "away").rename(folder)
    line.write_photo(folder / "b.png", line.part())
    reader.wait_for(2)
    assert reader.finish() == ["a.png", "b.png"]
    assert reader.lost and "cannot be listed: No such file" in reader.lost[0]


@pytest.mark.parametrize("text", ["share", "share/*.png"])
def test_photos_of_a_share_that_was_away_are_not_judged_twice(text: str, tmp_path: Path) -> None:
    """An unmounted share leaves an empty folder behind, and a glob of a folder that is gone finds nothing."""
    folder, away = tmp_path / "share", tmp_path / "away"
    for name in "abc":
        line.write_photo(folder / f"{name}.png", line.part())
    forgotten: list[str] = []
    source = open_source(str(tmp_path / text), follow=True, options=FAST)
    source.resume([], 0, forgotten.extend)  # type: ignore[attr-defined]
    reader = Reader(source)
    reader.wait_for(3)
    folder.rename(away)
    folder.mkdir()
    time.sleep(0.3)
    folder.rmdir()
    away.rename(folder)
    line.write_photo(folder / "d.png", line.part())
    reader.wait_for(4)
    (folder / "a.png").unlink()
    until(lambda: forgotten)
    assert reader.finish() == ["a.png", "b.png", "c.png", "d.png"]
    assert forgotten == [str(folder / "a.png")]


def test_a_folder_that_was_away_for_a_moment_was_away_for_that_moment_alone(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    line.write_photo(folder / "a.png", line.part())
    source = open_source(str(folder), follow=True, options=SourceOptions(poll=0.02, settle=0.05, retry_most=0.05))
    health, told = Health({source.name: False}, 1.0), list[Loss]()
    frames = []

    def lost(why: str, loss: Loss = Loss.CONNECTION) -> None:
        told.append(loss)
        health.lost(source.name, why, loss)

    def read() -> None:
        for captured in source.frames(lost):
            health.frame(source.name)
            frames.append(captured)

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: frames)
    time.sleep(1.0)  # its last photo was a while ago
    folder.rename(tmp_path / "away")
    until(lambda: told)
    (tmp_path / "away").rename(folder)
    until(lambda: Loss.OVER in told)
    record = health.record(source.name)
    assert (record.condition, record.outage_count) == (Condition.RUNNING, 1)
    assert record.outage_seconds < 0.9
    source.close()
    thread.join(5)
