"""Calibration: true ranges, with defects, as evidence that belongs to one graph."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import tiny

from mtkd_edge import bundle
from mtkd_edge.errors import BundleError, DataError, UsageError
from mtkd_edge.lab import calibrate
from mtkd_edge.lab.placement import candidates
from mtkd_edge.synthetic import paste_defect

FRAMES = tiny.normal_frames(6, seed=3)
PHOTOS = {f"{i}.png": f"{i:064x}" for i in range(len(FRAMES))}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    tiny.make_bundle(folder)
    return folder / bundle.FEATURES


def tensors(graph: Path, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Every candidate tensor of the graph, computed the plain way."""
    model = onnx.load(graph)
    names = [n for n in candidates(model) if n not in {o.name for o in model.graph.output}]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, tiny.run(model, {"frames": frames}, names), strict=True))


def test_minmax_is_the_range_over_every_frame_and_its_copy_with_a_defect(graph):
    found = calibrate.calibrate(graph, iter(FRAMES), PHOTOS, seed=7)
    rng = np.random.default_rng(7)
    everything = np.concatenate([np.stack([f, paste_defect(f, rng)[0]]) for f in FRAMES])
    for name, values in tensors(graph, everything).items():
        np.testing.assert_allclose(found.ranges[name], (values.min(), values.max()), rtol=1e-5, atol=1e-5)
    assert (found.frames, found.percentile, found.graph) == (12, 100, bundle.sha256(graph))
    assert found.photos == PHOTOS


def test_percentiles_cut_outliers_but_never_exceed_minmax(graph):
    wide = calibrate.calibrate(graph, FRAMES, PHOTOS)
    tight = calibrate.calibrate(graph, FRAMES, PHOTOS, method="percentile", percentile=99)
    assert tight.ranges.keys() == wide.ranges.keys()
    for name, (low, high) in tight.ranges.items():
        assert wide.ranges[name][0] <= low <= high <= wide.ranges[name][1]
    assert sum(tight.ranges[n][1] < wide.ranges[n][1] for n in wide.ranges) > len(wide.ranges) / 2


def test_frames_are_taken_one_at_a_time(graph):
    alive = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal alive
        for frame in FRAMES:
            alive += 1
            yield frame

    seen = []
    calibrate.calibrate(graph, counted(), PHOTOS, progress=lambda *step: seen.append((step[1], alive)))
    assert seen == [(i, i) for i in range(1, len(FRAMES) + 1)]


def test_the_same_photos_and_seed_give_the_same_ranges(graph):
    assert calibrate.calibrate(graph, FRAMES, PHOTOS) == calibrate.calibrate(graph, FRAMES, PHOTOS)


def test_evidence_is_written_and_read_back(graph, tmp_path):
    found = calibrate.calibrate(graph, FRAMES, PHOTOS)
    path = calibrate.save(tmp_path / "calibration", "tiny", found)
    assert calibrate.load(path, graph) == found
    assert path.read_text().startswith('{\n "format": 1')  # text that version control can show


def test_the_list_of_photos_is_what_sha256sum_checks(graph, tmp_path):
    hashes = {}
    for i, frame in enumerate(FRAMES):
        (tmp_path / "good").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "good" / f"part {i}.png"), frame)
        hashes[f"good/part {i}.png"] = bundle.sha256(tmp_path / "good" / f"part {i}.png")
    calibrate.save(tmp_path, "tiny", calibrate.calibrate(graph, FRAMES, hashes))
    command = ["sha256sum", "--strict", "-c", "tiny.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "good" / "part 0.png").write_bytes(b"another photo")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_ranges_of_another_graph_are_refused(graph, tmp_path):
    path = calibrate.save(tmp_path, "tiny", calibrate.calibrate(graph, FRAMES, PHOTOS))
    tiny.make_bundle(tmp_path / "other", seed=5)
    with pytest.raises(UsageError, match="another graph"):
        calibrate.load(path, tmp_path / "other" / bundle.FEATURES)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "more": 2}'])
def test_a_damaged_file_is_a_bundle_error(graph, tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BundleError, match="is not a calibration"):
        calibrate.load(tmp_path / "bad.json", graph)
    with pytest.raises(BundleError, match="No such file"):
        calibrate.load(tmp_path / "none.json", graph)


def test_frames_and_photos_must_be_the_same_ones(graph):
    with pytest.raises(DataError, match="5 frames for 6 photos"):
        calibrate.calibrate(graph, FRAMES[:5], PHOTOS)
    with pytest.raises(DataError, match="0 frames for 0 photos"):
        calibrate.calibrate(graph, [], {})


def test_a_percentile_that_would_cut_half_the_network_is_refused(graph):
    with pytest.raises(UsageError, match="between 90 and 100, got 50"):
        calibrate.calibrate(graph, FRAMES, PHOTOS, method="percentile", percentile=50)


def test_a_network_that_makes_nan_cannot_be_calibrated(graph, tmp_path):
    model = onnx.load(graph)
    bias = next(i for i in model.graph.initializer if i.dims == [8])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(8, np.nan, "f4"), bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(DataError, match="not finite"):
        calibrate.calibrate(tmp_path / "nan.onnx", FRAMES, PHOTOS)


def test_evidence_of_a_later_format_is_refused(graph, tmp_path):
    found = msgspec.structs.replace(calibrate.calibrate(graph, FRAMES[:1], {"0.png": "0"}), format=2)
    path = calibrate.save(tmp_path, "later", found)
    with pytest.raises(BundleError, match="format 2"):
        calibrate.load(path, graph)
