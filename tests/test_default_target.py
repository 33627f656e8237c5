"""Which engine is built where the user names no target."""

from __future__ import annotations

import pytest

from mtkd_edge.device import default_target as module
from mtkd_edge.device import targets
from mtkd_edge.device.default_target import default_target, fitting
from mtkd_edge.device.engines._trt_driver import Gpu

GPUS = [
    (Gpu("NVIDIA H100 80GB HBM3", (9, 0)), "h100"),
    (Gpu("NVIDIA A100", (8, 0)), "h100"),
    (Gpu("NVIDIA GeForce RTX 4090", (8, 9)), "rtx"),
    (Gpu("NVIDIA GeForce RTX 5090", (12, 0)), "rtx"),
    (Gpu("Orin", (8, 7)), "orin-nano"),
    (Gpu("NVIDIA Jetson AGX Orin", (8, 7)), "orin-agx"),
    (Gpu("NVIDIA Thor", (11, 0)), "thor"),
]


@pytest.mark.parametrize(("gpu", "target"), GPUS, ids=str)
def test_a_gpu_gets_the_recipe_made_for_it(gpu: Gpu, target: str) -> None:
    assert fitting(gpu) == target
    runtime = module.RUNTIMES.get(target, "tensorrt_rtx")
    assert targets.load(target).backend == runtime, "the runtime that is looked for is the recipe's own"


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_or_none", lambda: None)
    assert default_target() == ("cpu", "no NVIDIA GPU here")


@pytest.mark.parametrize(("spec", "target"), [(None, "cpu"), (object(), "h100")], ids=["absent", "installed"])
def test_a_gpu_without_its_runtime_is_not_used_and_that_is_said(
    spec: object, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_or_none", lambda: GPUS[0][0])
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    name, why = default_target()
    assert name == target
    assert "H100" in why
    assert ("tensorrt is not installed" in why) == (spec is None)
