"""An engine folder of TensorRT is opened on the machine it was built for, byte for byte as it was built, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import tiny
from trt_double import Cuda, Tensorrt

from mtkd_edge import bundle
from mtkd_edge.device.engine import EngineOptions
from mtkd_edge.device.engines import _cuda, _trt_build, _trt_driver, open_engine, tensorrt
from mtkd_edge.errors import BackendError, BundleError

FRAMES = tiny.normal_frames(3, seed=9)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, bundle.Manifest]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, tiny.make_bundle(folder)


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    double = Cuda()
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)
    return double


def engine_folder(made, folder: Path, **built: str) -> tuple[Path, bundle.EngineManifest]:
    """An engine folder for the double: its plans are the graphs."""
    shutil.copytree(made[0], folder)
    for name, graph in _trt_build.PLANS.items():
        shutil.copyfile(made[0] / graph, folder / name)
    manifest = bundle.EngineManifest(
        target="orin-nano", backend="tensorrt", precision="int8", batch=(1, 1, 4), created="", model=made[1],
        built={"version": "10.3.0", "gpu": "Orin (compute capability 8.7)", **built}, gate={}, calibration="",
        files=bundle.seal(folder),
    )  # fmt: skip
    return folder, manifest


@pytest.fixture
def orin(cuda, tmp_path, monkeypatch):
    """A machine with an Orin, TensorRT 10.3.0 and pycuda, as far as our code can tell."""
    monkeypatch.setattr(_trt_driver, "find", lambda index=0: _trt_driver.Gpu("Orin", (8, 7)))
    monkeypatch.setattr(tensorrt, "module", lambda: Tensorrt(cuda))


def test_an_engine_folder_opens_on_the_machine_it_was_built_on(made, orin, tmp_path):
    with open_engine(*engine_folder(made, tmp_path / "engine"), EngineOptions()) as engine:
        assert (engine.name, engine.batch) == ("tiny-orin-nano", 4)
        assert engine.infer(FRAMES).scores.shape == (3,)


@pytest.mark.parametrize(
    ("built", "words"),
    [
        ({"version": "10.16.1"}, r"of tensorrt 10\.16\.1, here is 10\.3\.0"),
        ({"gpu": "NVIDIA Thor (compute capability 11.0)"}, r"for NVIDIA Thor .* here is Orin"),
        ({"version": ""}, "here is"),
    ],
)
def test_a_plan_of_another_tensorrt_or_gpu_is_refused_with_the_command_that_rebuilds_it(
    made, orin, tmp_path, built, words
):
    with pytest.raises(BackendError, match=words) as caught:
        open_engine(*engine_folder(made, tmp_path / "engine", **built))
    assert caught.value.hint == "mtkd-edge build-engine --int8 --target orin-nano"


@pytest.mark.parametrize(
    "built",
    [
        {"gpu": "RTX 4090 (compute capability 8.9)", "hardware_compatible": "yes"},
        {"gpu": "none"},
    ],
)
def test_compatible_plans_and_those_built_without_a_gpu_are_taken(made, orin, tmp_path, built):
    with open_engine(*engine_folder(made, tmp_path / "engine", **built)) as engine:
        assert engine.infer(FRAMES).scores.shape == (3,)


def test_code_for_the_cpu_is_allowed_to_version_compatible_plans_alone(made, orin, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "module", lambda: Tensorrt(cuda, compatible=True))
    folder, manifest = engine_folder(made, tmp_path / "engine", version="10.1.0", version_compatible="yes")
    with open_engine(folder, manifest) as engine:
        assert engine.infer(FRAMES).scores.shape == (3,)
    for said in ({}, {"version_compatible": "no"}):
        plain = msgspec.structs.replace(manifest, built={"version": "10.3.0", "gpu": "none", **said})
        with pytest.raises(BackendError, match="contains host code, which is not allowed"):
            open_engine(folder, plain)
    (folder / "plan.features").write_bytes(b"other code")
    monkeypatch.setattr(tensorrt, "module", lambda: SimpleNamespace(__version__="10.3.0"))  # no runtime is made
    with pytest.raises(BundleError, match=r"plan\.features was changed"):
        open_engine(folder, manifest)


def test_a_plan_is_run_only_if_the_bytes_read_have_the_manifests_hash(made, orin, tmp_path):
    folder, manifest = engine_folder(made, tmp_path / "engine")
    (folder / "plan.head").write_bytes(b"other code")
    with pytest.raises(BundleError, match=r"plan\.head was changed"):
        open_engine(folder, manifest)
    (folder / "plan.head").unlink()
    with pytest.raises(BundleError, match=r"plan\.head cannot be read"):
        open_engine(folder, manifest)
    unlisted = msgspec.structs.replace(manifest, files={})
    with pytest.raises(BundleError, match=r"plan\.features was changed"):
        open_engine(folder, unlisted)
