"""Teachers that cannot be loaded: a typo is told from a network that is away, and both from damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from logit_nets import write_teachers

from mtkd_edge.errors import DataError, UsageError
from mtkd_edge.lab import teachers

BOTH = pytest.mark.parametrize("load", [teachers.load, teachers.classifier])
NETWORK = "without a network"


@BOTH
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("mobilenetv2", "mobilenetv2_100"),
        ("resnet18.a1_ink", r"resnet18\.a1_in1k"),
        ("offline-rez", "offline-res"),
        ("torchvision:squeezenet", "torchvision:squeezenet1_1"),
        ("hf-hubb:timm/resnet18", "hf-hub:NAME"),
    ],
)
def test_a_typo_is_told_with_the_names_near_it(load: Callable[[str], object], name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"no model with weights is called '{name}'(?s:.*){near}") as caught:
        load(name)
    assert NETWORK not in str(caught.value)


@BOTH
def test_files_that_are_not_there_or_do_not_fit_are_named(load: Callable[[str], object], tmp_path: Path) -> None:
    first, second = (Path(name.removeprefix("local-dir:")) for name in write_teachers(tmp_path))
    (first / "config.json").write_bytes((second / "config.json").read_bytes())
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((second / "model.safetensors").read_bytes()[:1000])
    away = tmp_path / "nowhere"
    for name, why in (
        (f"local-dir:{first}", "cannot be loaded"),
        (f"local-dir:{away}", "config.json is missing"),
        (f"torchvision:squeezenet1_1:{away}", "No such file"),
        (f"torchvision:squeezenet1_1:{weights}", "cannot be had"),
        (f"torchvision:squeezenet1_1:{second / 'model.safetensors'}", "cannot be loaded"),
    ):
        with pytest.raises(DataError, match=why) as caught:
            load(name)
        assert name in str(caught.value) and NETWORK not in str(caught.value)


@BOTH
def test_a_network_that_is_away_is_told_with_the_ways_that_need_none(
    load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise OSError("the hub does not answer")

    monkeypatch.setattr("timm.create_model", away)
    with pytest.raises(DataError, match=f"the hub does not answer(?s:.*){NETWORK}"):
        load("resnet18")


@BOTH
def test_a_model_that_the_hub_does_not_have_is_no_matter_of_the_network(
    load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    unknown = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    unknown.args = ("404, there is no timm/resnet81",)

    def answer(*arguments: object, **options: object) -> None:
        raise unknown

    monkeypatch.setattr("timm.create_model", answer)
    with pytest.raises(UsageError, match=r"hf-hub:timm/resnet81 cannot be loaded") as caught:
        load("hf-hub:timm/resnet81")
    assert NETWORK not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "resnet"}, "not in timm's hub format"),
        ([1, 2], "not in timm's hub format"),
        ({"architecture": "NAME", "pretrained_cfg": None}, "not in timm's hub format"),
        (None, "cannot be read"),
        ({"architecture": "NAME", "pretrained_cfg": {"mean": [0.5], "std": [0.5, 0.5, 0.5]}}, "three numbers wanted"),
        ({"architecture": "NAME", "pretrained_cfg": {"mean": 0.5}}, "three numbers wanted"),
    ],
)
def test_a_folder_that_is_not_timms_is_told(
    load: Callable[[str], object], config: object, why: str, tmp_path: Path
) -> None:
    name = write_teachers(tmp_path)[0]
    path = Path(name.removeprefix("local-dir:"), "config.json")
    own = json.loads(path.read_text())["architecture"]
    path.write_text("{" if config is None else json.dumps(config).replace("NAME", own))
    with pytest.raises(DataError, match=why) as caught:
        load(name)
    assert name in str(caught.value)


def test_a_mean_that_is_left_out_is_imagenets(tmp_path: Path) -> None:
    name = write_teachers(tmp_path)[0]
    path = Path(name.removeprefix("local-dir:"), "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pretrained_cfg": {"mean": None}}))
    assert teachers.classifier(name)[2] == teachers.IMAGENET_MEAN
