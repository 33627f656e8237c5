"""Plans kept between builds: found again for the same graph, recipe, TensorRT and GPU, and for nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import tiny

from mtkd_edge import bundle
from mtkd_edge.device import targets
from mtkd_edge.device.engines import _trt_build, _trt_plans
from mtkd_edge.device.engines._trt_plans import Key, kept_or_built, key
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import BackendError

PLAIN = Key("a" * 64, Batch(1, 1, 4), TensorrtRecipe(), False, "tensorrt 10.3.0", "Orin (compute capability 8.7)")
OTHERS = {
    "graph": "b" * 64,
    "batch": Batch(1, 1, 8),
    "recipe": TensorrtRecipe(optimization_level=5),
    "exact": True,
    "builder": "tensorrt 10.16.1",
    "gpu": "Thor (compute capability 11.0)",
}


class Builder:
    """Counts its builds; each gives other bytes, as TensorRT's do."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self) -> bytes:
        self.builds += 1
        return b"plan %d" % self.builds


def test_a_plan_is_built_once(tmp_path: Path) -> None:
    build = Builder()
    assert [kept_or_built(PLAIN, build, tmp_path) for _ in range(3)] == [b"plan 1"] * 3
    assert build.builds == 1


@pytest.mark.parametrize("field", OTHERS)
def test_another_graph_recipe_version_or_gpu_is_another_plan(field: str, tmp_path: Path) -> None:
    assert OTHERS.keys() == set(Key.__struct_fields__)
    build = Builder()
    kept_or_built(PLAIN, build, tmp_path)
    assert kept_or_built(msgspec.structs.replace(PLAIN, **{field: OTHERS[field]}), build, tmp_path) == b"plan 2"


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_plan_is_built_again(damage: bytes | None, tmp_path: Path) -> None:
    build = Builder()
    kept_or_built(PLAIN, build, tmp_path)
    path = next(tmp_path.glob("*.plan"))
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.write_bytes(bytes(flipped) if damage is None else damage)
    assert kept_or_built(PLAIN, build, tmp_path) == b"plan 2"
    assert kept_or_built(PLAIN, build, tmp_path) == b"plan 2"


def test_the_oldest_are_forgotten_and_nothing_else_is_left(tmp_path: Path) -> None:
    for number in range(_trt_plans.KEPT + 3):
        kept_or_built(msgspec.structs.replace(PLAIN, gpu=str(number)), Builder(), tmp_path)
        newest = tmp_path / f"{msgspec.structs.replace(PLAIN, gpu=str(number)).digest()}.plan"
        os.utime(newest, ns=(number, number))
    assert len(list(tmp_path.iterdir())) == _trt_plans.KEPT
    assert _trt_plans.read(newest) == b"plan 1"


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert kept_or_built(PLAIN, Builder(), tmp_path / "file") == b"plan 1"


def test_a_build_that_fails_keeps_nothing(tmp_path: Path) -> None:
    def fails() -> bytes:
        raise BackendError("no tactic")

    with pytest.raises(BackendError):
        kept_or_built(PLAIN, fails, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_build_of_an_engine_takes_both_plans_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = []
    for name in ("one", "two", "three"):
        tiny.make_bundle(tmp_path / name, seed=1 if name == "three" else 0)
        _trt_build.build_plans(trt, tmp_path / name, targets.load("rtx"), "fp32", "none")
        made.append([(tmp_path / name / plan).read_bytes() for plan in _trt_build.PLANS])
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    graph = tmp_path / "one" / bundle.FEATURES
    recipe = targets.load("rtx")
    builder = f"tensorrt_rtx {trt.__version__}"
    assert key(graph, recipe.batch, recipe.tensorrt, True, builder, "none").digest() in {
        path.stem for path in (tmp_path / "cache" / "mtkd-edge" / "plans").iterdir()
    }
