"""Engines: OpenVINO against the float64 oracle and onnxruntime, the fake, and what all of them refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import openvino as ov
import pytest
import tiny
from onnx import numpy_helper

from mtkd_edge import bundle, score
from mtkd_edge.device import engines
from mtkd_edge.device.engine import EngineOptions
from mtkd_edge.device.engines import _blobs, _cache, openvino
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import BackendError, BundleError
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.quantise import quantise

FRAMES = np.concatenate([tiny.normal_frames(3, seed=9), tiny.with_defects(tiny.normal_frames(2, seed=10))])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, bundle.Manifest]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, tiny.make_bundle(folder)


@pytest.fixture(scope="module")
def int8(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    normals = tiny.normal_frames(8, seed=3)
    source = made[0] / bundle.FEATURES
    found = calibrate.calibrate(source, normals, {str(i): "0" for i in range(len(normals))})
    quantise(source, folder / bundle.FEATURES, found)
    return shutil.copyfile(made[0] / bundle.HEAD, folder / bundle.HEAD).parent


def opened(folder: Path, **options) -> OpenvinoEngine:
    return OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD, **options)


def engine_folder(made: tuple[Path, bundle.Manifest], folder: Path, **changes: object) -> Path:
    """An engine folder straight from the bundle, without a build."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (bundle.FEATURES, bundle.HEAD, bundle.GOLDEN):
        shutil.copyfile(made[0] / name, folder / name)
    manifest = bundle.EngineManifest(
        target="cpu", backend="openvino", precision="fp32", batch=(1, 1, 4), created="", model=made[1], built={},
        gate={}, calibration="", files=bundle.seal(folder),
    )  # fmt: skip
    bundle.save(folder, msgspec.structs.replace(manifest, **changes), bundle.load_threshold(made[0]))
    return folder


def test_scores_and_maps_are_the_oracles_on_the_engines_own_features(made):
    levels = len(made[1].score.levels)
    with opened(made[0], batch=8) as engine:
        features = engine.features(FRAMES)
        found = engine.infer(FRAMES)
    values = [features[name] for name in made[1].feature_names()]
    maps, scores = score.oracle(made[1].score, values[:levels], values[levels:])
    np.testing.assert_allclose(found.maps, maps, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)
    assert (found.maps.dtype, found.scores.dtype) == (np.float32, np.float32)
    assert found.stages["infer"] > 0


def test_fp32_features_are_those_of_onnxruntime(made):
    """On a processor with bfloat16 OpenVINO's own choice of precision would be off by a per cent."""
    names = made[1].feature_names()
    wanted = tiny.run(onnx.load(made[0] / bundle.FEATURES), {"frames": FRAMES}, names)
    with opened(made[0], batch=8) as engine:
        assert engine.precision() == "f32"
        found = engine.features(FRAMES)
    assert list(found) == [o.name for o in onnx.load(made[0] / bundle.FEATURES).graph.output]
    for name, value in zip(names, wanted, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_int8_features_are_those_of_onnxruntime(made, int8):
    """Within rounding. Without the second user of a quantised Concat, `reference_fine` would be off by 28 %."""
    names = made[1].feature_names()
    wanted = tiny.run(onnx.load(int8 / bundle.FEATURES), {"frames": FRAMES}, names)
    with opened(int8, batch=8, precision="int8") as engine:
        found = engine.features(FRAMES)
        inferred = engine.infer(FRAMES)
    for name, value in zip(names, wanted, strict=True):
        assert np.linalg.norm(found[name] - value) / np.linalg.norm(value) < 0.03, name
    maps = tiny.run(onnx.load(int8 / bundle.HEAD), dict(zip(names, wanted, strict=True)), ["map"])[0]
    assert np.linalg.norm(inferred.maps - maps) / np.linalg.norm(maps) < 0.1


def test_int8_graphs_really_run_in_int8(int8):
    model = ov.Core().compile_model(opened(int8)._model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info() for node in model.get_runtime_model().get_ordered_ops()]
    convolutions = [i["runtimePrecision"].astype(str) for i in kinds if i["layerType"].astype(str) == "Convolution"]
    assert len(convolutions) == 19
    assert set(convolutions) <= {"u8", "i8"}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_batch_is_the_same_as_its_frames_one_by_one(made, count):
    with opened(made[0], batch=5) as engine:
        together = engine.infer(FRAMES[:count])
        alone = [engine.infer(frame[None]) for frame in FRAMES[:count]]
    np.testing.assert_allclose(together.scores, [r.scores[0] for r in alone], rtol=1e-4)
    np.testing.assert_allclose(together.maps, np.concatenate([r.maps for r in alone]), rtol=1e-3, atol=1e-4)


def test_what_an_engine_returns_is_the_callers_own(made):
    with opened(made[0]) as engine:
        first = engine.infer(FRAMES[:1])
        kept = first.maps.copy(), first.scores.copy()
        engine.infer(FRAMES[3:4])
    np.testing.assert_array_equal(first.maps, kept[0])
    np.testing.assert_array_equal(first.scores, kept[1])


def test_frames_that_are_not_contiguous_are_scored_right(made):
    with opened(made[0]) as engine:
        mirrored = FRAMES[:1, :, ::-1]
        assert engine.infer(mirrored).scores == engine.infer(np.ascontiguousarray(mirrored)).scores


def test_nan_reaches_the_score(made, tmp_path):
    """A feature that is NaN makes the score NaN, which the verdict calls invalid; it must not become a normal part."""
    shutil.copytree(made[0], tmp_path / "nan")
    model = onnx.load(made[0] / bundle.FEATURES)
    weight = next(i for i in model.graph.initializer if tuple(i.dims) == (12,))
    values = numpy_helper.to_array(weight).copy()
    values[3] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "nan" / bundle.FEATURES)
    with opened(tmp_path / "nan") as engine:
        assert np.isnan(engine.infer(FRAMES[:1]).scores[0])


@pytest.mark.parametrize("kind", [OpenvinoEngine, FakeEngine])
@pytest.mark.parametrize(
    "frames",
    [
        FRAMES[:1].astype(np.float32),
        FRAMES[0],
        FRAMES[:1, :32],
        FRAMES[:1, :, :, :1],
        FRAMES[:0],
        FRAMES,
    ],
    ids=["float", "no batch", "short", "grey", "none", "too many"],
)
def test_frames_of_another_type_shape_or_number_are_refused(made, kind, frames):
    engine = opened(made[0], batch=2) if kind is OpenvinoEngine else FakeEngine(batch=2)
    with engine, pytest.raises(BackendError, match=r"\[1 to 2, 64, 64, 3\] of uint8"):
        engine.infer(frames)


@pytest.mark.parametrize("kind", [OpenvinoEngine, FakeEngine])
def test_a_closed_engine_says_so_and_can_be_closed_again(made, kind):
    engine = opened(made[0]) if kind is OpenvinoEngine else FakeEngine()
    engine.close()
    engine.close()
    for call in (engine.infer, engine.features):
        with pytest.raises(BackendError, match="is closed"):
            call(FRAMES[:1])


def test_a_graph_that_openvino_cannot_read_is_its_own_words(made, tmp_path):
    graph = onnx.load(made[0] / bundle.FEATURES)
    graph.graph.node[0].op_type = "Unheard"
    onnx.save(graph, tmp_path / "features.onnx")
    with pytest.raises(BackendError, match="Unheard"):
        OpenvinoEngine(tmp_path / "features.onnx", made[0] / bundle.HEAD)


def test_two_graphs_that_do_not_belong_together_are_refused(made):
    with pytest.raises(BackendError, match=r"head\.onnx wants 'frames'"):
        OpenvinoEngine(made[0] / bundle.FEATURES, made[0] / bundle.FEATURES)


def test_load_opens_an_engine_folder_and_keeps_the_compiled_model(made, tmp_path):
    folder = engine_folder(made, tmp_path / "engine")
    with engines.load(folder) as engine:
        assert (engine.name, engine.batch) == ("tiny-cpu", 4)
        first = engine.infer(FRAMES[:1]).scores
    blobs = list((folder / "cache").iterdir())
    assert blobs
    with engines.load(folder) as engine:  # from the cache, which is no part of what the manifest seals
        assert engine.infer(FRAMES[:1]).scores == first
    assert list((folder / "cache").iterdir()) == blobs


def test_options_decide_over_what_was_built(made, tmp_path):
    folder = engine_folder(made, tmp_path / "engine", built={"hint": "throughput", "threads": "2"})
    with engines.load(folder) as engine:
        assert engine._config["INFERENCE_NUM_THREADS"] == "2"
        assert engine._config["PERFORMANCE_HINT"] == "THROUGHPUT"
    options = EngineOptions(threads=1, hint="latency", cache=tmp_path / "mine")
    with engines.load(folder, options) as engine:
        assert engine._config["INFERENCE_NUM_THREADS"] == "1"
        assert engine._config["PERFORMANCE_HINT"] == "LATENCY"
    assert list((tmp_path / "mine").iterdir())


def test_a_folder_that_cannot_be_written_keeps_its_cache_with_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert openvino.cache_folder(tmp_path / "engine") == tmp_path / "mtkd-edge" / "openvino"


def test_a_flipped_byte_is_found_before_anything_runs(made, tmp_path):
    folder = engine_folder(made, tmp_path / "engine")
    data = bytearray((folder / bundle.FEATURES).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / bundle.FEATURES).write_bytes(data)
    with pytest.raises(BundleError, match=r"features\.onnx was changed"):
        engines.load(folder)


def test_macs_are_counted_by_hand_for_a_graph_one_can_count(made):
    """Every convolution: kernel values by output values; the head's products: rows by columns by depth."""
    with opened(made[0]) as engine:
        counted = engine.macs()
    model = onnx.shape_inference.infer_shapes(onnx.load(made[0] / bundle.FEATURES))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer}
    convolutions = sum(
        int(np.prod(weights[n.input[1]][1:]) * np.prod(shapes[n.output[0]][1:]))
        for n in model.graph.node
        if n.op_type == "Conv"
    )
    spec = made[1].score
    head = sum(
        spec.height * level.height * level.width + spec.height * level.width * spec.width for level in spec.levels
    )
    # the cosine's inner product is a product of matrices to OpenVINO in some versions, and sums in others
    assert 0 <= counted - convolutions - head < 0.02 * convolutions


def test_fake_finds_a_bright_square_where_it_is():
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    frame[0, 16:24, 40:48] = 255
    with FakeEngine(delay=0.001) as engine:
        found = engine.infer(frame)
        assert engine.infer(np.zeros_like(frame)).scores == 0
    assert found.scores == 1
    assert np.argwhere(found.maps[0] == 1).tolist() == [[2, 5]]
    assert found.stages["infer"] >= 1
    with pytest.raises(ValueError, match="multiples of 8"):
        FakeEngine(60, 64)


def test_a_compiled_model_that_was_damaged_is_compiled_again(made, tmp_path):
    """OpenVINO itself runs one with flipped bits, and makes other scores."""
    folder = engine_folder(made, tmp_path / "engine")
    with engines.load(folder) as engine:
        wanted = engine.infer(FRAMES[:1]).scores
    (blob,) = (folder / "cache").glob("*.blob")
    whole = blob.read_bytes()
    for damaged in (bytes(byte ^ 64 if n % 97 == 0 else byte for n, byte in enumerate(whole)), whole[:1000], b""):
        blob.write_bytes(damaged)
        with engines.load(folder) as engine:
            assert engine.infer(FRAMES[:1]).scores == wanted
        assert len(blob.read_bytes()) == len(whole) and _blobs.usable(folder / "cache") and blob.exists()
    blob.with_name(f"{blob.name}.sha256").unlink()
    assert _blobs.usable(folder / "cache") and not blob.exists(), "nobody says what it was"


def test_an_engine_starts_where_no_cache_can_be_kept(made, tmp_path, monkeypatch):
    folder = engine_folder(made, tmp_path / "engine")
    (tmp_path / "file").write_bytes(b"")
    with engines.load(folder, EngineOptions(cache=tmp_path / "file" / "cache")) as engine:
        assert np.isfinite(engine.infer(FRAMES[:1]).scores).all()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert _cache.user_cache().is_absolute()
