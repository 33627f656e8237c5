"""Files that were made to hurt: each is a frame of a sound size or invalid with a reason; none passes in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzz
import line
import msgspec
import numpy as np
import pytest
import tiny
from test_photo_header import encoded, sized
from test_station import events, station

from mtkd_edge import bundle, files, frames, listing, npz, onnx_data
from mtkd_edge.cli.explain import show
from mtkd_edge.device.sinks import CsvTable, JsonLines
from mtkd_edge.device.sources import open_source
from mtkd_edge.errors import BundleError, DataError
from mtkd_edge.progress import silent
from mtkd_edge.verdict import State


def nasty(folder: Path) -> dict[str, str]:
    """A folder of good photos and of everything else a folder can hold -> what is said of each."""
    for number in range(3):
        line.write_photo(folder / f"{number}-good.png", line.part(20 + number))
    outside = line.write_photo(folder.parent / "outside" / "secret.png", line.part())
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "leaves.png").symlink_to(outside)
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "linked").symlink_to(folder.parent / "outside")
    (folder / "empty.png").touch()
    (folder / "cut.jpg").write_bytes(encoded(".jpg")[:300])
    (folder / "bomb.png").write_bytes(sized(".png", 60000, 60000))
    (folder / "line\nbreak.png").write_bytes(encoded(".png"))
    (folder / "\x1b[2Jclear.png").write_bytes(encoded(".png"))
    Path(os.fsdecode(os.fsencode(folder) + b"/no-\xfftext.png")).write_bytes(encoded(".png"))
    return {
        "pipe.png": "is a pipe",
        "loop.png": "Too many levels of symbolic links",
        "gone.png": "No such file",
        "leaves.png": "is a link that leaves",
        "device.png": "is a device",
        "empty.png": "empty (0 bytes)",
        "cut.jpg": "damaged",
        "bomb.png": "60,000 x 60,000 pixels",
        "line\\nbreak.png": "control characters",
        "\\x1b[2Jclear.png": "control characters",
        "no-\\udcfftext.png": "none that is text",
    }


def test_a_watch_gives_each_of_them_one_verdict_with_its_reason(tmp_path: Path) -> None:
    says = nasty(tmp_path / "in")
    sinks = [JsonLines(tmp_path / "out.jsonl"), CsvTable(tmp_path / "out.csv")]
    began = time.monotonic()
    verdicts, summary = line.run([open_source(str(tmp_path / "in"))], sinks=sinks)
    assert time.monotonic() - began < 60
    found = {Path(verdict.path).name: verdict for verdict in verdicts}
    assert set(found) == {*says, *(f"{number}-good.png" for number in range(3))}
    for name, verdict in found.items():
        wanted = State.INVALID if name in says else State.NORMAL
        assert (verdict.state, says.get(name, "") in verdict.reason) == (wanted, True), verdict
    (source,) = summary.sources
    assert (source.captured, source.scored, source.invalid, source.replaced) == (14, 3, 11, {})
    assert not any(sink.lost for sink in summary.sinks)
    assert len([json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]) == 14
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 15


def test_a_station_keeps_what_it_says_of_each_and_knows_them_again(tmp_path: Path) -> None:
    says = nasty(tmp_path / "in")
    for resumed in (False, True):
        source = open_source(str(tmp_path / "in"))
        running = station(tmp_path, [source])  # type: ignore[list-item]
        verdicts, summary = line.run([source], sinks=[running.sink], done=running.done)  # type: ignore[arg-type]
        assert len(verdicts) == (0 if resumed else 14)
        assert not any(sink.lost for sink in summary.sinks)
        assert {Path(event.path).name for event in events(tmp_path)} == set(says)


def test_training_leaves_the_same_ones_out(tmp_path: Path) -> None:
    says = nasty(tmp_path / "in")
    names, problems = listing.photos_under(tmp_path / "in", "")
    facts, more = listing.inspect(tmp_path / "in", names, silent)
    assert [fact.path for fact in facts] == ["0-good.png", "1-good.png", "2-good.png"]
    assert {problem.path for problem in (*problems, *more)} >= set(says)
    assert msgspec.json.encode([*problems, *more])


def test_a_glob_and_a_single_file_follow_only_what_was_named(tmp_path: Path) -> None:
    outside = line.write_photo(tmp_path / "outside" / "a.png", line.part())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").symlink_to(outside)
    (globbed,) = open_source(str(tmp_path / "in" / "*.png")).frames()
    (named,) = open_source(str(tmp_path / "in" / "b.png")).frames()
    assert "leaves" in globbed.problem and named.photo is not None
    (tmp_path / "alias").symlink_to(tmp_path / "outside")
    (through,) = open_source(str(tmp_path / "alias")).frames()
    assert through.photo is not None, "the folder itself may be behind a link"


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written over"])
def test_a_file_that_changes_while_it_is_read_is_not_believed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png") * 50)
    whole: Callable[[object, int], bytes] = files._all  # type: ignore[assignment]

    def slow(file: object, size: int) -> bytes:
        data = path.read_bytes()
        changed = {"grows": data + b"x", "shrinks": data[:100], "is written over": data[::-1]}[change]
        path.write_bytes(changed)
        os.utime(path, (1, 1))
        return whole(file, size)

    monkeypatch.setattr(files, "_all", slow)
    with pytest.raises(DataError, match="changed while it was read"):
        files.read(path, 1 << 20)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(frames.MAX_BYTES + 1)
    with pytest.raises(DataError, match="bytes, more than"):
        frames.read(tmp_path / "huge.png")


def test_mutated_photos_never_crash_hang_or_pass_in_silence(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    found = fuzz.photos(tmp_path / "photos", 300, seed=1)
    assert found.faults == [] and not found.replaced
    assert found.frames + found.invalid == 300
    assert found.frames > 30 and found.invalid > 100 and len(found.reasons) > 5


def test_mutated_videos_never_crash_hang_or_pass_in_silence() -> None:
    """In a process without threads: the script forks for each video."""
    words = [sys.executable, str(Path(fuzz.__file__)), "--photos", "0", "--videos", "15"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 videos: " in done.stdout and " 0 faults" in done.stdout


@pytest.mark.parametrize("names", [["../a.npy"], ["/a.npy"], ["b/a.npy"], ["a.npy", "a.npy"], ["a.txt"], ["..\\a.npy"]])
def test_arrays_with_a_path_for_a_name_are_refused(names: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.NameToInfo.clear()  # else it warns of two of one name
            archive.writestr(info, (tmp_path / "one.npy").read_bytes())
    with pytest.raises(DataError, match=r"a path|one name"):
        npz.read(tmp_path / "a.npz")


def test_an_array_with_any_bit_turned_over_is_read_or_refused_by_name(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(400) % 7)
    data, spoilt = (tmp_path / "a.npz").read_bytes(), tmp_path / "b.npz"
    for bit in range(0, 8 * len(data), 3):
        turned = bytearray(data)
        turned[bit // 8] ^= 1 << bit % 8
        spoilt.write_bytes(turned)
        try:
            assert len(npz.read(spoilt)) <= 1
        except DataError as error:
            assert str(spoilt) in error.message


def test_arrays_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20), b=np.arange(4))
    assert npz.read(tmp_path / "a.npz")["b"].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="more than 1,000,000"):
        npz.read(tmp_path / "a.npz", 1_000_000)
    np.savez(tmp_path / "p.npz", a=np.array([{}], object))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    for name in ("p.npz", "torn.npz", "none.npz"):
        with pytest.raises(DataError, match="cannot be read"):
            npz.read(tmp_path / name)


def test_a_graph_that_keeps_weights_elsewhere_is_refused_before_a_runtime_sees_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="no onnx: pip install 'mtkd-edge[train]'")
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.arange(4, dtype=np.float32))
    inner = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0]))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([inner, helper.make_node("Add", ["w", "c"], ["y"])], "g", [], [out], [weight])
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "sound.onnx")
    onnx_data.demand(tmp_path / "sound.onnx")
    for tensor in (model.graph.initializer[0], model.graph.node[0].attribute[0].t):
        broken = onnx.ModelProto()
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
        broken.CopyFrom(model)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        (tmp_path / "bad.onnx").write_bytes(broken.SerializeToString())
        with pytest.raises(BundleError, match="keeps weights in another file"):
            onnx_data.demand(tmp_path / "bad.onnx")
    for junk in (b"", b"\xff" * 40, b"\x3a\x7f", bytes([0x3A, 40]) * 30):
        (tmp_path / "junk.onnx").write_bytes(junk)
        with pytest.raises(BundleError, match="is no ONNX graph"):
            onnx_data.demand(tmp_path / "junk.onnx")


def test_explain_reads_no_weights_from_elsewhere_either(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="no onnx: pip install 'mtkd-edge[train]'")
    folder = tmp_path / "run" / "bundle"
    manifest, limit = tiny.make_bundle(folder), bundle.load_threshold(folder)
    model = onnx.load(folder / bundle.FEATURES)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (folder / bundle.FEATURES).write_bytes(model.SerializeToString())
    bundle.save(folder, msgspec.structs.replace(manifest, files=bundle.seal(folder)), limit)
    with pytest.raises(BundleError, match="keeps weights in another file"):
        show(tmp_path / "run", "fp32", as_json=False)
