"""Decoders in processes of their own: they give what decoding here gives, and what kills them kills nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import line
import numpy as np
import pytest
from store import until

from mtkd_edge import frames
from mtkd_edge.device.decoding import answer, pool
from mtkd_edge.device.decoding.answer import Answer, Memory
from mtkd_edge.device.decoding.pool import POOL, Pool
from mtkd_edge.device.sources import open_source
from mtkd_edge.errors import DataError, SourceError
from mtkd_edge.verdict import State


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of decoders that fail where a file's name says so."""
    monkeypatch.setattr(pool, "CHILD", "failing_decoder")
    monkeypatch.setattr(pool, "PATIENCE", 2.0)
    made = Pool()
    yield made
    made.close()


def photo_at(folder: Path, name: str) -> Path:
    return line.write_photo(folder / f"{name}.png", line.part(50))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


@pytest.mark.parametrize("ending", sorted(frames.SUFFIXES))
def test_what_comes_out_is_what_decoding_here_gives(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    for size in ((31, 47), (200, 3), (90, 120)):
        path = line.write_photo(tmp_path / f"{size[0]}{ending}", rng.integers(0, 256, (*size, 3), np.uint8))
        found = POOL.decode(path)
        assert found.flags.writeable and found.flags.c_contiguous
        assert np.array_equal(found, frames.read(path))


def test_sixteen_bits_pass_and_a_large_photo_leaves_no_memory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (300, 200, 3)).astype(np.uint16)
    assert np.array_equal(POOL.decode(line.write_photo(tmp_path / "deep.png", deep)), deep)
    monkeypatch.setattr(answer, "KEPT", 1000)
    memory = Memory()
    try:
        said = Answer("", 300, 200, 1)
        view = memory.view(said)
        assert view is not None
        view[:] = 7
        del view
        assert (memory.take(said) == 7).all()
        assert os.fstat(memory.handle).st_blocks == 0
        for wrong in (Answer("", 0, 5, 1), Answer("", 1 << 20, 1 << 20, 1), Answer("", 5, 5, 3), Answer("", -5, -5, 1)):
            assert memory.take(wrong) is None
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(memory.handle, 0)
    finally:
        memory.close()


@pytest.mark.parametrize(
    ("name", "reason", "deaths"),
    [
        ("segfault", "brought the decoder down twice: signal SIGSEGV", {"signal SIGSEGV": 2}),
        ("raises", "twice: exit code 1: ZeroDivisionError: a flaw of ours", None),
        ("nonsense", "brought the decoder down twice: it answered nonsense", {"it answered nonsense": 2}),
        ("garbles", "brought the decoder down twice", None),
        ("spins", "took longer than 10 s to decode", {pool.SLOW: 1}),
        ("sleeps", "could not be read for", {pool.STUCK: 1}),
    ],
)
def test_a_photo_that_kills_its_decoder_is_invalid_and_the_next_is_read(
    name: str, reason: str, deaths: dict[str, int] | None, failing: Pool, tmp_path: Path
) -> None:
    counted = Counter[str]()
    with pytest.raises(DataError, match=reason):
        failing.decode(photo_at(tmp_path, name), deaths=counted)
    assert deaths is None or counted == deaths == failing.deaths
    assert (failing.decode(photo_at(tmp_path, "good")) == 50).all()


def test_a_decoder_that_was_killed_for_another_reason_costs_no_photo(failing: Pool, tmp_path: Path) -> None:
    path = photo_at(tmp_path, "once")
    path.with_name(f"{path.name}.lives").touch()
    assert (failing.decode(path) == 50).all()
    assert failing.deaths == {"signal SIGKILL": 1}


def test_a_photo_that_wants_too_much_memory_is_invalid_not_fatal(failing: Pool, tmp_path: Path) -> None:
    path = line.write_photo(tmp_path / "large.png", np.zeros((6000, 6000, 3), np.uint8))
    with pytest.raises(DataError, match=r"memory|Failed to allocate"):
        failing.decode(path)
    assert (failing.decode(photo_at(tmp_path, "good")) == 50).all()
    assert not failing.deaths


def test_damage_that_a_jpeg_library_only_mutters_about_is_invalid(tmp_path: Path) -> None:
    path = line.write_photo(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[-400:-300] = bytes(100)
    path.write_bytes(data)
    assert frames.read(path).shape == (64, 64, 3), "OpenCV makes pixels up"
    for _ in range(100):  # a decoder hears its libraries as well after many words as at first
        with pytest.raises(DataError, match="is damaged: Corrupt JPEG data"):
            POOL.decode(path)


def test_a_decoder_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "CHILD", "no_such_module")
    broken = Pool()
    with pytest.raises(SourceError, match=r"does not start: exit code 1: .*no_such_module"):
        broken.decode(photo_at(tmp_path, "good"))


def test_where_there_is_no_room_for_a_decoder_it_is_told_and_nothing_stays_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*words: object, **more: object) -> None:
        raise OSError(errno.EAGAIN, "no room")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("subprocess.Popen", refused)
    for _ in range(3):
        with pytest.raises(SourceError, match="no decoder of photos can be started: no room"):
            Pool().decode(photo_at(tmp_path, "good"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_stopping_the_watch_does_not_stop_its_decoders(tmp_path: Path) -> None:
    POOL.decode(photo_at(tmp_path, "good"))
    (decoder,) = POOL._idle[-1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(decoder.pid, number)
    before = POOL.deaths.total()
    assert (POOL.decode(photo_at(tmp_path, "other")) == 50).all()
    assert POOL.deaths.total() == before and alive(decoder.pid)


def test_in_a_watch_every_photo_has_its_verdict_and_replaced_decoders_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtkd_edge.device.sources import photos

    monkeypatch.setattr(pool, "CHILD", "failing_decoder")
    monkeypatch.setattr(photos, "POOL", Pool())
    for name in ("1-good", "2-segfault", "3-good", "4-raises", "5-good"):
        photo_at(tmp_path, name)
    verdicts, summary = line.run([open_source(str(tmp_path))])
    photos.POOL.close()
    wanted = [State.NORMAL, State.INVALID, State.NORMAL, State.INVALID, State.NORMAL]
    assert [verdict.state for verdict in verdicts] == wanted
    (source,) = summary.sources
    assert source.captured == 5 and source.replaced["signal SIGSEGV"] == 2 and sum(source.replaced.values()) == 4


def test_decoders_end_with_whoever_started_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    photo_at(tmp_path / "photos", "good")
    program.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom mtkd_edge.device.decoding.pool import POOL\n"
        f"POOL.decode(Path({str(tmp_path / 'photos' / 'good.png')!r}))\n"
        "print(POOL._idle[0].pid, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        decoder = int(process.stdout.readline())
        assert alive(decoder)
    finally:
        process.kill()
        process.communicate()
    until(lambda: not alive(decoder), 5)
