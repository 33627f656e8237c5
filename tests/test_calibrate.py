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
from mtkd_edge.frames import FrameSpec, to_frame
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


def test_minmax_is_the_range_over_every_frame_and_its_changed_copy(graph):
    found = calibrate.calibrate(graph, iter(FRAMES), PHOTOS, seed=7)
    everything = np.concatenate(list(calibrate.with_defects(FRAMES, 7)))
    for name, values in tensors(graph, everything).items():
        np.testing.assert_allclose(found.ranges[name], (values.min(), values.max()), rtol=1e-5, atol=1e-5)
    assert (found.frames, found.method, found.graph) == (12, "minmax", bundle.sha256(graph))
    assert (found.photos, found.compared) == (PHOTOS, {})


def test_copies_have_a_defect_and_every_second_one_another_light():
    rng = np.random.default_rng(7)
    for number, (frame, batch) in enumerate(zip(FRAMES, calibrate.with_defects(FRAMES, 7), strict=True)):
        np.testing.assert_array_equal(batch[0], frame)
        changed = paste_defect(frame, rng)[0]
        if number % 2:
            lit = calibrate.relit(changed, rng)
            np.testing.assert_array_equal(batch[1], lit)
            assert (lit != frame).mean() > 0.5, "the light falls on the whole frame"
        else:
            np.testing.assert_array_equal(batch[1], changed)


def test_no_light_falls_on_margins_and_none_makes_a_photo_a_margin():
    spec, rng = FrameSpec(96, 96, "letterbox"), np.random.default_rng(0)
    photo = rng.integers(0, 40, (40, 96, 3), np.uint8)  # dark
    frame = to_frame(photo, spec)
    for _ in range(30):
        lit = calibrate.relit(frame, rng)
        np.testing.assert_array_equal(lit.any(2), frame.any(2))
        assert (lit != frame).any()


def test_light_widens_the_ranges(graph, monkeypatch):
    monkeypatch.setattr(calibrate, "GAIN", 0.9)
    wide = calibrate.calibrate(graph, FRAMES, PHOTOS).ranges
    # the same defects, and the same numbers drawn for the light
    monkeypatch.setattr(calibrate, "relit", lambda frame, rng: (rng.uniform(size=2), frame)[1])
    plain = calibrate.calibrate(graph, FRAMES, PHOTOS).ranges
    wider = [name for name in plain if wide[name][1] > plain[name][1]]
    narrower = [name for name in plain if wide[name][1] < plain[name][1]]
    assert len(wider) > 2 * len(narrower)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_reach_less_far_and_never_further(graph, method):
    wide = calibrate.calibrate(graph, FRAMES, PHOTOS)
    tight = calibrate.calibrate(graph, FRAMES, PHOTOS, method=method)
    assert (tight.method, tight.ranges.keys()) == (method, wide.ranges.keys())
    for name, (low, high) in tight.ranges.items():
        assert wide.ranges[name][0] <= low <= high <= wide.ranges[name][1]
    assert sum(tight.ranges[n][1] < wide.ranges[n][1] for n in wide.ranges) > len(wide.ranges) / 2


def test_a_method_that_clips_has_to_earn_it():
    assert calibrate.best_of({"minmax": 0.3, "percentile": 0.2, "entropy": 0.16}) == "minmax"
    assert calibrate.best_of({"minmax": 0.3, "percentile": 0.2, "entropy": 0.15}) == "entropy"
    assert calibrate.best_of({"minmax": 0.3, "percentile": 0.1, "entropy": 0.12}) == "percentile"


def test_the_method_with_the_least_error_is_kept_with_the_errors_of_all(graph):
    seen = {}

    def judge(found):
        seen.update(found)
        return {"minmax": 0.3, "percentile": 0.1, "entropy": 0.4}

    found = calibrate.calibrate(graph, FRAMES, PHOTOS, judge=judge)
    assert found.method == "percentile"
    assert found.compared == {"minmax": 0.3, "percentile": 0.1, "entropy": 0.4}
    assert found.ranges == seen["percentile"] != seen["minmax"]
    assert found.corrections == calibrate.calibrate(graph, FRAMES, PHOTOS, method="percentile").corrections


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
