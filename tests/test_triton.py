"""A Triton repository: text that Triton's schema takes, tensors that are the graphs', and a chain that computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import factory
import msgspec
import numpy as np
import onnx
import pytest
import tiny
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from mtkd_edge import bundle
from mtkd_edge.cli import app
from mtkd_edge.device import engines, targets, triton
from mtkd_edge.errors import BundleError, UsageError

# the part of Triton's model_config.proto that we write: message -> field -> (type, repeated); its names are Triton's
SCHEMA = {
    "Reshape": {"shape": ("int64", True)},
    "Tensor": {"name": ("string", False), "data_type": ("enum", False), "dims": ("int64", True),
               "reshape": ("Reshape", False)},
    "Pair": {"key": ("string", False), "value": ("string", False)},
    "Step": {"model_name": ("string", False), "model_version": ("int64", False), "input_map": ("Pair", True),
             "output_map": ("Pair", True)},
    "Scheduling": {"step": ("Step", True)},
    "Batching": {"preferred_batch_size": ("int64", True), "max_queue_delay_microseconds": ("int64", False)},
    "ModelConfig": {"name": ("string", False), "platform": ("string", False), "max_batch_size": ("int64", False),
                    "input": ("Tensor", True), "output": ("Tensor", True), "dynamic_batching": ("Batching", False),
                    "ensemble_scheduling": ("Scheduling", False)},
}  # fmt: skip


def schema() -> Any:
    """ModelConfig as a class of protobuf, strict about every name."""
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"int64": field.TYPE_INT64, "string": field.TYPE_STRING, "enum": field.TYPE_ENUM}
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="t", syntax="proto2")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(("TYPE_INVALID", "TYPE_UINT8", "TYPE_FP32")):
        types.value.add(name=name, number=number)
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (key, (kind, repeated)) in enumerate(fields.items(), start=1):
            made = message.field.add(name=key, number=number, label=3 if repeated else 1)
            made.type = kinds.get(kind, field.TYPE_MESSAGE)
            if kind not in ("int64", "string"):
                made.type_name = ".t.DataType" if kind == "enum" else f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))


def config(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema()())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 engine, built by the command."""
    root = tmp_path_factory.mktemp("plant")
    plant = factory.build(root)
    target, out = tiny.write_target(root), root / "int8"
    words = ["build-engine", str(plant.run), "--int8", "--target", str(target), "--out", str(out)]
    assert app.run([*words, "--calibration", str(root / "calibration")]) == 0
    return out


def test_every_file_is_in_its_place_and_a_config_of_triton(engine: Path, tmp_path: Path) -> None:
    written = triton.export(engine, tmp_path / "models")
    assert [path.name for path in written] == ["tiny-tiny-features", "tiny-tiny-head", "tiny-tiny"]
    for path, graph in zip(written, (bundle.FEATURES, bundle.HEAD, None), strict=True):
        found = config(path)
        assert (found.name, found.max_batch_size) == (path.name, 4)
        kept = sorted(file.name for file in (path / "1").iterdir())
        assert kept == (["model.onnx"] if graph else [])
        if graph:
            assert (path / "1" / "model.onnx").read_bytes() == (engine / graph).read_bytes()
            assert found.platform == "onnxruntime_onnx"
            assert list(found.dynamic_batching.preferred_batch_size) == [1]


def test_tensors_are_those_of_the_graphs(engine: Path, tmp_path: Path) -> None:
    kinds = {onnx.TensorProto.UINT8: 1, onnx.TensorProto.FLOAT: 2}
    for path in triton.export(engine, tmp_path / "models")[:2]:
        found, graph = config(path), onnx.load(path / "1" / "model.onnx").graph
        for ours, theirs in ((found.input, graph.input), (found.output, graph.output)):
            wanted = {}
            for value in theirs:
                tensor = value.type.tensor_type
                wanted[value.name] = kinds[tensor.elem_type], [dim.dim_value for dim in tensor.shape.dim][1:]
            shapes = {t.name: (t.data_type, [] if t.HasField("reshape") else list(t.dims)) for t in ours}
            assert shapes == wanted


def test_the_chain_of_the_ensemble_computes_what_the_engine_does(engine: Path, tmp_path: Path) -> None:
    """ONNX Runtime runs the INT8 graph unchanged; it and OpenVINO differ by less than 3 % of the golden maps' range."""
    written = triton.export(engine, tmp_path / "models")
    graphs = {path.name: onnx.load(path / "1" / "model.onnx") for path in written[:2]}
    with np.load(engine / bundle.GOLDEN) as golden:
        frames, size = golden["frames"], float(np.ptp(golden["map"]))
    tensors = {"frames": frames}
    whole = config(written[2])
    assert "reshape" not in {field.name for tensor in whole.output for field, _ in tensor.ListFields()}
    for step in whole.ensemble_scheduling.step:
        feed = {pair.key: tensors[pair.value] for pair in step.input_map}
        names = {pair.key: pair.value for pair in step.output_map}
        made = tiny.run(graphs[step.model_name], feed, list(names))
        tensors |= dict(zip(names.values(), made, strict=True))
    assert {tensor.name for tensor in whole.output} == {"map", "score"} <= tensors.keys()
    with engines.load(engine) as loaded:
        for i, frame in enumerate(frames):
            found = loaded.infer(frame[None])
            assert np.abs(found.maps[0] - tensors["map"][i]).max() < 0.03 * size
            assert abs(found.scores[0] - tensors["score"][i]) < 0.03 * size


def with_plans(engine: Path) -> Path:
    """The same engine as if TensorRT had built it."""
    for plan in triton.PLANS.values():
        (engine / plan).write_bytes(plan.encode())
    manifest = msgspec.json.decode((engine / bundle.ENGINE).read_bytes(), type=bundle.EngineManifest)
    manifest = msgspec.structs.replace(manifest, files=bundle.seal(engine), batch=(1, 1, 1))
    bundle.save(engine, manifest, bundle.load_threshold(engine))
    return engine


def test_plans_are_exported_where_there_are_any_unless_onnx_is_asked_for(engine: Path, tmp_path: Path) -> None:
    folder = with_plans(Path(shutil.copytree(engine, tmp_path / "engine")))
    features, head, _ = triton.export(folder, tmp_path / "plans")
    assert config(features).platform == "tensorrt_plan"
    assert not config(features).HasField("dynamic_batching"), "a plan for one frame collects none"
    assert (head / "1" / "model.plan").read_bytes() == b"plan.head"
    assert config(triton.export(folder, tmp_path / "graphs", "onnx")[0]).platform == "onnxruntime_onnx"
    with pytest.raises(UsageError, match="holds no plan"):
        triton.export(engine, tmp_path / "none", "plan")


def test_a_repository_in_service_is_not_changed_and_a_damaged_engine_not_exported(engine: Path, tmp_path: Path) -> None:
    triton.export(engine, tmp_path / "models")
    with pytest.raises(UsageError, match="is there already; it is not replaced"):
        triton.export(engine, tmp_path / "models")
    folder = Path(shutil.copytree(engine, tmp_path / "engine"))
    (folder / bundle.HEAD).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"head\.onnx was changed"):
        triton.export(folder, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BundleError, match="cannot be written"):
        triton.export(engine, tmp_path / "file")


def test_trtexec_is_told_what_our_own_builder_is(engine: Path) -> None:
    manifest = bundle.load_engine(engine)
    features, head = triton.trtexec(engine, manifest, targets.load("orin-nano").tensorrt)
    words = features.split()
    assert words[0] == "trtexec" and f"--onnx={engine / bundle.FEATURES}" in words
    assert {"--stronglyTyped", "--memPoolSize=workspace:512", "--saveEngine=plan.features"} <= set(words)
    assert "--minShapes=frames:1x64x64x3" in words and "--maxShapes=frames:4x64x64x3" in words
    assert "--noTF32" not in words and "--noTF32" in head.split()
    assert head.count("student_fine:4x12x8x8") == 1
    assert not any("ompatib" in word for word in words)
    wide = triton.trtexec(engine, manifest, targets.TensorrtRecipe(version_compatible=True, hardware_compatible=True))
    assert all({"--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(one.split()) for one in wide)


@pytest.mark.parametrize(
    ("built", "kind", "wanted"), [("yes", None, True), ("yes", "onnx", False), ("no", None, False)]
)
def test_who_exports_version_compatible_plans_is_told_what_triton_must_be_told(
    built: str, kind: triton.Kind | None, wanted: bool, engine: Path
) -> None:
    manifest = bundle.load_engine(engine)
    made = msgspec.structs.replace(
        manifest,
        built={**manifest.built, "version_compatible": built},
        files={**manifest.files, "plan.features": "0" * 64, "plan.head": "0" * 64},
    )
    assert bool(triton.switch(made, kind)) == wanted
    assert not triton.switch(msgspec.structs.replace(made, files=manifest.files), None)  # it has no plan


def test_the_command_says_where_the_models_are_and_what_is_anomalous(
    engine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["export", str(engine), "--triton", str(tmp_path / "a"), "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert [Path(path).name for path in value["models"]][2] == "tiny-tiny"
    assert value["threshold"] == bundle.load_threshold(engine).score
    assert app.run(["export", str(engine), "--triton", str(tmp_path / "b")]) == 0
    assert "a frame is anomalous where score >" in capfd.readouterr().out
