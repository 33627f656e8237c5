"""TensorRT: NVIDIA's own parser and builder on our graphs, and our runtime code against a strict double of CUDA.

`tensorrt_rtx` builds without a GPU, so the building here is real. Running a plan needs a GPU; that code runs against
`trt_double`, which takes the same calls and checks what CUDA would punish.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import tiny
from trt_double import Cuda, Tensorrt

from mtkd_edge import bundle
from mtkd_edge.device import targets
from mtkd_edge.device.engines import _cuda, _trt_build, _trt_driver, _trt_run, tensorrt, tensorrt_rtx
from mtkd_edge.device.engines._trt_build import Order, build_plan, build_plans, make_log, member, strongly_typed
from mtkd_edge.device.targets import Batch, TensorrtRecipe
from mtkd_edge.errors import BackendError, MissingExtraError
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.quantise import quantise

FRAMES = np.concatenate([tiny.normal_frames(2, seed=9), tiny.with_defects(tiny.normal_frames(1, seed=10))])
ORDER = Order(Batch(1, 1, 4), TensorrtRecipe(workspace_mib=64), exact=False)


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, bundle.Manifest]:
    """A bundle whose features.onnx is the INT8 one."""
    folder = tmp_path_factory.mktemp("bundle")
    manifest = tiny.make_bundle(folder / "fp32")
    shutil.copytree(folder / "fp32", folder / "int8")
    source, normals = folder / "fp32" / bundle.FEATURES, tiny.normal_frames(8, seed=3)
    found = calibrate.calibrate(source, normals, {str(i): "0" for i in range(len(normals))})
    quantise(source, folder / "int8" / bundle.FEATURES, found)
    return folder / "int8", manifest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_nvidias_parser_and_builder_take_the_int8_graph_and_the_head(rtx, made, tmp_path):
    for name in (bundle.FEATURES, bundle.HEAD):
        shutil.copyfile(made[0] / name, tmp_path / name)
    built = tensorrt_rtx.build(tmp_path, targets.load("rtx"), "int8")
    assert built["version"] == rtx.__version__
    for name in ("plan.features", "plan.head"):
        assert (tmp_path / name).stat().st_size > 10_000
    if built["gpu"] == "none":
        assert _trt_driver.find_or_none() is None


def test_the_network_it_parses_has_our_tensors_and_int8_layers(rtx, made):
    log = make_log(rtx)
    builder = rtx.Builder(log)
    network = builder.create_network(strongly_typed(rtx))
    parser = rtx.OnnxParser(network, log)
    assert parser.parse_from_file(str(made[0] / bundle.FEATURES))
    assert network.get_input(0).name == "frames"
    assert network.get_input(0).dtype == rtx.DataType.UINT8
    assert {network.get_output(i).name for i in range(4)} == set(made[1].feature_names())
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantised = [layer for layer in layers if layer.type == rtx.LayerType.QUANTIZE]
    assert len(quantised) == 36
    assert {layer.get_output(0).dtype for layer in quantised} == {rtx.DataType.INT8}


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops in TensorRT-RTX")
def test_measurements_of_a_build_are_kept_for_the_next(rtx, made, tmp_path):
    """TensorRT for RTX keeps none, but has the calls."""
    path = _trt_build.timings_file(rtx, "NVIDIA H100 (compute capability 9.0)")
    assert path.name == f"tensorrt-rtx-{rtx.__version__}-NVIDIA-H100-compute-capability-9.0.timings"
    order = Order(ORDER.batch, ORDER.recipe, True, path)
    build_plan(rtx, made[0] / bundle.HEAD, order)
    assert order.timings.stat().st_size > 0
    order.timings.write_bytes(b"from another version")
    build_plan(rtx, made[0] / bundle.HEAD, order)
    assert order.timings.read_bytes() != b"from another version"


def test_a_graph_the_parser_refuses_is_its_own_words(rtx, made, tmp_path):
    model = onnx.load(made[0] / bundle.FEATURES)
    zero = next(i for i in model.graph.initializer if i.name == "trunk_zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.int8(3)), zero.name))
    onnx.save(model, tmp_path / "zero.onnx")
    with pytest.raises(BackendError, match="zero point is not supported") as caught:
        build_plan(rtx, tmp_path / "zero.onnx", ORDER)
    assert str(tmp_path / "zero.onnx") in caught.value.message
    with pytest.raises(BackendError, match="does not take"):
        build_plan(rtx, tmp_path / "nothing.onnx", ORDER)


def test_a_build_that_fails_is_an_error_and_not_none(rtx, made):
    """No lean runtime is installed, which a version-compatible plan would have to hold."""
    recipe = TensorrtRecipe(version_compatible=True, hardware_compatible=True)
    with pytest.raises(BackendError, match="did not make a plan"):
        build_plan(rtx, made[0] / bundle.HEAD, Order(ORDER.batch, recipe, False))


def test_every_name_that_is_used_is_in_the_real_module(rtx):
    """Members are looked up by name, because their numbers moved between versions 10 and 11."""
    assert strongly_typed(rtx) == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for enum, name in (("BuilderFlag", "TF32"), ("BuilderFlag", "STRICT_NANS"), ("BuilderFlag", "VERSION_COMPATIBLE")):
        assert member(rtx, enum, name) is not None
    with pytest.raises(BackendError, match=r"has no BuilderFlag\.INT8"):
        member(rtx, "BuilderFlag", "INT8")
    assert member(rtx, "BuilderFlag", "INT8", required=False) is None
    used = {
        rtx.Runtime: ("deserialize_cuda_engine", "engine_host_code_allowed"),
        rtx.ICudaEngine: ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape",
                          "get_tensor_dtype", "create_execution_context"),
        rtx.IExecutionContext: ("set_input_shape", "set_tensor_address", "execute_async_v3"),
    }  # fmt: skip
    for kind, names in used.items():
        for name in names:
            assert hasattr(kind, name), f"{kind.__name__}.{name}"
    assert rtx.TensorIOMode.INPUT != rtx.TensorIOMode.OUTPUT
    assert np.dtype(rtx.nptype(rtx.DataType.UINT8)) == np.uint8


def test_tensorrt_does_not_build_without_a_gpu(made):
    if _trt_driver.find_or_none() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match="there is no NVIDIA driver"):
        tensorrt.build(made[0], targets.load("h100"), "int8")


@pytest.mark.parametrize(("vendor", "extra"), [(tensorrt, "tensorrt"), (tensorrt_rtx, "rtx")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(vendor, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, vendor.__name__.rsplit(".", 1)[-1], None)
    with pytest.raises(MissingExtraError) as caught:
        vendor.module()
    assert caught.value.hint == f"pip install 'mtkd-edge[{extra}]'"


def test_on_a_jetson_the_missing_package_is_jetpacks(monkeypatch, tmp_path):
    (tmp_path / "release").write_text("# R36")
    monkeypatch.setattr(tensorrt._trt_driver, "JETPACK", tmp_path / "release")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingExtraError) as caught:
        tensorrt.module()
    assert caught.value.exit_code == 5 and "--system-site-packages" in caught.value.hint


# ---- the runtime, on the double


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    double = Cuda()
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)
    return double


def plans(made) -> list[bytes]:
    return [(made[0] / name).read_bytes() for name in (bundle.FEATURES, bundle.HEAD)]


def test_maps_scores_and_features_are_those_of_the_graphs(made, cuda):
    names = made[1].feature_names()
    features = tiny.run(onnx.load(made[0] / bundle.FEATURES), {"frames": FRAMES}, names)
    feed = dict(zip(names, features, strict=True))
    maps, scores = tiny.run(onnx.load(made[0] / bundle.HEAD), feed, ["map", "score"])
    with _trt_run.TensorrtEngine(Tensorrt(cuda), _cuda.Device(), plans(made), batch=4) as engine:
        for count in (3, 1, 2):  # the buffers hold what larger batches left behind
            found = engine.infer(FRAMES[:count])
            np.testing.assert_allclose(found.maps, maps[:count], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.scores, scores[:count], rtol=1e-4, atol=1e-4)
        assert list(found.stages) == ["upload", "features", "head", "download"]
        assert all(value >= 0 for value in found.stages.values())
        kept = found.maps.copy()
        for name, value in engine.features(FRAMES).items():
            np.testing.assert_allclose(value, feed[name], rtol=1e-4, atol=1e-4)
        engine.infer(FRAMES)
        np.testing.assert_array_equal(found.maps, kept)  # the caller's own


def test_everything_is_freed_once_and_the_context_stack_is_empty(made, cuda):
    engine = _trt_run.TensorrtEngine(Tensorrt(cuda), _cuda.Device(), plans(made), batch=4)
    assert (cuda.alive, cuda.stack) == (10, [])  # four features; twice frames, map and score
    engine.infer(FRAMES)
    assert cuda.stack == []
    engine.close()
    engine.close()
    gc.collect()
    assert (cuda.alive, cuda.most, cuda.stack) == (0, 10, [])
    for call in (engine.infer, engine.features):
        with pytest.raises(BackendError, match="is closed"):
            call(FRAMES)


def test_frames_are_checked_before_the_gpu_sees_them(made, cuda):
    with _trt_run.TensorrtEngine(Tensorrt(cuda), _cuda.Device(), plans(made), batch=2) as engine:
        for bad in (FRAMES, FRAMES[:1].astype(np.float32), FRAMES[:1, :32]):
            with pytest.raises(BackendError, match=r"\[1 to 2, 64, 64, 3\] of uint8"):
                engine.infer(bad)


def test_what_cuda_reports_is_a_backend_error_and_leaves_no_context(made, cuda):
    engine = _trt_run.TensorrtEngine(Tensorrt(cuda), _cuda.Device(), plans(made), batch=4)
    cuda.fail = "an illegal memory access was encountered"
    with pytest.raises(BackendError, match="CUDA reports: an illegal memory access"):
        engine.infer(FRAMES)
    assert cuda.stack == []
    cuda.fail = ""
    engine.close()
    cuda.fail = "no device"
    with pytest.raises(BackendError, match="CUDA reports: no device"):
        _cuda.Device()


def test_a_plan_that_does_not_deserialise_is_tensorrts_own_words(made, cuda):
    with pytest.raises(BackendError, match="magic tag does not match"):
        _trt_run.TensorrtEngine(Tensorrt(cuda), _cuda.Device(), [b"no plan", plans(made)[1]], batch=4)
    assert cuda.stack == []


def test_both_plans_are_named_in_what_a_build_writes(rtx, made, tmp_path):
    shutil.copytree(made[0], tmp_path / "work")
    target = msgspec.structs.replace(targets.load("rtx"), batch=Batch(1, 2, 2))
    built = build_plans(rtx, tmp_path / "work", target, "int8", "none")
    assert set(_trt_build.PLANS) <= set(bundle.seal(tmp_path / "work"))
    assert built == {
        "version": rtx.__version__, "gpu": "none", "version_compatible": "no", "hardware_compatible": "no",
        "cuda_graph": "no",
    }  # fmt: skip
