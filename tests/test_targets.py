"""Target recipes: found by name or path, strict about every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtkd_edge.device import targets
from mtkd_edge.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("cpu", "openvino"),
        ("rtx", "tensorrt_rtx"),
        ("h100", "tensorrt"),
        ("orin-nano", "tensorrt"),
        ("orin-agx", "tensorrt"),
        ("thor", "tensorrt"),
    ],
)
def test_every_promised_target_is_there_and_named_for_its_file(name, backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found from any folder
    target = targets.load(name)
    assert (target.name, target.backend, target.precision) == (name, backend, "int8")
    assert (target.gate.spearman, target.gate.auroc_drop, target.gate.flips) == (0.99, 0.002, 0.005)


def test_known_lists_exactly_the_recipes_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(targets.known()) == sorted(path.stem for path in (ROOT / "engines").glob("*.toml"))


def test_the_users_own_recipe_comes_before_the_packages(tmp_path, monkeypatch):
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "cpu.toml").write_text('name = "cpu"\nbackend = "openvino"\n[batch]\nmax = 3\n')
    monkeypatch.chdir(tmp_path)
    assert targets.load("cpu").batch.max == 3


def test_a_recipe_can_be_given_by_its_path(tmp_path):
    path = tmp_path / "line7.toml"
    path.write_text('name = "line7"\nbackend = "openvino"\n[openvino]\nthreads = 2\n')
    assert targets.load(str(path)).openvino.threads == 2


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'orin'.*cpu, h100, orin-agx, orin-nano, rtx, thor"):
        targets.load("orin")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\nbackend = "openvino"\n[openvino]\nhints = "latency"', r"`hints` - at `\$\.openvino`"),
        ('name = "x"\nbackend = "openvino"\nbatches = 3', "`batches`"),
        ('name = "x"\nbackend = "cuda"', r"'cuda' - at `\$\.backend`"),
        ('name = "x"\nbackend = "openvino"\n[batch]\nmax = "8"', r"`\$\.batch\.max`"),
        ('name = "x"\nbackend = "openvino"\n[batch]\nopt = 4\nmax = 2', r"1 <= min <= opt <= max, got 1, 4, 2"),
        ('name = "x"\nbackend = "openvino"\n[openvino]\nthreads = -1', "threads must be 0"),
        ('name = "x"\nbackend = "tensorrt"\n[tensorrt]\nworkspace_mib = 1', "at least 16, got 1"),
        ('name = "x"\nbackend = "tensorrt"\n[tensorrt]\noptimization_level = 6', "0 to 5, got 6"),
        ('backend = "openvino"', "`name`"),
        ("name = ", "not a target recipe"),
    ],
)
def test_a_slip_in_a_recipe_names_the_file_and_the_key(text, words, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        targets.load(str(path))
    assert str(path) in caught.value.message


def test_a_recipe_that_is_not_there_or_not_text_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        targets.load(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a target recipe"):
        targets.load(str(tmp_path / "bytes.toml"))
