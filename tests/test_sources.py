"""What a user types becomes a source or a clear refusal; every frame of a source comes once, in order, in RGB."""

from __future__ import annotations

import shlex
import socket
import time
from pathlib import Path

import line
import numpy as np
import pytest
from test_hot_folder import Reader

from mtkd_edge.device.sources import SourceOptions, open_source, open_sources, video
from mtkd_edge.device.sources.address import redact, redact_words
from mtkd_edge.device.sources.base import Captured, Source
from mtkd_edge.device.sources.live import Live
from mtkd_edge.device.sources.opencv import to_rgb
from mtkd_edge.errors import DataError, SourceError

FAST = SourceOptions(poll=0.02, settle=0.1)


def everything(source: Source) -> list[Captured]:
    return list(source.frames())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a source is empty"),
        ("nowhere", "nothing is at 'nowhere'"),
        ("no*thing", "no photo is at no*thing"),
        ("ftp://camera/1", "wanted one of rtsp://"),
        ("rtsp://", "is no address of a stream"),
        ("http://127.0.0.1/film.mp4", "is a file, not a stream"),
        ("/dev/video97", "there is no camera at /dev/video97"),
        ("97", "there is no camera at /dev/video97 (given '97')"),
        ("-1", "nothing is at '-1'"),
        ("notes.txt", "neither a photo nor a video by its ending"),
        ("empty", "no photo is at empty"),
        ("broken.mp4", "cannot be opened"),
    ],
)
def test_nonsense_is_refused_with_what_was_given(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").write_text("parts")
    Path("broken.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(SourceError) as refused:
        open_source(text)
    assert says in refused.value.message
    assert refused.value.hint


def test_a_number_that_is_also_a_path_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line.write_photo(tmp_path / "0" / "a.png", line.part())
    with pytest.raises(SourceError, match="a camera's number and also a path"):
        open_source("0")
    assert len(everything(open_source("./0"))) == 1


def test_a_single_file_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="one file and cannot be followed"):
        open_source(str(line.write_photo(tmp_path / "a.png", line.part())), follow=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:s3cret@10.0.0.1:554/cam", "rtsp://***@10.0.0.1:554/cam"),
        ("rtsp://admin:p@ss/w:rd@cam/1", "rtsp://***@cam/1"),
        ("http://cam/mjpg?user=a&password=b&channel=2", "http://cam/mjpg?user=***&password=***&channel=2"),
        ("rtsp://cam/1?token=abc#x", "rtsp://cam/1?token=***#x"),
        ("rtsp://cam/1", "rtsp://cam/1"),
        ("/photos/a@b?token=1", "/photos/a@b?token=1"),
    ],
)
def test_no_password_is_in_a_name(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rtspsrc location=rtsp://c/1 user-id=me user-pw=x !", "rtspsrc location=rtsp://c/1 user-id=*** user-pw=*** !"),
        ('httpsrc user-pw="two words" location=http://c ! x', "httpsrc user-pw=*** location=http://c ! x"),
        (r'httpsrc user-pw="say \"x\" y" location=http://c', "httpsrc user-pw=*** location=http://c"),
        (r"httpsrc user-pw=two\ words'and more'x location=http://c", "httpsrc user-pw=*** location=http://c"),
        (r"rtspsrc user-pw='s3cret\' ! x", "rtspsrc user-pw=*** ! x"),
        ('rtspsrc user-pw="s3cret ! x', "rtspsrc user-pw=***"),
        ("rtspsrc user-pw = 'a b' latency=0", "rtspsrc user-pw = *** latency=0"),
        ("rtspsrc location=rtsp://me:s3cret@c/1 latency=0", "rtspsrc location=rtsp://***@c/1 latency=0"),
        ("v4l2src device=/dev/video0 ! x", "v4l2src device=/dev/video0 ! x"),
    ],
)
def test_no_password_of_a_pipeline_is_in_a_name(before: str, after: str) -> None:
    assert redact(f"gst:{before}", pipeline=True) == f"gst:{after}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('rtspsrc user-pw="it\'s4secret" latency=0', "rtspsrc user-pw=*** latency=0"),
        ("rtspsrc user-pw='a\"b c' ! x", "rtspsrc user-pw=*** ! x"),
        ("rtspsrc user-pw = 'two words' ! x", "rtspsrc user-pw = *** ! x"),
        ("rtspsrc location=rtsp://me:s3cret@c/1 ! x", "rtspsrc location=rtsp://***@c/1 ! x"),
    ],
)
def test_no_password_is_in_the_words_of_a_pipeline(before: str, after: str) -> None:
    assert redact_words(shlex.split(before)) == after


def test_an_error_about_an_address_hides_its_password() -> None:
    with pytest.raises(SourceError) as refused:
        open_source("gopher://me:s3cret@cam/1")
    assert "s3cret" not in str(refused.value)


def test_two_logins_at_one_address_have_two_names() -> None:
    sources = open_sources(["rtsp://a:1@cam/x", "rtsp://b:2@cam/x"])
    assert [source.name for source in sources] == ["rtsp://***@cam/x", "rtsp://***@cam/x #2"]


def test_one_source_twice_is_refused() -> None:
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@cam/x is given twice"):
        open_sources(["rtsp://a:1@cam/x", "rtsp://a:1@cam/x"])


def test_photos_of_an_unquoted_glob_are_one_source(tmp_path: Path) -> None:
    names = [str(line.write_photo(tmp_path / f"{n}.png", line.part(n))) for n in range(30)]
    film = line.write_video(tmp_path / "film.avi", [line.part()] * 3, "MJPG")
    sources = open_sources([*names, str(film)])
    assert [source.name for source in sources] == ["30 photos", str(film)]
    assert [str(captured.path) for captured in everything(sources[0])] == names


def test_a_folder_gives_every_photo_once_sorted_and_names_the_unreadable(tmp_path: Path) -> None:
    for n in range(25):
        line.write_photo(tmp_path / f"day{n % 3}" / f"{n:02d}.PNG", line.part(n))
    (tmp_path / "day1" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "day1" / "empty.png").touch()
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    captured = everything(open_source(str(tmp_path)))
    paths = [c.path for c in captured]
    assert len(captured) == 27
    assert paths == sorted(paths, key=str)
    assert [c.seq for c in captured] == list(range(27))
    problems = {c.path.name: c.problem for c in captured if c.photo is None and c.path}
    assert set(problems) == {"torn.jpg", "empty.png"}
    assert "empty (0 bytes)" in problems["empty.png"]
    assert {int(c.photo[0, 0, 0]) for c in captured if c.photo is not None} == set(range(25))


def test_masks_of_an_mvtec_layout_are_no_photos(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "test/hole/0.png", "ground_truth/hole/0_mask.png"):
        line.write_photo(tmp_path / "bottle" / name, line.part())
    found = [c.path.relative_to(tmp_path).as_posix() for c in everything(open_source(str(tmp_path))) if c.path]
    assert found == ["bottle/test/hole/0.png", "bottle/train/good/0.png"]
    assert len(everything(open_source(str(tmp_path / "bottle" / "ground_truth")))) == 1


def test_a_glob_is_matched_by_us(tmp_path: Path) -> None:
    for name in ("a1.png", "b1.png", "sub/a2.png"):
        line.write_photo(tmp_path / name, line.part())
    (tmp_path / "a.txt").touch()
    assert len(everything(open_source(str(tmp_path / "**" / "a*")))) == 2
    line.write_video(tmp_path / "a.avi", [line.part()], "MJPG")
    with pytest.raises(SourceError, match="matches videos"):
        open_source(str(tmp_path / "a*"))


def test_photos_and_videos_are_rgb(tmp_path: Path) -> None:
    red = line.part()
    red[..., 0] = 250
    photo = everything(open_source(str(line.write_photo(tmp_path / "a.png", red))))[0].photo
    frame = everything(open_source(str(line.write_video(tmp_path / "a.mp4", [red] * 3))))[0].photo
    assert photo is not None and frame is not None
    assert np.array_equal(photo, red)
    assert np.abs(frame.astype(int) - red).mean() < 8


def test_only_colour_and_grey_pictures_come_from_a_camera() -> None:
    assert to_rgb(np.full((4, 6), 7, np.uint8)).shape == (4, 6, 3)
    assert to_rgb(np.full((4, 6, 1), 7, np.uint16)).dtype == np.uint16
    assert to_rgb(np.zeros((1, 1, 3), np.uint8) + np.uint8([1, 2, 3]))[0, 0].tolist() == [3, 2, 1]
    for strange in (np.zeros((1, 999), np.float32), np.zeros((4, 6, 2), np.uint8), np.zeros((0, 0, 3), np.uint8)):
        with pytest.raises(DataError, match="wanted a BGR or grey picture"):
            to_rgb(strange)


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "XVID")])
def test_a_video_gives_every_frame_once(tmp_path: Path, ending: str, codec: str) -> None:
    photos = [line.part(10 + 2 * n) for n in range(100)]
    captured = everything(open_source(str(line.write_video(tmp_path / f"a{ending}", photos, codec))))
    assert [c.problem for c in captured] == [""] * 100
    brightness = [c.photo.mean() for c in captured if c.photo is not None]
    assert (np.diff(brightness) > 0).all()
    assert np.abs(np.array(brightness) - np.arange(10, 210, 2)).max() < 5  # codecs round colours


def test_while_frames_are_skipped_each_slow_one_is_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "BUSY", 0.0)
    path, signs = tmp_path / "a.avi", []
    line.write_video(path, [line.part()] * 12, "MJPG")
    assert len(list(video.Video("a", path).frames(skip=9, busy=lambda: signs.append(1)))) == 3
    assert len(signs) == 9


def test_a_video_with_a_damaged_tail_says_so(tmp_path: Path) -> None:
    path = line.write_video(tmp_path / "a.avi", [line.part(n) for n in range(100)], "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *whole, last = everything(open_source(str(path)))
    assert 20 < len(whole) < 80
    assert all(c.photo is not None for c in whole)
    assert last.photo is None
    assert f"{len(whole)} of 100 frames can be read" in last.problem


def test_a_stream_that_refuses_is_tried_again_with_growing_pauses_until_closed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        options = SourceOptions(open_timeout=1, read_timeout=1, retry=0.05, retry_most=0.2)
        source = Live("cam", f"rtsp://127.0.0.1:{taken.getsockname()[1]}/x", camera=False, options=options)
        reader = Reader(source)
        time.sleep(1.0)
        reader.finish()
    assert 3 <= len(reader.lost) <= 40
    assert set(reader.lost) == {"no connection"}
    assert reader.captured == []
