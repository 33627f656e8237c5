"""Golden frames: an engine that computes what the reference did passes, anything else is named by its stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper

from mtkd_edge import bundle
from mtkd_edge.device import engines
from mtkd_edge.device.check import BOUNDS, check
from mtkd_edge.device.engines.fake import FakeEngine
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import BundleError, GateError


@pytest.fixture
def folder(tmp_path) -> Path:
    """An FP32 engine folder, straight from the bundle."""
    model = tiny.make_bundle(tmp_path / "bundle")
    out = tmp_path / "engine"
    out.mkdir()
    for name in (bundle.FEATURES, bundle.HEAD, bundle.GOLDEN):
        shutil.copyfile(tmp_path / "bundle" / name, out / name)
    seal(out, model)
    return out


def seal(out: Path, model: bundle.Manifest, precision: str = "fp32") -> None:
    manifest = bundle.EngineManifest(
        target="cpu", backend="openvino", precision=precision, batch=(1, 1, 1), created="", model=model, built={},
        gate={}, calibration="", files=bundle.seal(out),
    )  # fmt: skip
    bundle.save(out, manifest, bundle.load_threshold(out.parent / "bundle"))


def run_check(folder: Path):
    with engines.load(folder) as engine:
        return check(folder, engine)


def test_the_engine_of_the_bundle_reproduces_its_golden_frames(folder):
    report = run_check(folder)
    assert [row.name for row in report.rows] == [
        "student_fine", "student_coarse", "reference_fine", "reference_coarse", "map", "score",
    ]  # fmt: skip
    assert all(row.deviation <= 1e-5 < row.bound for row in report.rows)
    assert (report.engine, report.precision, report.frames) == ("tiny-cpu", "fp32", 4)
    assert msgspec.json.decode(msgspec.json.encode(report))["rows"][0]["bound"] == BOUNDS["fp32"][0]


def test_bounds_are_wider_the_coarser_the_precision():
    for stage in range(2):
        assert BOUNDS["fp32"][stage] < BOUNDS["fp16"][stage] < BOUNDS["int8"][stage] < 1


def test_a_flipped_byte_is_found(folder):
    data = bytearray((folder / bundle.FEATURES).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / bundle.FEATURES).write_bytes(data)
    with pytest.raises(BundleError, match=r"features\.onnx was changed"):
        run_check(folder)


def test_a_threshold_that_is_gone_or_altered_is_found(folder):
    """It may be replaced without building, so the engine's sums do not hold it; its own seal does."""
    path = folder / bundle.THRESHOLD
    text = path.read_text()
    path.write_text(text.replace('"score": ', '"score": 1'))
    with pytest.raises(BundleError, match=r"threshold\.json"):
        run_check(folder)
    path.unlink()
    with pytest.raises(BundleError, match=r"threshold\.json cannot be read"):
        run_check(folder)


def test_another_weight_in_a_sealed_graph_is_named_by_its_stage(folder):
    """Hashes fit, and still the engine is not what the reference was: only the student's layer and what follows."""
    model = onnx.load(folder / bundle.FEATURES)
    bias = next(n for n in model.graph.node if n.name == "/student_fine").input[2]
    value = next(i for i in model.graph.initializer if i.name == bias)
    value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value) + np.float32(0.5), bias))
    onnx.save(model, folder / bundle.FEATURES)
    seal(folder, bundle.load_bundle(folder.parent / "bundle"))
    with pytest.raises(GateError, match=r"student_fine deviates by .*, allowed is 0\.001; map deviates") as caught:
        run_check(folder)
    assert "reference" not in caught.value.message
    assert caught.value.hint == "mtkd-edge build-engine --fp32 --target cpu"


def test_int8_is_held_to_the_bounds_of_int8_and_no_others(folder):
    """The same wrong bias passes neither; a deviation of a per cent passes as INT8 alone."""
    model = onnx.load(folder / bundle.FEATURES)
    for name in ("/student_fine", "/student_coarse"):
        weight = next(n for n in model.graph.node if n.name == name).input[1]
        value = next(i for i in model.graph.initializer if i.name == weight)
        value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value) * np.float32(1.005), weight))
    onnx.save(model, folder / bundle.FEATURES)
    seal(folder, bundle.load_bundle(folder.parent / "bundle"))
    with pytest.raises(GateError):
        run_check(folder)
    seal(folder, bundle.load_bundle(folder.parent / "bundle"), "int8")
    assert all(row.passed for row in run_check(folder).rows)


def test_nan_is_a_mismatch(folder):
    class Broken(OpenvinoEngine):
        def infer(self, frames):
            found = super().infer(frames)
            found.scores[:] = np.nan
            return found

    engine = Broken(folder / bundle.FEATURES, folder / bundle.HEAD)
    with engine, pytest.raises(GateError, match="score deviates by nan"):
        check(folder, engine)


def test_an_engine_with_other_shapes_is_a_mismatch(folder):
    class Foreign(FakeEngine):
        def features(self, frames):
            found = super().features(frames)
            return dict.fromkeys(bundle.load_engine(folder).model.feature_names(), found["student_fake"]) | found

    with pytest.raises(GateError, match=r"golden arrays have shape \[2, 12, 8, 8\], the engine makes \[2, 1, 8, 8\]"):
        check(folder, Foreign())


def test_a_golden_file_that_is_no_archive_or_a_pickle_is_refused(folder):
    model = bundle.load_bundle(folder.parent / "bundle")
    (folder / bundle.GOLDEN).write_bytes(b"nothing")
    seal(folder, model)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        run_check(folder)
    np.savez(folder / bundle.GOLDEN, frames=np.array([object()]))
    seal(folder, model)
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        run_check(folder)
