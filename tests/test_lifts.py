"""What an INT8 build lifts to floating point, try by try, and that a try the gate refuses leads to the next."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import factory
import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from mtkd_edge import bundle
from mtkd_edge.cli import app
from mtkd_edge.device import engines, gate, targets
from mtkd_edge.errors import BundleError, DataError, GateError, UsageError
from mtkd_edge.lab import build_run, calibrate, evidence, lift, sensitivity
from mtkd_edge.lab.explain import macs, shapes
from mtkd_edge.lab.quantise import quantise
from mtkd_edge.synthetic import paste_defect

FRAMES = tiny.normal_frames(4, seed=3)


@pytest.fixture(autouse=True)
def few_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's own tests look at its numbers; here it has to be quick."""
    monkeypatch.setattr(gate, "DEFECTS", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(made)
    return made


def calibrated(folder: Path) -> calibrate.Calibration:
    return calibrate.calibrate(folder / bundle.FEATURES, FRAMES, {str(i): "0" for i in range(len(FRAMES))})


def measured(folder: Path, found: calibrate.Calibration) -> dict[str, float]:
    rng = np.random.default_rng(0)
    frames = np.concatenate([FRAMES[:2], np.stack([paste_defect(frame, rng)[0] for frame in FRAMES[:2]])])
    both = folder / bundle.FEATURES, folder / bundle.HEAD
    return sensitivity.sensitivity(*both, found.ranges, found.corrections, frames)


def unbalance(folder: Path, by: float) -> str:
    """A graph made to break under INT8, and the same function in FP32; the name of the layer that breaks.

    One channel of a Relu's output is made `by` times larger, and the next convolution's weights for it as much smaller:
    the tensor's one scale then has to reach so far that all the other channels round to nothing.
    """
    model = onnx.load(folder / bundle.FEATURES)
    values = {value.name: value for value in model.graph.initializer}
    node = {node.output[0]: node for node in model.graph.node}
    second = next(n for n in model.graph.node if n.op_type == "Conv" and node[n.input[0]].op_type == "Relu")
    first = node[node[second.input[0]].input[0]]
    for name, index in ((first.input[1], (0,)), (first.input[2], (0,)), (second.input[1], (slice(None), 0))):
        array = numpy_helper.to_array(values[name]).copy()
        array[index] *= np.float32(1 / by if name == second.input[1] else by)
        values[name].CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, folder / bundle.FEATURES)
    manifest = bundle.Manifest(**{
        **{f: getattr(decoded(folder), f) for f in bundle.Manifest.__struct_fields__}, "files": bundle.seal(folder)
    })  # fmt: skip
    bundle.save(folder, manifest, bundle.load_threshold(folder))
    return str(second.name)


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def decoded(folder: Path) -> bundle.Manifest:
    return bundle.msgspec.json.decode((folder / bundle.BUNDLE).read_bytes(), type=bundle.Manifest)


def test_sensitivity_is_what_the_whole_graph_with_that_layer_quantised_shows(folder: Path, tmp_path: Path) -> None:
    """The short way, behind a layer alone, gives the numbers of the long way."""
    found = calibrated(folder)
    ours = measured(folder, found)
    names = bundle.load_bundle(folder).feature_names()
    model, head = onnx.load(folder / bundle.FEATURES), onnx.load(folder / bundle.HEAD)
    rng = np.random.default_rng(0)
    frames = np.concatenate([FRAMES[:2], np.stack([paste_defect(frame, rng)[0] for frame in FRAMES[:2]])])

    def maps(graph: onnx.ModelProto) -> np.ndarray:
        return tiny.run(head, dict(zip(names, tiny.run(graph, {"frames": frames}, names), strict=True)), ["map"])[0]

    wanted = maps(model)
    for layer in list(ours)[::4]:
        quantise(folder / bundle.FEATURES, tmp_path / "one.onnx", found, exclude=[n for n in ours if n != layer])
        error = ((maps(onnx.load(tmp_path / "one.onnx")) - wanted) ** 2).mean((1, 2)) / wanted.var((1, 2))
        assert ours[layer] == pytest.approx(np.sqrt(error.mean()), rel=1e-3, abs=1e-6)
    assert len(ours) == 19 and min(ours.values()) > 0


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(1e-4, 1), min_size=1, max_size=12))
def test_each_try_keeps_what_the_last_one_lifted_and_takes_a_step_down(sensed: dict[str, float]) -> None:
    work = {name: 1.0 + i for i, name in enumerate(sensed)}
    tries = lift.lifts(sensed, work)
    assert 1 <= len(tries) <= lift.TRIES
    assert tries[0].error <= lift.FIRST
    for less, more in pairwise(tries):
        assert more.layers[: len(less.layers)] == less.layers
        assert more.error <= lift.STEP * less.error
        assert lift.LEAST <= more.share < less.share
    rest = sorted(set(sensed) - set(tries[-1].layers))
    assert tries[-1].error == pytest.approx(sum(sensed[name] ** 2 for name in rest) ** 0.5)


def test_the_first_to_go_costs_the_map_most_for_the_work_it_saves() -> None:
    sensed = {"cheap": 0.6, "costly": 0.8, "harmless": 0.01}
    work = {"cheap": 1.0, "costly": 9.0, "harmless": 90.0}
    assert lift.lifts(sensed, work)[0].layers == ("cheap", "costly")


def test_work_counts_operations_and_what_is_moved(folder: Path) -> None:
    model = onnx.load(folder / bundle.FEATURES)
    work, known = lift.work_of(model), shapes(model)
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    moved = np.prod(known[node.input[0]][1]) + np.prod(known[node.output[0]][1])
    assert work[node.name] == macs(node, known) + lift.MOVED * moved


def test_a_graph_made_to_break_under_int8_is_caught_by_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plant = factory.build(tmp_path)
    layer = unbalance(plant.run / "bundle", 3000.0)
    reference = plant.run / "bundle"
    words = ["build-engine", str(plant.run), "--int8", "--target", str(tiny.write_target(tmp_path))]
    words += ["--out", str(tmp_path / "e"), "--calibration", str(tmp_path / "c"), "--false-alarms", "0.05"]
    with monkeypatch.context() as nothing_lifted:
        nothing_lifted.setattr(lift, "FIRST", math.inf)
        nothing_lifted.setattr(lift, "TRIES", 1)
        assert app.run(words) == 8
    said = capfd.readouterr().err
    assert "the int8 engine is not as good as the FP32 graph: rank correlation" in said
    assert f"the most sensitive layer is {layer}" in said
    assert not (tmp_path / "e").exists()
    # and the build knows which layer it is: with that one in floating point the rest passes
    sensed = measured(reference, calibrated(reference))
    assert max(sensed, key=lambda name: sensed[name]) == layer
    assert app.run(words) == 0
    rows = read(tmp_path / "e" / evidence.LAYERS)
    assert {row["layer"]: row["precision"] for row in rows}[layer] == "float"
    assert sum(row["precision"] == "int8" for row in rows) > 0
    assert bundle.load_engine(tmp_path / "e").gate["spearman"] > 0.9


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
    found = calibrate.load(tmp_path / "calibration" / "tiny.json", factory_run[1] / bundle.FEATURES)
    second = lift.lifts(found.sensitivity, lift.work_of(onnx.load(factory_run[1] / bundle.FEATURES)))[1]
    assert len(asked) == 2
    assert manifest["built"]["layers"].startswith(f"{19 - len(second.layers)} of 19 layers and {second.share:.0%}")


def test_when_every_try_is_refused_the_gates_error_says_what_was_tried_and_nothing_is_left(
    factory_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(figures: dict[str, float], limits: object, precision: str) -> None:
        raise GateError("refused for the test", "do something else")

    monkeypatch.setattr(gate, "demand", never)
    with pytest.raises(GateError, match=r"refused for the test \(with \d+ of 19 layers .*most sensitive") as caught:
        built(factory_run, tmp_path)
    assert caught.value.hint == "do something else"
    assert not (tmp_path / "engine").exists()


def test_the_proof_is_in_the_folder_and_a_change_to_it_is_noticed(
    factory_run: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = built(factory_run, tmp_path)
    out = tmp_path / "engine"
    rows = read(out / evidence.SCORES)
    assert len(rows) == manifest["gate"]["frames"]
    assert {row["kind"] for row in rows} == {"good", "defect"}
    own, reference = (np.array([float(row[name]) for row in rows]) for name in ("engine", "fp32"))
    assert gate.rank_correlation(own, reference) == pytest.approx(manifest["gate"]["spearman"], abs=1e-3)
    assert (out / evidence.PICTURE).read_bytes().startswith(b"\x89PNG")
    for name in (evidence.SCORES, evidence.LAYERS, evidence.PICTURE):
        assert manifest["files"][name] == bundle.sha256(out / name)
    (out / evidence.PICTURE).write_bytes(b"\x89PNG of something else")
    with pytest.raises(BundleError, match=r"proof\.png was changed"):
        engines.load(out)


def test_sensitivity_is_measured_once_and_kept_with_the_ranges(factory_run: tuple[Path, Path], tmp_path: Path) -> None:
    steps: list[str] = []
    target = targets.read(tiny.write_target(tmp_path, "openvino", "int8"))
    for out in ("one", "two"):
        args = (factory_run[0], factory_run[1], tmp_path / out, target, "int8", tmp_path / "calibration", 0.05)
        steps.append("")
        build_run.build(*args, lambda *step: steps.append(step[0]))
    second = steps[steps.index("", 1) :]
    assert "sensitivity" in steps and "calibrate" in steps
    assert not {"sensitivity", "calibrate"} & set(second)


def test_photos_that_are_others_than_the_run_was_made_with_are_named(tmp_path: Path) -> None:
    plant = factory.build(tmp_path)
    target = targets.read(tiny.write_target(tmp_path, "openvino", "int8"))
    held_out = build_run.photos_of(plant.run).side("held-out")[1]
    other = held_out.read_bytes()
    held_out.write_bytes(next(plant.bad.iterdir()).read_bytes())
    words = (plant.run, plant.run / "bundle", tmp_path / "engine", target, "int8", tmp_path / "calibration", 0.05)
    with pytest.raises(DataError, match=rf"{held_out.name} is not the photo that the run was made with"):
        build_run.build(*words)
    held_out.write_bytes(other)
    build_run.build(*words)


def test_a_folder_that_must_not_be_replaced_is_refused_before_anything_is_read(
    factory_run: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    target, steps = targets.read(tiny.write_target(tmp_path, "openvino", "int8")), []
    words = (*factory_run, tmp_path / "mine", target, "int8", tmp_path / "calibration", 0.05)
    with pytest.raises(UsageError, match="is not an engine; it is not replaced"):
        build_run.build(*words, lambda *step: steps.append(step))
    assert steps == []


def built(run: tuple[Path, Path], folder: Path) -> dict[str, dict[str, str]]:
    target = targets.read(tiny.write_target(folder, "openvino", "int8"))
    out = folder / "engine"
    build_run.build(run[0], run[1], out, target, "int8", folder / "calibration", 0.05)
    found: dict[str, dict[str, str]] = json.loads((out / bundle.ENGINE).read_text())
    return found


def test_the_console_shows_every_limit(
    factory_run: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tiny.write_target(tmp_path, "openvino", "int8")
    words = ["build-engine", str(factory_run[0]), "--int8", "--target", str(target), "--out", str(tmp_path / "e")]
    assert app.run([*words, "--calibration", str(tmp_path / "c")]) == 0
    out = capfd.readouterr().out
    for name, limit in (("rank correlation", ">= 0.9"), ("AUROC drop", "<= 0.05"), ("flipped verdicts", "<= 10.00%")):
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert limit in line and line.endswith("kept")
    assert "layers and" in out


def test_an_int8_engine_is_built_without_torch(tmp_path: Path) -> None:
    """As on a Jetson, where the run comes from another machine."""
    plant = factory.build(tmp_path)
    words = ["build-engine", str(plant.run), "--int8", "--target", str(tiny.write_target(tmp_path))]
    words += ["--out", str(tmp_path / "e"), "--calibration", str(tmp_path / "c")]
    banned = ("torch", "torchvision", "timm", "onnxsim", "onnxscript", "safetensors")
    code = f"import sys\nfor name in {banned!r}: sys.modules[name] = None\n"
    code += f"from mtkd_edge.cli import app\nsys.exit(app.run({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e" / evidence.PICTURE).is_file()
