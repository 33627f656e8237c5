"""What an INT8 build leaves in floating point, try by try, and that a try the gate refuses leads to the next."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import factory
import onnx
import pytest
import tiny

from mtkd_edge import bundle
from mtkd_edge.device import gate, targets
from mtkd_edge.errors import GateError
from mtkd_edge.lab import build_run, placement


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    return folder / bundle.FEATURES


def test_each_try_keeps_what_the_last_one_lifted_and_adds_to_it(graph: Path) -> None:
    lifts, convolutions = build_run.lifted(graph)
    assert len(lifts) == 1 + len(build_run.LIFTED_STRIDES)
    for less, more in pairwise(lifts):
        assert set(less) <= set(more)
    assert len(lifts[0]) < len(lifts[-1]) <= convolutions


def test_early_layers_are_those_of_large_maps(graph: Path) -> None:
    model = onnx.load(graph)
    quarter, eighth = (set(placement.early(model, stride)) for stride in (4, 8))
    assert quarter < eighth
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    heights = {v.name: v.type.tensor_type.shape.dim[2].dim_value for v in inferred if v.type.tensor_type.shape.dim[3:]}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in heights:
            assert (node.name in quarter) == (heights[node.output[0]] >= 64 // 4)


def test_depthwise_first_and_last_layers_are_never_quantised(graph: Path) -> None:
    model = onnx.load(graph)
    kept = set(placement.sensitive(model))
    assert set(placement.last_layers(model)) <= kept
    groups = {n.name for n in model.graph.node for a in n.attribute if a.name == "group" and a.i > 1}
    assert groups and groups <= kept


@pytest.fixture(scope="module")
def factory_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    run = factory.build(tmp_path_factory.mktemp("plant")).run
    return run, run / "bundle"


def test_a_refused_build_is_tried_again_with_more_in_floating_point(
    factory_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def strict(figures: dict[str, float], limits: object, precision: str) -> None:
        asked.append(precision)
        if len(asked) == 1:
            raise GateError("refused for the test")

    monkeypatch.setattr(gate, "demand", strict)
    manifest = built(factory_run, tmp_path)
    lifts, count = build_run.lifted(factory_run[1] / bundle.FEATURES)
    assert len(asked) == 2
    assert manifest["built"]["layers"] == f"{count - len(lifts[1])} of {count} convolutions in INT8"


def test_when_every_try_is_refused_the_gates_error_comes_out_and_nothing_is_left(
    factory_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(figures: dict[str, float], limits: object, precision: str) -> None:
        raise GateError("refused for the test")

    monkeypatch.setattr(gate, "demand", never)
    with pytest.raises(GateError, match="refused for the test"):
        built(factory_run, tmp_path)
    assert not (tmp_path / "engine").exists()


def built(run: tuple[Path, Path], folder: Path) -> dict[str, dict[str, str]]:
    target = targets.read(tiny.write_target(folder, "openvino", "int8"))
    out = folder / "engine"
    build_run.build(run[0], run[1], out, target, "int8", folder / "calibration", 0.05)
    found: dict[str, dict[str, str]] = json.loads((out / bundle.ENGINE).read_text())
    return found
