"""What a benchmark can be told: the published protocol by default, rows of ablations, and what makes no sense."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from mtkd_edge.cli.train import chosen
from mtkd_edge.errors import UsageError
from mtkd_edge.lab.benchmark.settings import complete, variants
from mtkd_edge.lab.benchmark.suites import choose
from mtkd_edge.lab.config import TrainConfig


def test_the_defaults_are_the_published_protocol() -> None:
    settings = complete("mvtec", "x", {"method": "paper"})
    assert settings.teachers == ("resnet152.tv_in1k", "vgg19.tv_in1k", "densenet201.tv_in1k")
    corners = settings.corners()
    assert (len(corners), corners[0], corners[-1]) == (25, (0, 0), (800, 800))
    assert (settings.size, settings.crop, settings.crops, settings.epochs, settings.student) == (
        1024,
        224,
        16,
        500,
        "resnet18",
    )
    assert complete("cifar10", "x", {"method": "paper", "protocol": "oracle"}).looks() == tuple(range(50, 501, 50))


def test_the_last_crop_ends_at_the_border_whatever_the_stride_leaves_over() -> None:
    settings = complete("mvtec", "x", {"method": "paper", "size": 512})
    assert sorted({top for top, _ in settings.corners()}) == [0, 200, 288]


@pytest.mark.parametrize(
    "given",
    [
        {"method": "map", "protocol": "oracle"},
        {"method": "map", "train_photos": 50},
        {"method": "map", "terms": (1.0, 0.0, 0.0)},
        {"method": "paper", "crop": 300, "size": 256},
        {"method": "paper", "epochs": 0},
        {"method": "paper", "train_photos": 3},
        {"method": "paper", "student": "multi", "teachers": ("none",)},
        {"preset": "nobody"},
        {"method": "map", "size": 100},
        {"method": "map", "batch": 1},
        {"method": "map", "epochs": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        complete("mvtec", "x", given)


@pytest.mark.parametrize(
    ("teachers", "why"),
    [
        (("local-dir:a/resnet18", "local-dir:b/resnet18/"), "both called resnet18"),
        (("local-dir:resnet18", "resnet18"), "both called resnet18"),
        (("vgg19", "resnet18", "vgg19"), "vgg19 is given twice"),
    ],
)
def test_two_teachers_of_one_name_are_refused(teachers: tuple[str, ...], why: str) -> None:
    """Their rows of an ablation would be one folder, and their importance one figure."""
    with pytest.raises(UsageError, match=why):
        complete("mvtec", "x", {"method": "paper", "teachers": teachers})
    with pytest.raises(UsageError, match=why):
        TrainConfig(data="x", out="y", teachers=teachers).check()


@pytest.mark.parametrize("terms", [(0.0, 0.0, 0.0), (1.0, -0.1, 1.0), (1.0, nan, 1.0), (inf, 1.0, 1.0)])
def test_terms_that_make_no_score_are_refused(terms: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="r1, r2 and r3 are finite"):
        complete("mvtec", "x", {"method": "paper", "terms": terms})
    with pytest.raises(UsageError, match="r1, r2 and r3 are finite"):
        TrainConfig(data="x", out="y", method="paper", terms=terms).check()


def test_a_category_that_is_named_twice_is_run_once() -> None:
    class Two:
        def categories(self) -> tuple[str, ...]:
            return "a", "b"

    assert choose(Two(), ("b", "b")) == ("b",)  # type: ignore[arg-type]
    assert choose(Two(), ()) == ("a", "b")  # type: ignore[arg-type]


def test_ablations_are_rows_and_not_other_programs() -> None:
    settings = complete("mvtec", "x", {"method": "paper"})
    rows = {row.name: row for row in variants(settings, "teachers")}
    assert list(rows) == ["all", "only-resnet152.tv_in1k", "only-vgg19.tv_in1k", "only-densenet201.tv_in1k", "none"]
    assert [row.weights for row in variants(settings, "weights")] == ["learned", "equal"]
    assert [row.name for row in variants(complete("mvtec", "x", {}), "teachers")][-1] != "none"
    several = complete("mvtec", "x", {"method": "paper", "student": "multi"})
    assert [row.name for row in variants(several, "teachers")] == list(rows)[:-1]
    assert [row.weights for row in variants(complete("mvtec", "x", {}), "weights")] == ["learned", "equal"]


def test_of_one_teacher_there_is_nothing_to_take_away_but_itself() -> None:
    one = complete("mvtec", "x", {"method": "paper", "teachers": ("resnet18",)})
    assert [row.name for row in variants(one, "teachers")] == ["all", "none"]
    with pytest.raises(UsageError, match="nothing to be weighed against"):
        variants(one, "weights")


@pytest.mark.parametrize("text", ["", ",", ",,"])
def test_teachers_of_which_none_is_named_are_not_the_presets(text: str) -> None:
    with pytest.raises(UsageError, match="names no teacher"):
        chosen(teachers=text)
