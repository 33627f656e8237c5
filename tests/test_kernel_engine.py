"""The fused kernel inside a TensorRT engine: our code as it runs on a GPU, over a double of pycuda and TensorRT.

In the double the kernel is real: the CUDA text, compiled for this CPU, works on the engine's own device memory.
"""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from trt_double import Cuda, Tensorrt

from mtkd_edge import bundle
from mtkd_edge.cli import look
from mtkd_edge.device import bench
from mtkd_edge.device.engine import EngineOptions
from mtkd_edge.device.engines import _cuda, _trt_build, _trt_driver, open_engine, tensorrt
from mtkd_edge.device.engines._trt_driver import Gpu
from mtkd_edge.device.engines._trt_run import Fusion, TensorrtEngine
from mtkd_edge.device.kernel import build as kernels
from mtkd_edge.device.kernel import compiler, host
from mtkd_edge.device.kernel.compiler import Compiler
from mtkd_edge.device.kernel.layout import Layout, layout
from mtkd_edge.errors import BackendError, BundleError
from mtkd_edge.score import oracle

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

FRAMES = np.concatenate([tiny.normal_frames(2, seed=9), tiny.with_defects(tiny.normal_frames(1, seed=10))])
ORIN = Gpu("Orin", (8, 7))
CUBIN = "score.sm_87.cubin"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, bundle.Manifest]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, tiny.make_bundle(folder)


@pytest.fixture(scope="module")
def fused(made, tmp_path_factory) -> kernels.Fused:
    found = layout(made[1].score)
    return kernels.Fused(host.build(found, tmp_path_factory.mktemp("kernel")).read_bytes(), found)


@pytest.fixture
def cuda(monkeypatch, tmp_path) -> Cuda:
    double = Cuda()
    monkeypatch.setattr(_cuda, "import_driver", lambda: double)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return double


def plans(made) -> list[bytes]:
    return [(made[0] / name).read_bytes() for name in (bundle.FEATURES, bundle.HEAD)]


@pytest.fixture
def opened(made, fused, cuda):
    def start(batch: int = 4, kernel: kernels.Fused = fused, first: bytes | None = None) -> TensorrtEngine:
        fusion = Fusion(kernel, tuple(made[1].feature_names()))
        # no second plan: the head must not be loaded
        given = [first or plans(made)[0], b"no plan"]
        return TensorrtEngine(Tensorrt(cuda), _cuda.Device(), given, batch=batch, fusion=fusion)

    return start


def test_maps_and_scores_are_the_oracle_of_the_engines_own_features(made, opened):
    spec, names = made[1].score, made[1].feature_names()
    with opened() as engine:
        for count in (3, 1, 2):  # the buffers hold what larger batches left behind
            found = engine.infer(FRAMES[:count])
            features = engine.features(FRAMES[:count])
            arrays = [features[name] for name in names]
            maps, scores = oracle(spec, arrays[:2], arrays[2:])
            assert np.isfinite(found.maps).all()
            assert np.isfinite(found.scores).all()
            np.testing.assert_allclose(found.maps, maps, rtol=1e-5, atol=1e-5 * np.abs(maps).max())
            np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        kept = found.maps.copy()
        engine.infer(FRAMES[:1])
        np.testing.assert_array_equal(found.maps, kept)  # the caller's own


def test_it_agrees_with_the_plan_of_the_head(made, opened, cuda):
    with opened() as engine:
        ours = engine.infer(FRAMES)
    with TensorrtEngine(Tensorrt(cuda), _cuda.Device(), plans(made), batch=4) as engine:
        theirs = engine.infer(FRAMES)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
    np.testing.assert_allclose(ours.maps, theirs.maps, rtol=1e-4, atol=1e-4)


def test_bench_shows_the_score_apart(opened):
    with opened() as engine:
        row = bench.bench(engine, FRAMES.shape[1:], (2,), 0.0)[0]
    assert list(row.stages) == ["upload", "features", "score", "download"]
    assert all(stage.p50 >= 0 for stage in row.stages.values())
    head, line = look.speeds([row])
    assert head[-4:] == ("upload", "features", "score", "download")
    assert line[-2] == f"{row.stages['score'].p50:.3f}"
    whole = look.speeds([msgspec.structs.replace(row, stages={"infer": row.call})])
    assert whole[0] == ("batch", "p50 ms", "p90 ms", "p99 ms", "frames/s"), "one stage is the call itself"


def test_everything_is_freed_once_in_its_context(opened, cuda):
    engine = opened()
    assert cuda.stack == []
    # four features; twice frames, map, score and verdict; the module, its distances and its tickets
    assert cuda.alive == 15
    engine.infer(FRAMES)
    engine.close()
    engine.close()
    gc.collect()
    assert (cuda.alive, cuda.stack) == (0, [])
    for call in (engine.infer, engine.features):
        with pytest.raises(BackendError, match="is closed"):
            call(FRAMES)


def test_a_second_thread_is_an_error_and_leaves_the_engine_usable(opened, cuda):
    engine, said = opened(), []

    def elsewhere() -> None:
        for call, arguments in ((engine.infer, (FRAMES,)), (engine.features, (FRAMES,)), (engine.close, ())):
            with pytest.raises(BackendError, match="made in another thread"):
                call(*arguments)
            said.append(call.__name__)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said == ["infer", "features", "close"]
    assert np.isfinite(engine.infer(FRAMES).scores).all()
    engine.close()
    assert cuda.alive == 0


def test_a_launch_that_fails_is_a_backend_error_and_the_engine_still_closes(opened, cuda, monkeypatch):
    engine = opened()
    monkeypatch.setattr(Layout, "shared_bytes", property(lambda found: 64))  # too little: the host build notices
    with pytest.raises(BackendError, match=r"CUDA reports: .* beyond its shared memory"):
        engine.infer(FRAMES)
    assert cuda.stack == []
    monkeypatch.undo()
    monkeypatch.setattr(_cuda, "import_driver", lambda: cuda)
    cuda.fail = "an illegal memory access was encountered"
    with pytest.raises(BackendError, match="CUDA reports: an illegal memory access"):
        engine.infer(FRAMES)
    cuda.fail = ""
    engine.close()
    assert (cuda.alive, cuda.stack) == (0, [])


def test_a_kernel_made_for_another_spec_is_refused(made, fused, opened, cuda):
    spec = msgspec.structs.replace(made[1].score, sigma=1.6)
    with pytest.raises(BackendError, match=r"was made for [0-9a-f]{16}, this model needs"):
        opened(kernel=kernels.Fused(fused.cubin, layout(spec)))
    assert cuda.stack == []
    with pytest.raises(BackendError, match="kernel image is invalid"):
        opened(kernel=kernels.Fused(b"no ELF", fused.layout))


def test_features_that_the_kernel_does_not_read_are_refused(made, fused, opened, monkeypatch):
    half = kernels.Fused(fused.cubin, layout(made[1].score, "float16"))
    with pytest.raises(BackendError, match=r"reads student_fine as .* of float16, the plan makes .*float32"):
        opened(kernel=half)


def test_more_images_than_scratch_memory_are_refused(opened):
    with opened(batch=2) as engine:
        kernel = engine._scorer._kernel
        with pytest.raises(BackendError, match="1 to 2 images, got 3"):
            kernel.queue(3, [], None, None)


# ---- engine folders


def engine_folder(made, fused, folder: Path) -> tuple[Path, bundle.EngineManifest]:
    """For the double: plans are graphs, the cubin is the host build."""
    shutil.copytree(made[0], folder)
    for name, data in zip(_trt_build.PLANS, plans(made), strict=True):
        (folder / name).write_bytes(data)
    (folder / CUBIN).write_bytes(fused.cubin)
    manifest = bundle.EngineManifest(
        target="orin-nano", backend="tensorrt", precision="fp32", batch=(1, 1, 4), created="", model=made[1],
        built={"version": "10.3.0", "hardware_compatible": "yes"}, gate={}, calibration="", files=bundle.seal(folder),
    )  # fmt: skip
    return folder, manifest


@pytest.mark.parametrize(("gpu", "stage"), [(ORIN, "score"), (Gpu("RTX", (8, 6)), "head")])
def test_the_kernel_of_this_gpu_scores_and_without_one_the_head_does(
    made, fused, cuda, tmp_path, monkeypatch, gpu, stage
):
    monkeypatch.setattr(_trt_driver, "find", lambda index=0: gpu)
    monkeypatch.setattr(tensorrt, "module", lambda: Tensorrt(cuda))
    with open_engine(*engine_folder(made, fused, tmp_path / "engine"), EngineOptions()) as engine:
        assert list(engine.infer(FRAMES).stages)[2] == stage


def test_a_cubin_is_run_only_if_the_bytes_read_have_the_manifests_hash(made, fused, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(_trt_driver, "find", lambda index=0: ORIN)
    monkeypatch.setattr(tensorrt, "module", lambda: Tensorrt(cuda))
    folder, manifest = engine_folder(made, fused, tmp_path / "engine")
    (folder / CUBIN).write_bytes(fused.cubin + b"\0")
    with pytest.raises(BundleError, match=r"score\.sm_87\.cubin was changed"):
        open_engine(folder, manifest)


def test_build_engine_compiles_tries_and_seals_the_kernel(made, fused, cuda, tmp_path, monkeypatch):
    asked = []

    def compile_text(text: str, arch: str) -> bytes:
        asked.append(arch)
        return fused.cubin

    monkeypatch.setattr(compiler, "find_nvcc", lambda: Compiler("nvcc 12.6.68", compile_text))
    note = kernels.build(tmp_path, made[1].score, ORIN)
    assert note == {"scorer": "fused kernel for sm_87, compiled by nvcc 12.6.68"}
    assert (tmp_path / CUBIN).read_bytes() == fused.cubin
    assert CUBIN in bundle.seal(tmp_path)
    assert (asked, cuda.alive, cuda.stack) == (["sm_87"], 0, [])
    kernels.build(tmp_path, made[1].score, ORIN)
    assert asked == ["sm_87"], "the second build takes the kept cubin"


def refuses(text: str, arch: str) -> bytes:
    raise BackendError("nvcc does not compile the scoring kernel: out of disk")


@pytest.mark.parametrize(
    ("gpu", "found", "reason"),
    [
        (None, None, "no GPU here"),
        (ORIN, None, "neither nvcc nor NVRTC"),
        (ORIN, Compiler("nvcc", refuses), "out of disk"),
        (ORIN, Compiler("nvcc", lambda text, arch: b"PTX of a newer CUDA"), "kernel image is invalid"),
    ],
)
def test_where_no_kernel_can_be_had_the_head_scores_and_the_manifest_says_why(
    made, cuda, tmp_path, monkeypatch, gpu, found, reason
):
    monkeypatch.setattr(compiler, "find_nvcc", lambda: found)
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: None)
    note = kernels.build(tmp_path, made[1].score, gpu)
    assert note["scorer"].startswith("plan.head: ")
    assert reason in note["scorer"]
    assert list(tmp_path.glob("*.cubin")) == []


@pytest.mark.parametrize("nvcc", [refuses, lambda text, arch: b"PTX of a newer CUDA"])
def test_where_nvcc_does_not_fit_the_gpu_nvrtc_is_asked(made, fused, cuda, tmp_path, monkeypatch, nvcc):
    monkeypatch.setattr(compiler, "find_nvcc", lambda: Compiler("nvcc 11.5.119", nvcc))
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: Compiler("NVRTC 13.0", lambda text, arch: fused.cubin))
    note = kernels.build(tmp_path, made[1].score, ORIN)
    assert note == {"scorer": "fused kernel for sm_87, compiled by NVRTC 13.0"}
    assert (tmp_path / CUBIN).read_bytes() == fused.cubin


def test_a_score_the_kernel_cannot_make_is_a_reason_too(made, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "find_nvcc", lambda: Compiler("nvcc", refuses))
    wide = msgspec.structs.replace(made[1].score.levels[1], height=1, width=4000)
    spec = msgspec.structs.replace(made[1].score, levels=(wide,))
    assert "do not fit into" in kernels.build(tmp_path, spec, ORIN)["scorer"]
