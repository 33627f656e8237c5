"""The demo: the whole chain with the real commands, and the small parts it adds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtkd_edge.demo import look
from mtkd_edge.demo.line import Passing, Truth
from mtkd_edge.demo.look import VideoReport
from mtkd_edge.demo.run import MARKER, claim
from mtkd_edge.errors import UsageError

EPOCHS = 4
"""Enough for the chain to work; the demo itself trains for longer."""


@pytest.mark.slow
def test_from_photos_to_verdicts_with_one_command_and_no_network(tmp_path: Path) -> None:
    """Render, train, build INT8, evaluate, watch: every photo and every frame of the video has its verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "mtkd_edge", "demo", "--epochs", str(EPOCHS), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {kind: sum(states.values()) for kind, states in report["verdicts"].items()} == {
        "good": 20,
        **dict.fromkeys(("chip", "hole", "mark", "scratch", "stain"), 8),
    }
    assert report["video"]["verdicts"] == report["video"]["frames"] == 120
    assert report["evaluation"]["image_auroc"] > 0.75
    assert report["gate"]["spearman"] > 0.99
    out = tmp_path / "demo-line"
    assert len((out / "verdicts" / "test.jsonl").read_text().splitlines()) == 60
    assert (tmp_path / report["contact_sheet"]).stat().st_size > 100_000
    evidence = json.loads((out / "calibration" / "run.json").read_text())
    assert len(evidence["photos"]) > 60


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="in use"):
        claim(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_of_another_program_with_a_demo_json_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"scene": 1}')
    with pytest.raises(UsageError, match="in use"):
        claim(tmp_path)
    assert (tmp_path / MARKER).read_text() == '{"scene": 1}'


def test_a_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    claim(tmp_path / "demo")
    (tmp_path / "demo" / "old.txt").write_text("old")
    (tmp_path / "empty").mkdir()
    for target in ("demo", "empty", "nowhere"):
        (link := tmp_path / f"to-{target}").symlink_to(target)
        with pytest.raises(UsageError, match=f"to-{target} is a link to {target}"):
            claim(link)
    assert (tmp_path / "demo" / "old.txt").exists()
    assert not any((tmp_path / "empty").iterdir()) and not (tmp_path / "nowhere").exists()


def test_links_in_an_earlier_demo_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    claim(tmp_path / "demo")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").write_text("mine")
    (tmp_path / "demo" / "run").symlink_to(tmp_path / "mine")
    (tmp_path / "demo" / "line").mkdir()
    (tmp_path / "demo" / "line" / "photo").symlink_to(tmp_path / "mine" / "photo")
    claim(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARKER]
    assert (tmp_path / "mine" / "photo").read_text() == "mine"


def test_a_folder_with_a_mark_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    claim(tmp_path / "demo")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / MARKER).symlink_to(tmp_path / "demo" / MARKER)
    with pytest.raises(UsageError, match="in use"):
        claim(tmp_path / "mine")


def test_what_is_mounted_inside_an_earlier_demo_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, table = tmp_path / "my demo", tmp_path / "mountinfo"
    claim(out)
    (out / "run").mkdir()
    row = "40 30 8:1 / {} rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    table.write_text(row.format("/") + row.format(str(out / "run").replace(" ", "\\040")))
    monkeypatch.setattr("mtkd_edge.demo.run.MOUNTS", table)
    with pytest.raises(UsageError, match="my demo/run is mounted inside"):
        claim(out)
    assert (out / "run").is_dir()
    table.write_text(row.format("/") + row.format(str(out).replace(" ", "\\040")))
    claim(out)
    assert not (out / "run").exists()


def test_an_earlier_demo_is_made_anew(tmp_path: Path) -> None:
    claim(tmp_path / "demo")
    (tmp_path / "demo" / "old.txt").write_text("old")
    claim(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARKER]


def test_a_part_in_the_video_is_called_what_most_of_its_frames_are() -> None:
    parts = (Passing(0, 3, "good"), Passing(4, 7, "hole"), Passing(8, 11, "chip"), Passing(12, 15, "good"))
    truth = Truth("line.mkv", 10.0, 16, tuple(range(4, 12)), parts)
    assert look.by_part(truth, {4, 5, 6, 8, 9, 13, 14, 15}, 16) == VideoReport(
        frames=16, verdicts=16, parts=4, defective=2, found=1, false_alarms=1
    )


def test_the_contact_sheet_shows_good_parts_first(tmp_path: Path) -> None:
    pictures = {kind: [np.full((40, 60, 3), grey, np.uint8)] * 4 for kind, grey in (("chip", 0), ("good", 200))}
    path = look.contact_sheet(pictures, tmp_path / "sheet.jpg")
    sheet = look.cv2.imread(str(path))
    height = sheet.shape[0]
    assert sheet[height // 4, sheet.shape[1] // 8].mean() > 150
    assert sheet[3 * height // 4, sheet.shape[1] // 8].mean() < 50
