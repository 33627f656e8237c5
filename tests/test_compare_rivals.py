"""`scripts/compare_rivals.py` with a double of anomalib: what it is told, what is kept, stopped and said."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import compare_rivals
import line
import msgspec
import numpy as np
import pytest
import rivals_table as tables
from compare_rivals import Setup, run_cell
from rivals_photos import Photos, prepare
from rivals_table import Cell
from rivals_work import OverBudgetError, Spent, spend, version

from mtkd_edge import __version__

DOUBLE = """#!{python}
import json, sys, numpy as np
from pathlib import Path
child, rival, frames, out, *options = sys.argv[1:]
with open({calls!r}, "a") as log:
    log.write(json.dumps([rival, sorted(p.name for p in Path(frames).glob("*.np*")), options]) + "\\n")
test = np.load(Path(frames, "test.npy"))
assert test.dtype == np.uint8 and test.ndim == 4, test.shape
maps = test.mean(-1).astype(np.float32)
np.save(Path(out, "maps.npy"), maps)
np.save(Path(out, "scores.npy"), maps.max((1, 2)))
Path(options[options.index("--onnx") + 1]).write_bytes(bytes(2_000_000))
Path(out, "child.json").write_text(json.dumps(
    {{"train_seconds": 3.0, "train_wall": 4.0, "torch_ms": 5.0, "peak_mb": 600.0}}))
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """12 dark good photos to train on; to test 4 dark ones and 4 with a bright speck and its mask."""
    root = tmp_path / "parts"
    for n in range(12):
        line.write_photo(root / "train/good" / f"{n}.png", line.part(15 + n))
    for n in range(4):
        line.write_photo(root / "test/good" / f"{n}.png", line.part(30 + n))
        photo, mask = line.part(40 + n, size=128), np.zeros((128, 128, 3), np.uint8)
        photo[32:48, 64:80], mask[32:48, 64:80] = 220, 255
        line.write_photo(root / "test/speck" / f"{n}.png", photo)
        line.write_photo(root / "ground_truth/speck" / f"{n}_mask.png", mask)
    return root


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    double = tmp_path / "anomalib"
    double.write_text(DOUBLE.format(python=sys.executable, calls=str(tmp_path / "calls")))
    double.chmod(0o755)
    for name in compare_rivals.OURS["ours"].teachers:
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / "model.safetensors").write_bytes(name.encode())
    return Setup(tmp_path / "out", tmp_path / "weights", double, "anomalib 1.2", budget=5, rate=20, batch=8, threads=1)


def calls(tmp_path: Path) -> list[tuple[str, list[str], list[str]]]:
    return [json.loads(row) for row in (tmp_path / "calls").read_text().splitlines()]


def cell(photos: Photos, method: str, seed: int = 0) -> Cell:
    return msgspec.json.decode((photos.folder / f"{method}-seed{seed}.json").read_bytes(), type=Cell)


def test_a_rival_gets_frames_without_labels_and_its_answers_are_judged_here(
    parts: Path, setup: Setup, tmp_path: Path
) -> None:
    photos = prepare(parts, setup.out)
    run_cell("padim", 3, photos, setup)
    [(rival, seen, options)] = calls(tmp_path)
    assert (rival, seen) == ("padim", ["test.npy", "train.npy"])
    assert options[options.index("--seed") + 1] == "3"
    assert options[options.index("--weights") + 1] == str(tmp_path / "weights/resnet18")
    assert np.load(photos.folder / "train.npy").shape == (12, 256, 256, 3)
    found = cell(photos, "padim", 3)
    assert found.asked["program"] == f"anomalib 1.2, judged by {__version__}"
    assert (found.image_auroc, found.per_defect) == (1.0, {"speck": 1.0})
    assert found.pixel_auroc is not None and found.pixel_auroc > 0.99
    assert found.aupro is not None and found.aupro > 0.95
    assert (found.train_seconds, found.torch_ms, found.peak_mb, found.model_mb) == (3.0, 5.0, 600.0, 2.0)
    assert sorted(p.name for p in photos.folder.iterdir()) == [
        "padim-seed3.json",
        "padim.onnx",
        "photos.sha256",
        "test.npy",
        "train.npy",
    ]


def test_answers_for_another_number_of_photos_are_refused(parts: Path, setup: Setup, tmp_path: Path) -> None:
    photos = prepare(parts, setup.out)
    np.save(tmp_path / "maps.npy", np.zeros((7, 256, 256), np.float32))
    np.save(tmp_path / "scores.npy", np.zeros(7))
    with pytest.raises(ValueError, match="maps of 8 photos"):
        compare_rivals.judged("padim", photos, tmp_path)


def test_a_second_run_starts_only_what_is_missing(parts: Path, setup: Setup, tmp_path: Path) -> None:
    photos = prepare(parts, setup.out)
    for seed in (0, 0, 1):
        run_cell("padim", seed, photos, setup)
    assert [options[options.index("--seed") + 1] for _, _, options in calls(tmp_path)] == ["0", "1"]


def test_what_is_over_its_budget_is_named_and_tried_again_with_a_larger_one(
    parts: Path, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = prepare(parts, setup.out)
    asked: list[float] = []

    def stopped(command: list[str], minutes: float, threads: int) -> Spent:
        asked.append(minutes)
        raise OverBudgetError("after 10 processor minutes")

    with monkeypatch.context() as patch:
        patch.setattr(compare_rivals, "spend", stopped)
        run_cell("stfpm", 0, photos, setup)
        run_cell("stfpm", 0, photos, setup)
    assert asked == [10]
    assert cell(photos, "stfpm").stopped == "after 10 processor minutes"
    assert "stopped: after 10 processor minutes" in tables.table([cell(photos, "stfpm")], {})
    run_cell("stfpm", 0, photos, replace(setup, budget=6))
    assert cell(photos, "stfpm").image_auroc == 1.0
    assert len(calls(tmp_path)) == 1


def test_cells_of_other_settings_are_refused_before_anything_is_run(
    parts: Path, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell("stfpm", 0, prepare(parts, setup.out), setup)
    monkeypatch.setattr(compare_rivals, "version", lambda python: "anomalib 1.2")
    words = ["--out", str(setup.out), "--anomalib-python", str(setup.anomalib), "--methods", "stfpm", "--seeds", "1"]
    other = tmp_path / "other" / "resnet18"
    other.mkdir(parents=True)
    (other / "model.safetensors").write_bytes(b"other weights")
    for named, what in (
        (["--weights", str(setup.weights), "--max-minutes", "0.6"], r"setting was .* for seed 0, and is .* now"),
        (["--weights", str(setup.weights), "--max-minutes", "5", "--batch", "4"], r"setting was .* of 8"),
        (["--weights", str(setup.weights), "--max-minutes", "5", "--threads", "2"], "threads was 1"),
        (["--weights", str(other.parent), "--max-minutes", "5"], "weights was"),
    ):
        monkeypatch.setattr(sys, "argv", ["compare_rivals.py", str(parts), *words, *named])
        with pytest.raises(SystemExit, match=f"parts, stfpm: {what}(?s:.*)delete parts/stfpm-seed"):
            compare_rivals.main()
    monkeypatch.setattr(sys, "argv", ["x", str(parts), *words, "--weights", str(setup.weights), "--max-minutes", "5"])
    monkeypatch.setattr(compare_rivals, "version", lambda python: "anomalib 1.3")
    with pytest.raises(SystemExit, match=r"program was anomalib 1\.2, .* and is anomalib 1\.3"):
        compare_rivals.main()
    assert len(calls(tmp_path)) == 1
    monkeypatch.setattr(compare_rivals, "version", lambda python: "anomalib 1.2")
    compare_rivals.main()
    assert len(calls(tmp_path)) == 2


def test_frames_of_other_photos_under_the_same_name_are_refused(parts: Path, setup: Setup, tmp_path: Path) -> None:
    prepare(parts, setup.out)
    shutil.copytree(parts, tmp_path / "moved" / "parts")
    assert prepare(tmp_path / "moved" / "parts", setup.out).digest == prepare(parts, setup.out).digest
    line.write_photo(tmp_path / "moved" / "parts/test/speck/0.png", line.part(99))
    with pytest.raises(SystemExit, match=r"was made of other photos than those of .*moved/parts: name another --out"):
        prepare(tmp_path / "moved" / "parts", setup.out)


def test_ours_is_trained_built_and_evaluated_by_the_commands_of_a_user(
    parts: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = prepare(parts, setup.out)
    np.save(photos.folder / "maps.npy", np.load(photos.folder / "test.npy").mean(-1).astype("f4"))
    np.save(photos.folder / "scores.npy", np.arange(8.0))
    answer = msgspec.json.encode(compare_rivals.judged("x", photos, photos.folder)).decode()
    commands: list[list[str]] = []

    def spent(command: list[str], minutes: float, threads: int) -> Spent:
        commands.append(command[3:])
        if command[3] == "build-engine":
            folder = Path(command[command.index("--out") + 1])
            folder.mkdir(parents=True)
            for name in ("features.onnx", "head.onnx"):
                (folder / name).write_bytes(bytes(1_500_000))
            (folder.parent / "run").mkdir(exist_ok=True)
        return Spent(answer, 7.0, 6.0, 500.0)

    monkeypatch.setattr(compare_rivals, "spend", spent)
    with pytest.raises(SystemExit, match="run the method ours first"):
        run_cell("ours-int8", 0, photos, setup)
    for method in ("ours", "ours-int8", "ours-squashed"):
        run_cell(method, 0, photos, setup)
    built = ["build-engine", "evaluate"]
    assert [command[0] for command in commands] == ["train", *built, *built, "train", *built]
    fits = [command[command.index("--fit") + 1] for command in commands if command[0] == "train"]
    assert fits == ["auto", "squash"]
    teachers = commands[0][commands[0].index("--teachers") + 1].split(",")
    assert teachers == [f"local-dir:{setup.weights}/{n}" for n in ("resnet18", "mobilenetv2_100", "mobilenetv1_100")]
    assert ("--fp32" in commands[1], "--int8" in commands[3]) == (True, True)
    found, small = cell(photos, "ours"), cell(photos, "ours-int8")
    assert (found.train_seconds, found.peak_mb, found.model_mb) == (6.0, 500.0, 3.0)
    assert (small.train_seconds, small.image_auroc) == (None, found.image_auroc)
    (photos.folder / "ours-seed0.json").unlink()
    run_cell("ours", 0, photos, setup)
    assert not (photos.folder / "ours-int8-seed0.json").exists()  # of a run that is gone


def test_a_command_tells_what_it_took_and_is_stopped_by_its_processor_time() -> None:
    took = spend([sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], 1, 3)
    assert took.stdout == "3\n"
    assert 0 < took.processor < 60 and took.peak_mb > 1
    with pytest.raises(OverBudgetError, match="processor minutes"):
        spend([sys.executable, "-c", "while True: pass"], 1 / 60, 1)
    with pytest.raises(SystemExit, match="ended with 3"):
        spend([sys.executable, "-c", "raise SystemExit(3)"], 1, 1)


def test_which_anomalib_is_asked_of_its_own_python(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && PYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(SystemExit, match="has no anomalib; name another --anomalib-python"):
        version(python)
    (tmp_path / "anomalib-1.2.dist-info").mkdir()
    (tmp_path / "anomalib-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: anomalib\nVersion: 1.2\n")
    assert version(python) == "anomalib 1.2"


def made(method: str, seed: int, area: float | None, data: str = "tiles") -> Cell:
    return Cell(
        data=data, method=method, seed=seed, setting="as published", budget=5, image_auroc=area, pixel_auroc=area,
        aupro=area, train_seconds=100.0 + seed, torch_ms=40.0, peak_mb=900.0, model_mb=5.5,
        stopped="" if area else "after 10 processor minutes",
    )  # fmt: skip


def test_the_table_has_means_over_the_seeds_that_ended(tmp_path: Path) -> None:
    cells = [made("padim", 1, 0.9), made("padim", 0, 0.8), made("padim", 2, None), made("ours", 0, 0.95)]
    for one in cells:
        folder = tmp_path / one.data
        folder.mkdir(exist_ok=True)
        (folder / f"{one.method}-seed{one.seed}.json").write_bytes(msgspec.json.encode(one))
    rows = tables.table(tables.read(tmp_path), {"padim": 12.34}).splitlines()
    assert rows[0] == "**tiles**"
    assert len({row.count("|") for row in rows[2:]}) == 1
    assert rows[4] == "| ours | 0.9500 | 0.9500 | 0.9500 | 100 | 40 | – | 900 | 5.5 | as published; 1 seed |"
    assert rows[5] == (
        "| PaDiM | 0.8500 ± 0.0707 | 0.8500 ± 0.0707 | 0.8500 ± 0.0707 | 100 | 40 | 12.3 | 900 | 5.5 "
        "| as published; 2 seeds; seed 2 stopped: after 10 processor minutes |"
    )


def test_seeds_of_different_settings_are_no_row() -> None:
    one, other = made("padim", 0, 0.8), msgspec.structs.replace(made("padim", 1, 0.9), setting="in short")
    with pytest.raises(SystemExit, match="setting was as published for seed 0, and is in short for seed 1"):
        tables.table([one, other], {})
    stopped = msgspec.structs.replace(other, stopped="after 10 processor minutes", image_auroc=None)
    assert "| as published; 1 seed; seed 1 stopped" in tables.table([stopped, one], {})


def test_the_figure_shows_what_has_both_an_accuracy_and_a_time(tmp_path: Path) -> None:
    cells = [made("padim", 0, 0.8), made("ours", 0, 0.95), made("stfpm", 0, 0.7), made("ours", 0, 0.99, "bottle")]
    path = tmp_path / "rivals.svg"
    tables.draw(cells, {"padim": 30.0, "ours": 20.0}, path)
    drawn = path.read_text()
    assert drawn.count("<!-- PaDiM -->") == 2  # image AUROC and AUPRO of tiles
    assert drawn.count("<!-- ours -->") == 4
    assert "<!-- STFPM -->" not in drawn


def test_speed_wants_our_int8_engine_first(parts: Path, setup: Setup) -> None:
    photos = prepare(parts, setup.out)
    with pytest.raises(SystemExit, match="--methods ours,ours-int8"):
        compare_rivals.speed(setup, [photos], 0.1)


@pytest.mark.skipif(shutil.which("true") is None, reason="needs a POSIX system")
def test_an_environment_that_has_everything_is_left_as_it_is(tmp_path: Path) -> None:
    from rivals_work import environment

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(shutil.which("true") or "")
    assert environment(tmp_path) == tmp_path / "bin/python"
