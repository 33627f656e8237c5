"""The tables of a benchmark: what was published stands beside what was run, and says how each was chosen."""

from __future__ import annotations

from statistics import mean

import pytest

from mtkd_edge.lab.benchmark import published, tables
from mtkd_edge.lab.benchmark.outcome import Oracle, Outcome
from mtkd_edge.lab.benchmark.settings import complete


def outcome(category: str, seed: int = 0, value: float = 0.9, variant: str = "all", **changes: object) -> Outcome:
    given: dict[str, object] = {
        "variant": variant,
        "category": category,
        "seed": seed,
        "image_auroc": value,
        "importance": {"one": (0.25,), "two": (0.75,)},
        "photos": {"train": 90, "tune": 10, "good": 20, "anomalous": 63},
        "scores": (),
        "seconds": 1.0,
    }
    return Outcome(**{**given, **changes})  # type: ignore[arg-type]


def cells(text: str, row: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_published_rows_have_the_published_means() -> None:
    assert mean(row.best for row in published.MVTEC.values()) == pytest.approx(94.96, abs=0.01)
    assert mean(row.last for row in published.MVTEC.values()) == pytest.approx(93.16, abs=0.01)
    assert mean(row.best for row in published.CIFAR10.values()) == pytest.approx(92.27, abs=0.01)
    assert mean(row.last for row in published.CIFAR10.values()) == pytest.approx(92.11, abs=0.01)


def test_an_honest_table_has_mean_spread_and_the_difference_to_the_last_published_epoch() -> None:
    settings = complete("mvtec", "x", {"method": "paper"})
    rows = [outcome("grid", seed, value) for seed, value in enumerate((0.90, 0.92))] + [outcome("tile", 0, 0.97)]
    text = tables.markdown(settings, [*rows, outcome("tile", 1, 0.97)], "a CPU")
    assert cells(text, "grid")[1:4] == ["91.81", "91.00 ± 1.41", "-0.81"]
    assert cells(text, "mean")[1:4] == [f"{(91.81 + 97.40) / 2:.2f}", "94.00 ± 0.71", "-0.61"]
    assert "one 0.250, two 0.750" in text
    assert "2 seeds" in text and "upper bound" not in text


def test_test_photos_that_were_left_out_are_counted_by_category() -> None:
    photos = {"train": 90, "tune": 10, "good": 20, "anomalous": 63}
    rows = [outcome("grid", photos={**photos, "left_out": 3}), outcome("tile", photos=photos)]
    text = tables.markdown(complete("mvtec", "x", {"method": "map"}), rows, "a CPU")
    assert "Test photos left out, because they cannot be read or are copies: 3 of grid." in text
    assert "left out" not in tables.markdown(complete("mvtec", "x", {"method": "map"}), rows[1:], "a CPU")


def test_an_oracle_table_is_labelled_and_shows_the_honest_figure_beside_it() -> None:
    settings = complete("cifar10", "x", {"method": "paper", "protocol": "oracle"})
    picked = Oracle(0.95, (50,), (0.8, 0.1, 0.1))
    text = tables.markdown(settings, [outcome("cat", value=0.8, oracle=picked)], "a CPU")
    assert cells(text, "category")[1] == "published, best epoch and r chosen by test labels"
    assert cells(text, "cat") == ["cat", "87.41", "95.00", "+7.59", "80.00"]
    assert "an upper bound, not a result" in text


def test_three_students_are_compared_with_their_mean_and_only_where_all_categories_were_run() -> None:
    settings = complete("cifar10", "x", {"method": "paper", "protocol": "oracle", "student": "multi"})
    assert tables.theirs(settings, ["cat"], best=True) is None
    assert tables.theirs(settings, list(published.CIFAR10), best=True) == 92.55
    assert tables.theirs(settings, list(published.CIFAR10), best=False) is None


def test_other_folders_have_no_published_column() -> None:
    text = tables.markdown(complete("folder", "x", {}), [outcome("bolt", pixel_auroc=0.8)], "a CPU")
    assert cells(text, "bolt")[1:5] == ["", "90.00", "", "80.00"]


def test_ablations_stand_beside_each_other() -> None:
    settings = complete("mvtec", "x", {"method": "paper"})
    rows = [outcome("grid"), outcome("tile"), outcome("grid", 0, 0.5, "none"), outcome("tile", 0, 0.7, "none")]
    text = tables.ablation(rows)
    assert cells(text, "none") == ["none", "50.00", "70.00", "60.00"]
    assert "### none" in tables.markdown(settings, rows, "a CPU")
