"""The graph that the map method really exports: the same on every runtime, INT8 and FP16."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import TensorProto, helper

from mtkd_edge import bundle
from mtkd_edge.device import targets
from mtkd_edge.device.engines import tensorrt_rtx
from mtkd_edge.device.engines._trt_build import Order, build_plan
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import BackendError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.lab import calibrate, explain, export, student, teachers
from mtkd_edge.lab.check_qdq import check_qdq
from mtkd_edge.lab.graph import MapFeatures
from mtkd_edge.lab.half import halve
from mtkd_edge.lab.letterbox import WHOLE, View
from mtkd_edge.lab.mix import Mix
from mtkd_edge.lab.placement import sensitive
from mtkd_edge.lab.projection import projected, projection
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.lab.subspace import CODE, Moments, PositionAutoencoder
from mtkd_edge.score import Level, ScoreSpec

SIZE = 64
BOXED = View((6, 6))  # a letterbox whose photos have a grid of their own
FRAMES = np.concatenate([tiny.normal_frames(2, SIZE, seed=9), tiny.with_defects(tiny.normal_frames(2, SIZE, seed=10))])


def boxed(frames: np.ndarray) -> np.ndarray:
    """The same pictures at half their width, or half their height, in the middle of a frame with margins."""
    found = np.zeros_like(frames)
    found[::2, :, 16:48] = np.maximum(frames[::2, :, ::2], 1)
    found[1::2, 16:48] = np.maximum(frames[1::2, ::2], 1)
    return found


def features(view: View) -> MapFeatures:
    """Two teachers that ship with the package, an untrained student, and an autoencoder fitted on sixteen frames."""
    torch.manual_seed(0)
    mix = Mix([teachers.load("offline-res"), teachers.load("offline-depthwise")], view=view).eval()
    frames = tiny.normal_frames(16, SIZE)
    pixels = torch.from_numpy(boxed(frames) if view.photo else frames).permute(0, 3, 1, 2).float()
    mix.fit([pixels])
    with torch.no_grad():
        blocks = mix(pixels)
    project = projection(lambda: iter([blocks]))
    autoencoder = PositionAutoencoder(project, grid_of(view), CODE)
    autoencoder.fit(Moments(projected(project, lambda: iter([blocks]))), 3)
    net = student.create("small", mix.channels, view)
    return MapFeatures(mix, net, [autoencoder], torch.ones(mix.channels)).eval()


def grid_of(view: View) -> tuple[int, int]:
    return view.photo or (8, 8)


@pytest.fixture(scope="module", params=[WHOLE, BOXED], ids=["squash", "letterbox"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features.onnx and head.onnx, exported and so proved equal to torch; int8.onnx and half.onnx of the same."""
    folder = tmp_path_factory.mktemp("made")
    net = features(view := request.param)
    levels = (
        Level("deviation", "distance", net.mix.channels, *grid_of(view), 0.5),
        Level("reconstruction", "distance", net.autoencoders[0].channels, *grid_of(view), 0.5),
    )
    shown, normals = FRAMES, tiny.normal_frames(8, SIZE, seed=3)
    if view.photo:
        shown, normals = boxed(shown), boxed(normals)
    export.write_graphs(folder, net, ScoreSpec(levels, 16, 16, 1.0, 0.02), FrameSpec(SIZE, SIZE), shown)
    source = folder / bundle.FEATURES
    found = calibrate.calibrate(source, normals, {str(i): "0" for i in range(len(normals))})
    quantise(source, folder / "int8.onnx", found, exclude=sensitive(onnx.load(source)))
    halve(source, folder / "half.onnx")
    return folder


def test_the_pixels_are_cast_before_anything_else_reads_them(made: Path) -> None:
    for name in (bundle.FEATURES, "int8.onnx", "half.onnx"):
        readers = [node.op_type for node in onnx.load(made / name).graph.node if "frames" in node.input]
        assert readers == ["Cast"], name


def test_openvino_computes_what_onnx_runtime_does(made: Path) -> None:
    names = [f"{side}_{level}" for side in ("student", "reference") for level in ("deviation", "reconstruction")]
    with np.load(made / bundle.GOLDEN) as golden:
        frames = golden["frames"]
    wanted = export.run_onnx(made / bundle.FEATURES, {"frames": frames}, names)
    with OpenvinoEngine(made / bundle.FEATURES, made / bundle.HEAD, batch=len(frames)) as engine:
        found = engine.features(frames)
    for name in names:
        assert np.isfinite(found[name]).all()
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-3 * np.abs(wanted[name]).max())


def test_half_precision_keeps_a_letterboxes_places(made: Path) -> None:
    """Numbers of pixels go beyond what FP16 can hold, so they are not computed in it."""
    with np.load(made / bundle.GOLDEN) as golden:
        frames = golden["frames"]
    wanted = export.run_onnx(made / bundle.FEATURES, {"frames": frames}, ["reference_deviation"])["reference_deviation"]
    found = export.run_onnx(made / "half.onnx", {"frames": frames}, ["reference_deviation"])["reference_deviation"]
    np.testing.assert_allclose(found, wanted, atol=2e-2 * np.abs(wanted).max())


def test_the_other_order_is_refused_by_our_linter_and_by_nvidias_parser(tmp_path: Path) -> None:
    """The reason for `graph.nchw`; a parser that learns it makes the order free."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Transpose", ["frames"], ["t"], "/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x"], "/Cast", to=TensorProto.FLOAT),
    ]
    shapes = value("frames", TensorProto.UINT8, ["N", 4, 4, 3]), value("x", TensorProto.FLOAT, ["N", 3, 4, 4])
    graph = helper.make_graph(nodes, "g", [shapes[0]], [shapes[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert "Transpose reads the uint8 input 'frames'; wanted a Cast first" in check_qdq(model)[0]
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BackendError, match="UInt8"):
        build_plan(rtx, tmp_path / "g.onnx", Order(Batch(1, 1, 2), TensorrtRecipe(workspace_mib=64), exact=False))


@pytest.mark.parametrize("name", ["int8.onnx", "half.onnx"])
def test_nvidias_parser_and_builder_take_it(made: Path, name: str, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copyfile(made / name, tmp_path / bundle.FEATURES)
    shutil.copyfile(made / bundle.HEAD, tmp_path / bundle.HEAD)
    built = tensorrt_rtx.build(tmp_path, targets.load("rtx"), "int8" if name == "int8.onnx" else "fp16")
    assert built["version"]
    assert all((tmp_path / plan).stat().st_size > 10_000 for plan in ("plan.features", "plan.head"))


def test_the_work_of_every_precision_can_be_counted(made: Path) -> None:
    """One frame's shapes follow from the graph, also where onnx infers them without the outputs' own."""
    for name in (bundle.FEATURES, "int8.onnx", "half.onnx"):
        found = explain.shapes(onnx.load(made / name))
        assert all(
            shape[:1] == (1,) for name, (_, shape) in found.items() if name.startswith(("student_", "reference_"))
        )
