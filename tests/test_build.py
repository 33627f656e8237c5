"""Bundle -> engine folder: complete, self-contained, all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import tiny

from mtkd_edge import bundle
from mtkd_edge.device import build, engines, gate, refit, targets
from mtkd_edge.device.build import build_engine
from mtkd_edge.device.engines import _trt_driver
from mtkd_edge.device.targets import Limits
from mtkd_edge.errors import BackendError, BundleError, DataError, GateError, UsageError
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.progress import silent

HELD_OUT = list(tiny.normal_frames(24, seed=9))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def int8(source, tmp_path_factory) -> Path:
    normals = tiny.normal_frames(16, seed=3)
    found = calibrate.calibrate(source / bundle.FEATURES, normals, {str(i): "0" for i in range(len(normals))})
    path = tmp_path_factory.mktemp("int8") / "features.onnx"
    quantise(source / bundle.FEATURES, path, found)
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> targets.Target:
    return targets.read(tiny.write_target(tmp_path_factory.mktemp("target")))


@pytest.fixture(autouse=True)
def few_defects(monkeypatch):
    """The gate's own tests look at its numbers; here it has to be quick."""
    monkeypatch.setattr(gate, "DEFECTS", len(HELD_OUT))


def make(source: Path, out: Path, target: targets.Target, graph: Path | None, **options) -> bundle.EngineManifest:
    precision = "fp32" if graph is None else "int8"
    expected = build.expect(source, options.pop("held_out", HELD_OUT), options.get("progress", silent))
    return build_engine(source, out, target, precision, graph, expected, 0.05, **options)


def nothing_left(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_int8_engine_is_complete_and_its_manifest_says_how_it_was_made(source, int8, target, tmp_path):
    out = tmp_path / "engines" / "tiny-tiny"
    steps = []
    manifest = make(source, out, target, int8, calibration="calibration/tiny.json", progress=lambda *s: steps.append(s))
    assert manifest == bundle.load_engine(out)
    assert {p.name for p in out.iterdir()} == {
        *manifest.files,
        bundle.ENGINE,
        "engine.sha256",
        bundle.THRESHOLD,
        "cache",
    }
    assert set(manifest.files) == {bundle.FEATURES, bundle.HEAD, bundle.GOLDEN}
    assert manifest.files[bundle.FEATURES] == bundle.sha256(int8)
    assert manifest.model == bundle.load_bundle(source)
    assert (manifest.precision, manifest.batch, manifest.calibration) == ("int8", (1, 1, 4), "calibration/tiny.json")
    assert {"openvino", "device", "mtkd-edge", "hint", "threads", "gate"} <= manifest.built.keys()
    assert manifest.gate["spearman"] > 0.9
    assert manifest.gate["frames"] == 24 + 24
    assert {step[0] for step in steps} == {"compile", "gate", "gate, fp32"}
    assert nothing_left(tmp_path / "engines")


def test_the_threshold_is_that_of_the_engine_itself(source, int8, target, tmp_path):
    make(source, tmp_path / "engine", target, int8)
    with engines.load(tmp_path / "engine") as engine:
        again = refit.refit(engine, HELD_OUT, 0.05)
    found = bundle.load_threshold(tmp_path / "engine")
    assert found.score == pytest.approx(again.score, rel=1e-3)
    assert (found.engine, found.photos, found.false_alarms) == ("tiny-tiny", 24, 0.05)
    assert found.score != bundle.load_threshold(source).score


def test_an_engine_folder_works_when_the_bundle_is_gone(source, target, tmp_path):
    shutil.copytree(source, tmp_path / "bundle")
    make(tmp_path / "bundle", tmp_path / "engine", target, None)
    shutil.rmtree(tmp_path / "bundle")
    (tmp_path / "engine").rename(tmp_path / "on-the-line")
    with engines.load(tmp_path / "on-the-line") as engine:
        assert np.isfinite(engine.infer(HELD_OUT[0][None]).scores).all()


def test_fp32_is_compared_too_and_differs_in_nothing(source, target, tmp_path):
    found = make(source, tmp_path / "engine", target, None).gate
    assert found["spearman"] == pytest.approx(1)
    assert found["flips"] == found["auroc_drop"] == 0


def test_a_build_that_fails_its_gate_leaves_the_old_engine_and_nothing_else(source, int8, target, tmp_path):
    out = tmp_path / "engine"
    old = make(source, out, target, int8)
    strict = msgspec.structs.replace(target, gate=Limits(spearman=0.99999))
    with pytest.raises(GateError, match=r"int8 engine is not as good as the FP32 graph: rank correlation"):
        make(source, out, strict, int8)
    assert bundle.load_engine(out) == old
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


def test_a_finished_build_replaces_the_engine_that_was_there(source, int8, target, tmp_path):
    out = tmp_path / "engine"
    make(source, out, target, None)
    (out / "leftover").write_text("of the old one")
    assert make(source, out, target, int8).precision == bundle.load_engine(out).precision == "int8"
    assert not (out / "leftover").exists()
    assert nothing_left(tmp_path)


def test_a_swap_that_fails_puts_the_old_engine_back(source, target, tmp_path, monkeypatch):
    out = tmp_path / "engine"
    old = make(source, out, target, None)
    rename = Path.rename

    def fails_at_the_last_step(self: Path, to: Path) -> Path:
        if self.name.endswith(".tmp") and Path(to) == out and ".old" not in self.name:
            raise OSError("disk trouble")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails_at_the_last_step)
    with pytest.raises(BundleError, match="engine cannot be written: disk trouble"):
        make(source, out, target, None)
    assert bundle.load_engine(out) == old
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_not_an_engine_is_never_replaced(source, target, tmp_path, what):
    out = tmp_path / "mine"
    if what == "folder":
        out.mkdir()
        (out / "photo.png").write_bytes(b"mine")
    else:
        out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="is not an engine; it is not replaced"):
        make(source, out, target, None)
    assert out.read_bytes() == b"mine" if what == "file" else (out / "photo.png").read_bytes() == b"mine"


def test_int8_without_a_graph_is_refused(source, target, tmp_path):
    expected = build.expect(source, HELD_OUT[:4])
    with pytest.raises(UsageError, match="int8 engine for tiny needs a graph of that precision"):
        build_engine(source, tmp_path / "engine", target, "int8", None, expected, 0.05)
    with pytest.raises(UsageError, match="fp16 engine for rtx needs a graph"):
        build_engine(source, tmp_path / "engine", targets.load("rtx"), "fp16", None, expected, 0.05)


def test_too_few_photos_are_refused_before_anything_is_built(source, target, tmp_path):
    with pytest.raises(DataError, match=r"3 held-out photos; .* at least 4"):
        make(source, tmp_path / "engine", target, None, held_out=HELD_OUT[:3])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_refused(source, target, tmp_path):
    shutil.copytree(source, tmp_path / "bundle")
    data = bytearray((tmp_path / "bundle" / bundle.HEAD).read_bytes())
    data[50] ^= 1
    (tmp_path / "bundle" / bundle.HEAD).write_bytes(data)
    with pytest.raises(BundleError, match=r"head\.onnx was changed"):
        make(tmp_path / "bundle", tmp_path / "engine", target, None)


def test_a_graph_of_another_model_cannot_pass(source, target, tmp_path):
    tiny.make_bundle(tmp_path / "other", seed=5)
    with pytest.raises(GateError):
        make(source, tmp_path / "engine", target, tmp_path / "other" / bundle.FEATURES)


def test_a_graph_that_is_damaged_is_named_and_leaves_nothing(source, target, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(BundleError, match="is no ONNX graph"):
        make(source, tmp_path / "engine", target, tmp_path / "broken.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.onnx"]


def test_a_plan_built_without_a_gpu_says_that_it_has_not_run(source, int8, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="the builder that needs no GPU: pip install tensorrt-rtx")
    if _trt_driver.find_or_none() is not None:
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = targets.read(tiny.write_target(tmp_path, "tensorrt_rtx"))
    manifest = make(source, tmp_path / "engine", target, int8)
    assert {"plan.features", "plan.head"} <= manifest.files.keys()
    assert "the plan itself has not run" in manifest.built["gate"]
    assert manifest.built["gpu"] == "none"
    assert manifest.built["scorer"] == "plan.head: no GPU here to compile the kernel for"
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        engines.load(tmp_path / "engine")


def test_a_target_whose_builder_needs_a_gpu_says_so(source, int8, tmp_path):
    if _trt_driver.find_or_none() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match="there is no NVIDIA driver"):
        make(source, tmp_path / "engine", targets.load("orin-nano"), int8)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_text_that_people_can_read(source, target, tmp_path):
    make(source, tmp_path / "engine", target, None)
    text = (tmp_path / "engine" / bundle.ENGINE).read_text()
    assert json.loads(text)["model"]["name"] == "tiny"
    assert text.count("\n") > 30


def test_evidence_is_written_after_the_gate_and_sealed_with_the_engine(source, target, tmp_path):
    seen = []

    def prove(work: Path, compared: gate.Comparison) -> None:
        seen.append(compared.figures["spearman"])
        (work / "proof.txt").write_text("it agrees")

    manifest = make(source, tmp_path / "engine", target, None, evidence=prove)
    assert seen == [manifest.gate["spearman"]]
    assert manifest.files["proof.txt"] == bundle.sha256(tmp_path / "engine" / "proof.txt")
    (tmp_path / "engine" / "proof.txt").write_text("it agrees!")
    with pytest.raises(BundleError, match=r"proof\.txt was changed"):
        engines.load(tmp_path / "engine")


def test_a_refused_engine_gets_no_evidence(source, int8, target, tmp_path):
    strict = msgspec.structs.replace(target, gate=Limits(spearman=0.99999))
    seen = []
    with pytest.raises(GateError):
        make(source, tmp_path / "engine", strict, int8, evidence=lambda *given: seen.append(given))
    assert seen == []


def test_two_builds_at_once_do_not_meet(source, target, tmp_path, monkeypatch):
    """Their working folders differ by the process."""
    seen = []
    compile_plans = build.compile_plans

    def spy(work, *rest):
        seen.append(work.name)
        return compile_plans(work, *rest)

    monkeypatch.setattr(build, "compile_plans", spy)
    make(source, tmp_path / "engine", target, None)
    assert seen == [f".engine.{os.getpid()}.tmp"]


def test_the_copied_graph_is_byte_for_byte_the_one_given(source, int8, target, tmp_path):
    make(source, tmp_path / "engine", target, int8)
    assert (tmp_path / "engine" / bundle.FEATURES).read_bytes() == int8.read_bytes()
    assert onnx.load(tmp_path / "engine" / bundle.HEAD) == onnx.load(source / bundle.HEAD)
