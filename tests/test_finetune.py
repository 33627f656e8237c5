"""The fine-tune in INT8: what is trained is what runs, what is learned goes back, and the gate has the last word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch

from mtkd_edge import bundle
from mtkd_edge.cli import app
from mtkd_edge.device import gate
from mtkd_edge.device.engines.openvino import OpenvinoEngine
from mtkd_edge.errors import GateError, UsageError
from mtkd_edge.lab import build_run, calibrate, finetune
from mtkd_edge.lab.fake_quant import FakeQuantStudent, student_outputs, write_back
from mtkd_edge.lab.quantise import quantise

FRAMES = tiny.normal_frames(6, seed=3)
STUDENTS = ("student_fine", "student_coarse")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DEFECTS", 24)
    monkeypatch.setattr(finetune, "STEPS", 25)
    monkeypatch.setattr(build_run, "LEARNED_FROM", 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, calibrate.Calibration]:
    """A bundle, its ranges, and int8.onnx with a layer of the teachers and one of the student in floating point."""
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    source = folder / bundle.FEATURES
    found = calibrate.calibrate(source, FRAMES, {str(i): "0" for i in range(len(FRAMES))})
    quantise(source, folder / "int8.onnx", found, exclude=["/conv6", "/conv37"])
    return folder, found


def exactly(graph: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Node by node, nothing fused: the arithmetic that the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return session.run(list(names), {"frames": FRAMES})


def test_the_student_in_torch_is_the_quantised_graph(made: tuple[Path, calibrate.Calibration]) -> None:
    """In ONNX Runtime, and in OpenVINO, which is what runs on the line."""
    folder, _ = made
    student = FakeQuantStudent(onnx.load(folder / "int8.onnx"))
    assert student.outputs == STUDENTS
    with torch.no_grad():
        ours = student(torch.from_numpy(FRAMES))
    for name, theirs in zip(STUDENTS, exactly(folder / "int8.onnx", STUDENTS), strict=True):
        # sums in another order put a value that lies between two steps on the other one, here and there
        assert np.isclose(ours[name].numpy(), theirs, rtol=1e-5, atol=1e-5).mean() > 0.99
        assert np.linalg.norm(ours[name].numpy() - theirs) < 1e-3 * np.linalg.norm(theirs)
    with OpenvinoEngine(folder / "int8.onnx", folder / bundle.HEAD) as engine:
        assert finetune.agree(student, engine, FRAMES) < 0.002
        with torch.no_grad():
            student.values[0] *= 1.1
        with pytest.raises(GateError, match="the student in torch differs from the INT8 engine by 0"):
            finetune.agree(student, engine, FRAMES)


def test_what_was_learned_goes_back_and_nothing_else_changes(
    made: tuple[Path, calibrate.Calibration], tmp_path: Path
) -> None:
    folder, found = made
    before, quantised = onnx.load(folder / bundle.FEATURES), onnx.load(folder / "int8.onnx")
    student = FakeQuantStudent(quantised)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in student.values:
            value += 0.05 * value.abs().mean() * torch.randn_like(value)
        ours = student(torch.from_numpy(FRAMES))
    onnx.save(write_back(before, quantised, student), tmp_path / "tuned.onnx")
    again = msgspec.structs.replace(found, graph=bundle.sha256(tmp_path / "tuned.onnx"))
    quantise(tmp_path / "tuned.onnx", tmp_path / "int8.onnx", again, exclude=["/conv6", "/conv37"])
    for name, theirs in zip(STUDENTS, exactly(tmp_path / "int8.onnx", STUDENTS), strict=True):
        assert np.linalg.norm(ours[name].numpy() - theirs) < 1e-3 * np.linalg.norm(theirs)
    teachers = tuple(name.replace("student", "reference") for name in STUDENTS)
    old, new = (exactly(path, teachers) for path in (folder / bundle.FEATURES, tmp_path / "tuned.onnx"))
    for one, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fine_tune_brings_the_student_nearer_to_its_target_the_same_way_each_time(
    made: tuple[Path, calibrate.Calibration],
) -> None:
    folder, _ = made
    quantised = onnx.load(folder / "int8.onnx")
    with (
        OpenvinoEngine(folder / bundle.FEATURES, folder / bundle.HEAD) as reference,
        OpenvinoEngine(folder / "int8.onnx", folder / bundle.HEAD) as engine,
    ):
        targets = finetune.targets_of(STUDENTS, reference, engine, FRAMES)
        exact, own = reference.features(FRAMES[:1]), engine.features(FRAMES[:1])
    wanted = exact["student_fine"] + own["reference_fine"] - exact["reference_fine"]
    np.testing.assert_allclose(targets["student_fine"][:1], wanted, rtol=2e-3, atol=2e-3)
    runs = []
    for seed in (0, 0, 1):
        student = FakeQuantStudent(quantised)
        history = finetune.finetune(student, FRAMES, targets, seed, 40)
        runs.append([row["distance"] for row in history])
    assert runs[0] == runs[1] != runs[2]
    assert np.mean(runs[0][-5:]) < 0.7 * np.mean(runs[0][:5])


def test_only_a_network_of_its_own_can_be_fine_tuned(made: tuple[Path, calibrate.Calibration]) -> None:
    """A reconstruction is called a student as well, but its layers are the teachers'."""
    folder, _ = made
    model = onnx.load(folder / "int8.onnx")
    graph = model.graph
    graph.node.append(onnx.helper.make_node("Identity", ["reference_coarse"], ["student_rebuilt"], "rebuilt"))
    graph.output.append(onnx.helper.make_tensor_value_info("student_rebuilt", 1, None))
    assert student_outputs(model) == STUDENTS
    next(node for node in graph.node if node.name == "/trunk").op_type = "Erf"
    with pytest.raises(UsageError, match="the student of this run cannot be fine-tuned: it has Erf"):
        FakeQuantStudent(model)
    del graph.output[:2]
    with pytest.raises(UsageError, match="it is not a network of its own"):
        FakeQuantStudent(model)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> factory.Factory:
    return factory.build(tmp_path_factory.mktemp("plant"))


def words(plant: factory.Factory, folder: Path) -> list[str]:
    target = tiny.write_target(folder)
    asked = ["build-engine", str(plant.run), "--int8", "--finetune", "--target", str(target)]
    return [*asked, "--out", str(folder / "e"), "--calibration", str(folder / "c")]


def test_the_command_shows_what_was_before_and_the_engine_is_whole(
    plant: factory.Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On five held-out photos the gate would toss a coin; its own tests are elsewhere."""
    monkeypatch.setattr(gate, "demand", lambda figures, limits, precision: None)
    assert app.run(words(plant, tmp_path)) == 0
    shown = capfd.readouterr().out
    assert "fine-tune: 25 steps of the student against the INT8 teachers" in shown
    for name in ("AUROC on pasted defects", "before: rank correlation", "before: AUROC drop", "before: flipped"):
        assert any(line.startswith(name) for line in shown.splitlines()), name
    manifest = bundle.load_engine(tmp_path / "e")
    assert manifest.gate["spearman"] != manifest.gate["before_spearman"]
    assert manifest.model.score.digest() != bundle.load_bundle(plant.run / "bundle").score.digest()
    assert Path(manifest.calibration) == tmp_path / "c" / "tiny-finetuned.json"
    assert app.run(["check", str(tmp_path / "e"), "--json"]) == 0


def test_a_fine_tune_that_does_not_help_leaves_the_plain_engine_and_says_so(
    plant: factory.Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "PEAK_RATE", 3.0)  # learns so fast that nothing is left of the student
    assert app.run([*words(plant, tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["finetune"].startswith("tried and not kept: the int8 engine is not as good as the FP32 graph")
    assert "before_auroc" not in found["gate"]
    assert Path(found["calibration"]) == tmp_path / "c" / "tiny.json"
    assert bundle.load_engine(tmp_path / "e").model == bundle.load_bundle(plant.run / "bundle")


def test_a_fine_tune_that_cannot_go_on_leaves_the_plain_engine_as_well(
    plant: factory.Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "AGREED", -1.0)
    assert app.run([*words(plant, tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["finetune"].startswith("tried and not kept: ")


def test_a_run_of_the_published_method_is_refused_before_anything_is_built(
    plant: factory.Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "run" / "bundle"
    shutil.copytree(plant.run / "bundle", source)
    model = msgspec.structs.replace(bundle.load_bundle(source), method="paper")
    bundle.save(source, model, bundle.load_threshold(source))
    asked = [str(source.parent) if word == str(plant.run) else word for word in words(plant, tmp_path)]
    assert app.run(asked) == 2
    assert "--finetune is for the feature-map method" in capfd.readouterr().err
    assert not (tmp_path / "e").exists()


def test_other_precisions_have_nothing_to_learn(
    plant: factory.Factory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [word if word != "--int8" else "--fp32" for word in words(plant, tmp_path)]
    assert app.run(asked) == 2
    assert "--finetune teaches the student what INT8 does, and this is fp32" in capfd.readouterr().err
    assert not (tmp_path / "e").exists()
