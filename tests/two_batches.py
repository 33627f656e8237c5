"""What the tests of two batches under way and of CUDA graphs share: an engine on the double of CUDA, and its frames."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny
from trt_double import Bindings, Cuda, Tensorrt

from mtkd_edge import bundle
from mtkd_edge.device.engine import Bounds
from mtkd_edge.device.engines import _cuda, _cuda_graph
from mtkd_edge.device.engines._trt_run import Fusion, TensorrtEngine
from mtkd_edge.device.kernel import build as kernels
from mtkd_edge.device.kernel import host
from mtkd_edge.device.kernel.layout import layout

if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

GOOD = tiny.normal_frames(6, seed=9)
FRAMES = np.stack([GOOD, tiny.with_defects(GOOD, seed=10)], 1)
"""[6 batches, 2, ...]: a good part and the same with a defect."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Plans and kernel, what the engine makes of FRAMES one batch at a time, and bounds between good and bad."""
    folder = tmp_path_factory.mktemp("bundle")
    manifest = tiny.make_bundle(folder)
    found = layout(manifest.score)
    fusion = Fusion(kernels.Fused(host.build(found, folder).read_bytes(), found), tuple(manifest.feature_names()))
    plans = [(folder / name).read_bytes() for name in (bundle.FEATURES, bundle.HEAD)]
    with pytest.MonkeyPatch.context() as patch, start(patch, Cuda(), (fusion, plans)) as engine:
        wanted = [engine.infer(batch) for batch in FRAMES]
    scores = np.stack([one.scores for one in wanted])
    peaks = np.stack([one.maps.max((1, 2)) for one in wanted])
    middle = Bounds(*(float(v[:, 0].max() + v[:, 1].min()) / 2 for v in (scores, peaks)))
    assert scores[:, 0].max() < middle.score < scores[:, 1].min(), "the parts tell good from bad"
    return fusion, plans, wanted, middle


def start(patch, cuda: Cuda, made, *, trt: Tensorrt | None = None, bindings=None, fused=True, graph=False):
    patch.setattr(_cuda, "import_driver", lambda: cuda)
    if bindings is not None:
        patch.setattr(_cuda_graph, "import_bindings", lambda: bindings)
    options = {"batch": 4, "fusion": made[0] if fused else None, "cuda_graph": graph}
    return TensorrtEngine(trt or Tensorrt(cuda), _cuda.Device(), made[1], **options)


@pytest.fixture
def cuda() -> Cuda:
    return Cuda(late=True)


@pytest.fixture
def bindings(cuda: Cuda) -> Bindings:
    return Bindings(cuda)


def overlapped(engine: TensorrtEngine, batches, bounds: Bounds | None = None) -> list:
    """Each batch is given before the one in front of it is asked for; the caller's frames are used again at once."""
    found, before = [], None
    for batch in batches:
        mine = batch.copy()
        ticket = engine.submit(mine, bounds)
        mine[...] = 7
        if before is not None:
            found.append(engine.collect(before))
        before = ticket
    return [*found, engine.collect(before)]


def assert_same_bits(found, wanted) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.maps.tobytes() == theirs.maps.tobytes()
        assert ours.scores.tobytes() == theirs.scores.tobytes()
