"""places: the newest run and engine, and the names of the next ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from mtkd_edge import places
from mtkd_edge.cli.build import build_engine
from mtkd_edge.errors import BundleError, UsageError
from mtkd_edge.lab import build_run


def made(path: Path, age: int) -> Path:
    """An empty file that was written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_newest_run_is_the_one_whose_bundle_was_written_last(tmp_path: Path) -> None:
    made(tmp_path / "b" / "bundle" / "bundle.json", age=50)
    made(tmp_path / "a" / "bundle" / "bundle.json", age=10)
    made(tmp_path / "c" / "config.json", age=0)
    assert places.newest_run(tmp_path) == tmp_path / "a"
    assert places.newest_started(tmp_path) == tmp_path / "c"


def test_a_new_threshold_does_not_make_an_engine_newer(tmp_path: Path) -> None:
    made(tmp_path / "old" / "engine.json", age=50)
    made(tmp_path / "old" / "threshold.json", age=0)
    made(tmp_path / "new" / "engine.json", age=10)
    made(tmp_path / ".new-cpu.tmp" / "engine.json", age=0)  # a build that was killed
    assert places.newest_engine(tmp_path) == tmp_path / "new"


def test_recipes_beside_the_engines_are_no_engines(tmp_path: Path) -> None:
    made(tmp_path / "cpu.toml", age=0)
    with pytest.raises(BundleError) as caught:
        places.newest_engine(tmp_path)
    assert caught.value.hint == "mtkd-edge build-engine --int8"


@pytest.mark.parametrize("find", [places.newest_run, places.newest_started])
def test_no_run_says_how_to_make_one(find: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no (finished )?run in") as caught:
        find(tmp_path / "runs")
    assert caught.value.hint == "mtkd-edge train"


def test_a_bundle_is_found_in_its_run_and_by_itself(tmp_path: Path) -> None:
    made(tmp_path / "run" / "bundle" / "bundle.json", age=0)
    assert places.bundle_of(tmp_path / "run") == tmp_path / "run" / "bundle"
    assert places.bundle_of(tmp_path / "run" / "bundle") == tmp_path / "run" / "bundle"


def test_an_unfinished_run_is_told_from_a_folder_that_is_no_run(tmp_path: Path) -> None:
    made(tmp_path / "run" / "config.json", age=0)
    with pytest.raises(BundleError, match="has not finished") as caught:
        places.bundle_of(tmp_path / "run")
    assert caught.value.hint == f"mtkd-edge train --resume --out {tmp_path / 'run'}"
    with pytest.raises(BundleError, match="is not a run"):
        places.bundle_of(tmp_path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("bottle", "bottle"),
        ("bottle/train/good", "bottle"),
        ("line 3/data", "line-3"),
        ("Schraube Ø4/photos", "Schraube-4"),
    ],
)
def test_a_run_is_named_after_the_part_and_not_after_the_layout(data: str, name: str, tmp_path: Path) -> None:
    assert places.new_run(tmp_path / data, Path("runs")) == Path("runs") / name


def test_a_run_never_takes_a_name_that_is_taken(tmp_path: Path) -> None:
    for name in ("bottle", "bottle-2"):
        (tmp_path / name).mkdir()
    assert places.new_run(Path("bottle"), tmp_path) == tmp_path / "bottle-3"


def test_the_root_of_the_disk_still_has_a_name() -> None:
    assert places.new_run(Path("/"), Path("runs")).name == "run"


def test_an_engine_stays_in_its_folder() -> None:
    assert places.engine_folder("bottle", "cpu") == Path("engines/bottle-cpu")
    with pytest.raises(UsageError):
        places.engine_folder("../bottle", "cpu")


def test_an_engine_of_a_run_that_is_named_by_its_bundle_is_built_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):  # noqa: N818 - not an error
        pass

    def build(run: Path, source: Path, *rest: object) -> None:
        raise Stop(run, source)

    tiny.make_bundle(tmp_path / "run" / places.BUNDLE_FOLDER)
    monkeypatch.setattr(build_run, "build", build)
    for named in (tmp_path / "run", tmp_path / "run" / places.BUNDLE_FOLDER):
        with pytest.raises(Stop) as stopped:
            build_engine(named, target="cpu")
        assert stopped.value.args == (tmp_path / "run", tmp_path / "run" / places.BUNDLE_FOLDER)
