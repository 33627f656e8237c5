"""Parts of the comparison with rivals: the coreset, predictions, the program for anomalib's environment, times."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import compare_runtimes
import numpy as np
import onnx
import pytest
import rivals_child
import rivals_costs as costs
import rivals_speed
import timm
import tiny
import torch
from onnx import TensorProto, helper
from rivals_coreset import farthest_first
from torch import Tensor, nn

from mtkd_edge.device import targets
from mtkd_edge.device.build import build_engine, expect
from mtkd_edge.progress import silent


def plain(points: Tensor, count: int, first: int) -> list[int]:
    """anomalib's KCenterGreedy: all points against each new centre."""
    nearest, chosen = torch.full((len(points),), torch.inf), [first]
    while len(chosen) < count:
        nearest = torch.minimum(nearest, torch.linalg.norm(points - points[chosen[-1]], dim=1))
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("candidates", [1, 7, 100, 5000])
@pytest.mark.parametrize("dimensions", [2, 30])
def test_the_coreset_is_the_plain_one(dimensions: int, candidates: int) -> None:
    torch.manual_seed(0)
    points = torch.randn(40, dimensions).repeat(30, 1) + 0.3 * torch.randn(1200, dimensions)
    assert farthest_first(points, 120, 7, candidates).tolist() == plain(points, 120, 7)


def test_no_coreset_is_larger_than_what_it_is_taken_from() -> None:
    everything = farthest_first(torch.arange(5.0).view(5, 1), 5, 0, 2)
    assert sorted(everything.tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="between 1 and 5 centres"):
        farthest_first(torch.arange(5.0).view(5, 1), 6, 0)


@pytest.mark.parametrize("rival", ["patchcore", "stfpm", "rd"])
def test_a_plan_is_the_largest_that_fits(rival: str) -> None:
    plans = [costs.plan(rival, 762, 582, minutes, 20, 8) for minutes in (5, 20, 80, 1e6)]
    for found, minutes in zip(plans, (5, 20, 80, 1e6), strict=True):
        assert found.minutes <= minutes
    assert [p.gmac for p in plans] == sorted(p.gmac for p in plans)
    assert plans[0].gmac < plans[1].gmac < plans[-1].gmac
    assert plans[-1] == costs.plan(rival, 762, 582, 2e6, 20, 8)
    full = {"patchcore": "coreset 10 %: 78028 of", "stfpm": "100 of 100 epochs", "rd": "200 of 200 epochs"}
    assert full[rival] in plans[-1].setting


def test_a_plan_never_does_nothing() -> None:
    assert costs.plan("stfpm", 762, 582, 0.01, 20, 8).options[:2] == ("--steps", "1")
    assert costs.plan("patchcore", 762, 582, 0.01, 20, 8).options == ("--coreset", "0.001")
    assert costs.plan("padim", 762, 582, 0.01, 20, 8).minutes > 1


class Bright(nn.Module):
    """Map and score are the brightness, times a weight that can be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor] | SimpleNamespace:
        if self.training:
            self.seen.append(x.detach()[:, 0, 0, 0])
            return (x.mean() * self.weight,)
        values = x.mean(1, keepdim=True) * self.weight
        return SimpleNamespace(anomaly_map=values, pred_score=values.amax((1, 2, 3)))


def test_answers_are_written_for_every_frame_in_order(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    spent = rivals_child.predict(rivals_child.Whole(Bright(), None), frames, tmp_path)
    expected = frames.mean(-1) / 255
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, rtol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected.max((1, 2)), rtol=1e-5)
    assert len(spent) == 3 and min(spent) > 0


def test_networks_are_fed_as_imagenet_was() -> None:
    whole = rivals_child.Whole(Bright(), rivals_child.IMAGENET)
    fed = whole.pixels(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(fed, (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))


def test_learning_takes_every_photo_once_an_epoch_and_as_many_steps_as_told() -> None:
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    whole = rivals_child.Whole(Bright(), None)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    whole.train()
    rivals_child.learn(whole, lambda loss: loss, optimizer, frames, Namespace(seed=0, steps=4, batch=4))
    assert len(whole.model.seen) == 4
    for epoch in (whole.model.seen[:2], whole.model.seen[2:]):
        assert sorted((255 * torch.cat(epoch)).round().int().tolist()) == list(range(8))
    assert whole.model.weight < 1


def test_pretrained_weights_come_from_the_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)))
    rivals_child.offline(Path("weights/resnet18"))
    timm.create_model("resnet18", pretrained=True, pretrained_cfg=None, features_only=True)
    timm.create_model("resnet18", pretrained=False)
    assert asked == [
        ("local-dir:weights/resnet18", {"pretrained": True, "features_only": True}),
        ("resnet18", {"pretrained": False}),
    ]


def test_a_turn_is_frames_in_a_row_and_its_first_does_not_count() -> None:
    order: list[str] = []
    runs = {name: lambda frame, name=name: order.append(name) for name in ("a", "b")}  # type: ignore[misc]
    times = compare_runtimes.latencies(runs, np.zeros((1, 2, 2, 3), np.uint8), 0)
    warm, row = compare_runtimes.WARM_UP, compare_runtimes.IN_A_ROW
    assert "".join(order) == "a" * warm + "b" * warm + "a" * (row + 1) + "b" * (row + 1)
    assert [len(found) for found in times.values()] == [row, row]


def test_models_are_timed_in_turn_on_the_same_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.make_bundle(tmp_path / "ours/run/bundle")
    shutil.copytree(tmp_path / "ours/run/bundle", tmp_path / "ours/int8")
    monkeypatch.setattr(rivals_speed, "SIDE", 64)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["frames"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    taken, given = value("frames", TensorProto.UINT8, [1, 64, 64, 3]), value("score", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph(nodes, "rival", [taken], [given]), ir_version=9,
                              opset_imports=[helper.make_opsetid("", 17)])  # fmt: skip
    onnx.save(model, str(tmp_path / "stfpm.onnx"))
    merged, bundle = tmp_path / "merged", tmp_path / "ours/run/bundle"
    expected = expect(bundle, list(tiny.normal_frames(8)), silent)
    build_engine(bundle, merged, targets.read(tiny.write_target(tmp_path)), "fp32", None, expected, 0.05)
    rows = rivals_speed.measure(tmp_path / "ours", {"stfpm": tmp_path / "stfpm.onnx"}, 1, 0.05, [merged])
    assert list(rows) == ["ours-int8", "ours", str(merged), "stfpm"]
    assert rows["ours-int8"]["ratio"] == 1
    assert all(0 < row["best"] <= row["p50"] for row in rows.values())
    said = rivals_speed.table(rows, {"ours-int8": "ours, INT8", "ours": "ours", "stfpm": "STFPM"})
    assert said.splitlines()[2].endswith("| 1.00 |") and "| STFPM |" in said and f"| {merged} |" in said
