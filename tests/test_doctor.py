"""doctor: every finding says what it found, and every finding that is not ok says what to do."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mtkd_edge.device import doctor, doctor_machine, doctor_nvidia, doctor_python
from mtkd_edge.device.doctor_report import Finding


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    """The real examination of the machine the tests run on."""
    return doctor.examine()


def test_the_base_install_is_healthy_where_the_tests_run(report: doctor.Report) -> None:
    assert report.ok, [finding for finding in report.findings if finding.status == "fail"]


def test_every_finding_says_something_and_every_trouble_has_a_fix(report: doctor.Report) -> None:
    for finding in report.findings:
        assert finding.found
        assert bool(finding.fix) == (finding.status != "ok"), finding


def test_all_parts_of_the_machine_are_looked_at(report: doctor.Report) -> None:
    groups = {finding.group for finding in report.findings}
    assert groups == {"python", "packages", "openvino", "nvidia", "cameras", "disk", "weights"}
    extras = {finding.name for finding in report.findings if finding.group == "packages"}
    runtimes, station = {"tensorrt", "rtx", "rtx-builder", "graph"}, {"mqtt", "serve", "opcua", "gpio"}
    assert extras == {"base", "train", "dev"} | runtimes | station


def test_one_failure_makes_the_report_fail() -> None:
    bad = Finding("disk", "here", "fail", "0.0 GB free", "free some space")
    assert not doctor.examine((lambda: [bad],)).ok
    assert doctor.examine((lambda: [Finding("nvidia", "driver", "warn", "none", "install it")],)).ok


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("2.10.0+cu126", ">=2.9", True),
        ("2.9", ">=2.10", False),
        ("11.4.0.106", "<12,>=10.3", True),
        ("12.0", ">=10.3,<12", False),
        ("10.3", ">=10.3", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_number_by_number(version: str, specifier: str, fits: bool) -> None:
    assert doctor_python.satisfies(version, specifier) is fits


def test_a_missing_package_of_the_base_fails_and_of_an_extra_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1.26", 'absent-thing>=2; extra == "train"', 'tomli>=2.0; python_version < "3.0"', "ghost-base"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    base, train = doctor_python.packages()
    assert (base.name, base.status, base.found) == ("base", "fail", "ghost-base missing")
    assert (train.name, train.status, train.fix) == ("train", "warn", "pip install 'mtkd-edge[train]'")


def test_a_package_that_is_too_old_is_named_with_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=999"])
    (base,) = doctor_python.packages()
    assert base.status == "fail"
    assert base.found == f"numpy {metadata.version('numpy')} (wanted >=999)"


def test_a_runtime_that_crashes_while_it_loads_is_a_finding() -> None:
    works, said = doctor_python.probe("import os; os.abort()")
    assert not works
    assert "-6" in said
    works, said = doctor_python.probe("import surely_not_there")
    assert (works, said) == (False, "ModuleNotFoundError: No module named 'surely_not_there'")


def test_a_runtime_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_python, "PROBE_S", 0.2)
    assert doctor_python.probe("import time; time.sleep(30)") == (False, "did not load within 0.2 s")


def test_an_openvino_that_does_not_load_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor_python.openvino()
    assert finding.status == "fail"
    assert "libtbb.so.12" in finding.found


def test_tensorrt_that_fails_to_load_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvdla_compiler.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {finding.name: finding for finding in doctor_nvidia.tensorrt()}
    assert "libnvdla_compiler.so" in found["tensorrt"].found
    assert found["tensorrt"].status == "warn"


def test_a_camera_is_named_and_a_closed_one_says_which_group_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, classes = tmp_path / "dev", tmp_path / "class"
    devices.mkdir()
    for number, name in ((0, "HD Webcam"), (1, "Capture Card")):
        (devices / f"video{number}").touch()
        (classes / f"video{number}").mkdir(parents=True)
        (classes / f"video{number}" / "name").write_text(f"{name}\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "video0")
    first, second = doctor_machine.cameras(devices, classes)
    assert (first.status, first.found) == ("ok", "HD Webcam")
    assert second.status == "warn"
    assert "usermod -aG video" in second.fix


def test_no_camera_is_a_warning(tmp_path: Path) -> None:
    (finding,) = doctor_machine.cameras(tmp_path, tmp_path)
    assert finding.status == "warn"


@pytest.mark.parametrize(
    ("present", "status", "words"),
    [
        ((), "warn", "cannot be read"),
        (("videotestsrc",), "warn", "cannot be read"),
        (("pnmenc",), "ok", "without Aravis"),
        (("pnmenc", "aravissrc"), "ok", "with Aravis"),
    ],
)
def test_gstreamer_is_there_with_what_its_sources_need(
    present: tuple[str, ...], status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if present:
        for name, text in (
            ("gst-launch-1.0", "exit 0"),
            ("gst-inspect-1.0", f"case ' {' '.join(present)} ' in *\" $1 \"*) exit 0;; esac; exit 1"),
        ):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = doctor_machine.gstreamer()
    assert (finding.status, words in finding.found) == (status, True)
    assert bool(finding.fix) == (status == "warn")


@pytest.mark.parametrize(("free", "status"), [(50e9, "ok"), (1e9, "warn"), (1e6, "fail")])
def test_a_full_disk_is_a_failure(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert doctor_machine.disk()[0].status == status


def test_weights_that_were_fetched_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--timm--resnet18" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc").write_bytes(bytes(3_000_000))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    hub, torch = doctor_machine.models()
    assert (hub.status, hub.found) == ("ok", f"1 in {tmp_path / 'hub'}, 3 MB")
    assert torch.status == "warn"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "Jetson Linux 36.4.3"),
        ("# something else", "# something else"),
    ],
)
def test_a_jetson_tells_its_release(text: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release").write_text(text)
    monkeypatch.setattr(doctor_nvidia._trt_driver, "JETPACK", tmp_path / "release")
    assert doctor_nvidia.jetson()[0].found == found


def test_a_jetson_is_not_told_to_install_another_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_nvidia, "probe", lambda code: (False, f"No module named '{code.split()[1][:-1]}'"))
    assert [one.fix for one in doctor_nvidia.tensorrt()] == [
        "pip install 'mtkd-edge[tensorrt]'", "pip install 'mtkd-edge[rtx]'"
    ]  # fmt: skip
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3")
    monkeypatch.setattr(doctor_nvidia._trt_driver, "JETPACK", tmp_path / "release")
    jetpack, rtx = doctor_nvidia.tensorrt()
    assert "--system-site-packages" in jetpack.fix and "pip" not in jetpack.fix
    assert rtx.fix == "pip install 'mtkd-edge[rtx]'"


def test_the_doctor_imports_no_vendor_runtime(report: doctor.Report) -> None:
    """Asked in a fresh interpreter, since other tests load the runtimes here."""
    works, said = doctor_python.probe(
        "import sys; from mtkd_edge.device import doctor; doctor.examine();"
        "print(sorted(m for m in ('openvino', 'tensorrt', 'tensorrt_rtx', 'pycuda', 'torch') if m in sys.modules))"
    )
    assert (works, said) == (True, "[]"), sys.version
