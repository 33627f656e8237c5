"""A bundle is whole, unchanged and of this version, or it is not loaded."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mtkd_edge import bundle
from mtkd_edge.bundle import EngineManifest, Manifest, TeacherInfo
from mtkd_edge.errors import BundleError
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import Level, ScoreSpec
from mtkd_edge.threshold import Threshold

THRESHOLD = Threshold(1.5, 2.5, "conformal", 0.01, 120)
LEVELS = (Level("fine", "squared", 8, 16, 16, 0.5), Level("coarse", "cosine", 8, 8, 8, 0.5))

BITS = (0x01, 0x80)
"""The lowest bit makes another sign, the highest a string that is no UTF-8."""


def manifest(folder: Path) -> Manifest:
    return Manifest(
        name="bottle",
        method="map",
        created="2026-01-02T03:04:05Z",
        version="0.1.0",
        seed=0,
        frame=FrameSpec(64, 96),
        score=ScoreSpec(LEVELS, 16, 24, 1.0, 0.01),
        teachers=(TeacherInfo("resnet18", "timm", "0" * 64, ("layer2",), (0.7,), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),),
        student="small",
        photos=209,
        held_out=33,
        files=bundle.seal(folder),
    )


@pytest.fixture(params=["bundle", "engine"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], Manifest | EngineManifest]]:
    """A saved bundle or engine folder (the files hold a few bytes: what is in the graphs is not known here)."""
    for name in (bundle.FEATURES, bundle.HEAD, bundle.GOLDEN):
        (tmp_path / name).write_bytes(name.encode() * 50)
    made: Manifest | EngineManifest = manifest(tmp_path)
    load: Callable[[Path], Manifest | EngineManifest] = bundle.load_bundle
    if request.param == "engine":
        (tmp_path / "plan.bin").write_bytes(b"plan" * 30)
        made = EngineManifest(
            target="cpu",
            backend="openvino",
            precision="int8",
            batch=(1, 1, 8),
            created="2026-01-02T03:04:05Z",
            model=manifest(tmp_path),
            built={"openvino": "2026.4"},
            gate={"rank": 0.999},
            calibration="a" * 64,
            files=bundle.seal(tmp_path),
        )
        load = bundle.load_engine
    bundle.save(tmp_path, made, THRESHOLD)
    assert load(tmp_path) == made
    return tmp_path, load


def manifest_path(folder: Path) -> Path:
    return next(folder / name for name in (bundle.BUNDLE, bundle.ENGINE) if (folder / name).exists())


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = manifest_path(folder)
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_what_was_saved_comes_back(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    assert bundle.load_threshold(folder) == THRESHOLD
    assert set(load(folder).files) >= {bundle.FEATURES, bundle.HEAD, bundle.GOLDEN}
    assert not {bundle.THRESHOLD, bundle.BUNDLE, bundle.ENGINE} & set(load(folder).files)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")], "nothing temporary is left"


def test_one_flipped_bit_in_any_file_is_found_and_named(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    names = list(load(folder).files)
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for place, bit in itertools.product((0, len(whole) // 2, len(whole) - 1), BITS):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(BundleError, match=f"{name} was changed"):
                load(folder)
        path.write_bytes(whole[:-1])
        with pytest.raises(BundleError, match=f"{name} was changed"):
            load(folder)
        path.write_bytes(whole)
    load(folder)


def test_a_flipped_bit_anywhere_in_an_engine_folder_is_found_and_named(saved: tuple[Path, Callable]) -> None:
    """Every file, the manifest and its list included, and every byte of those two."""
    folder, load = saved
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        every = range(len(whole)) if path.suffix in (".json", ".sha256") else (0, len(whole) // 2, len(whole) - 1)
        for place, bit in itertools.product(every, BITS):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(BundleError) as caught:
                load(folder)
                bundle.load_threshold(folder)
            assert path.name in caught.value.message, (place, bit)
        path.write_bytes(whole)
    load(folder)


def test_the_sums_are_what_sha256sum_checks(saved: tuple[Path, Callable]) -> None:
    folder, _ = saved
    sums = next(folder.glob("*.sha256"))
    command = ["sha256sum", "--strict", "-c", sums.name]
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
    manifest_path(folder).write_text("{}")
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 1


def test_an_engine_without_its_sums_is_incomplete_an_old_bundle_is_not(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    next(folder.glob("*.sha256")).unlink()
    if (folder / bundle.BUNDLE).exists():
        load(folder)
        return
    with pytest.raises(BundleError, match=r"engine\.sha256 cannot be read"):
        load(folder)


def test_a_missing_file_is_named(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    for name in load(folder).files:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(BundleError, match=f"{name} cannot be read: No such file"):
            load(folder)
        (folder / name).write_bytes(kept)


def test_a_changed_threshold_does_not_touch_the_manifest_but_must_bear_its_seal(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    path = folder / bundle.THRESHOLD
    path.write_bytes(path.read_bytes().replace(b"1.5", b"9.5"))
    load(folder)
    with pytest.raises(BundleError, match="changed by hand"):
        bundle.load_threshold(folder)
    path.unlink()
    with pytest.raises(BundleError, match=r"threshold\.json cannot be read"):
        bundle.load_threshold(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda body: body.update(colour="red"), "unknown field `colour`"),
        (lambda body: body.update(format=1), "has format 1, this version reads format 2"),
        (lambda body: body.pop("format"), "has format None"),
        (lambda body: body.update(created=5), "Expected `str`, got `int`"),
        (lambda body: body.pop("created"), "missing required field `created`"),
        (lambda body: body["files"].pop(bundle.HEAD), r"lists no head\.onnx"),
        (lambda body: body["files"].update({"../../etc/passwd": "0" * 64}), "which leaves the folder"),
        (lambda body: body["files"].update({"/etc/passwd": "0" * 64}), "which leaves the folder"),
        (lambda body: body["files"].update({"..": "0" * 64}), "which leaves the folder"),
        (lambda body: body["files"].update({"sub\\..\\x": "0" * 64}), "cannot be read"),
        (lambda body: body["files"].update({"": "0" * 64}), "which leaves the folder"),
        (lambda body: body["files"].update({bundle.HEAD: "0" * 64}), r"head\.onnx was changed"),
    ],
)
def test_a_manifest_that_is_not_exactly_right_is_refused(
    saved: tuple[Path, Callable], change: Callable[[dict], object], complaint: str
) -> None:
    folder, load = saved
    edit(folder, change)
    with pytest.raises(BundleError, match=complaint) as caught:
        load(folder)
    assert caught.value.hint


def model(body: dict) -> dict:
    return body.get("model", body)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: model(body)["frame"].update(height=50),
        lambda body: model(body)["frame"].update(white=1000),
        lambda body: model(body)["score"].update(pool=0),
        lambda body: model(body)["score"].update(levels=[]),
        lambda body: model(body)["score"]["levels"][0].update(scale=[-1.0]),
    ],
)
def test_numbers_that_make_no_sense_are_a_damaged_manifest(
    saved: tuple[Path, Callable], change: Callable[[dict], object]
) -> None:
    folder, load = saved
    edit(folder, change)
    with pytest.raises(BundleError, match="is damaged"):
        load(folder)


DEEP = b'{"format": ' + b"[" * 100_000
"""More brackets in brackets than any decoder follows."""


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xff", b'"bundle"', pytest.param(DEEP, id="deep")])
def test_a_manifest_that_is_no_json_object_is_damaged(saved: tuple[Path, Callable], text: bytes) -> None:
    folder, load = saved
    manifest_path(folder).write_bytes(text)
    with pytest.raises(BundleError, match="is damaged"):
        load(folder)


def test_a_link_counts_by_the_bytes_behind_it(saved: tuple[Path, Callable]) -> None:
    folder, load = saved
    name = bundle.GOLDEN
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(elsewhere)
    load(folder)
    elsewhere.write_bytes(b"other")
    with pytest.raises(BundleError, match="was changed"):
        load(folder)


def test_an_unfinished_folder_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read") as caught:
        bundle.load_bundle(tmp_path)
    assert caught.value.hint == "mtkd-edge train"
    with pytest.raises(BundleError, match=r"engine\.json cannot be read") as caught:
        bundle.load_engine(tmp_path)
    assert caught.value.hint == "mtkd-edge build-engine --int8"


def test_the_graphs_inputs_and_outputs_are_named_students_first(tmp_path: Path) -> None:
    names = ["student_fine", "student_coarse", "reference_fine", "reference_coarse"]
    assert manifest(tmp_path).feature_names() == names


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    bundle.write_file(path, b"old")
    bundle.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(BundleError, match="cannot be written"):
        bundle.write_file(tmp_path / "nowhere" / "a.json", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="cannot be written"):
        bundle.write_file(tmp_path / "folder", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"], "no temporary file stays behind"


def test_the_manifest_is_readable_json_with_sorted_seals(tmp_path: Path) -> None:
    for name in (bundle.FEATURES, bundle.HEAD, bundle.GOLDEN):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert list(bundle.seal(tmp_path)) == [bundle.FEATURES, bundle.GOLDEN, bundle.HEAD]
    bundle.save(tmp_path, manifest(tmp_path), THRESHOLD)
    text = (tmp_path / bundle.BUNDLE).read_bytes()
    assert text.count(b"\n") > 20
    assert msgspec.json.decode(text)["name"] == "bottle"


def test_what_cannot_be_written_is_told_and_not_what_cleaning_up_met(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "a.json", tmp_path / ("n" * 300)):
        with pytest.raises(BundleError, match="cannot be written"):
            bundle.write_file(path, b"x")
    with pytest.raises(BundleError, match="file cannot be made: a file is in its place"):
        bundle.make_folder(tmp_path / "file")
    with pytest.raises(BundleError, match="cannot be made: Not a directory"):
        bundle.make_folder(tmp_path / "file" / "below")
