"""One flipped bit in a file of ours is the error that its reader promises, with the file's name.

Bit 7 is one of its own: it makes a string that is no UTF-8, for which msgspec raises none of its own errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from mtkd_edge import dataset, threshold
from mtkd_edge.cli.train import started
from mtkd_edge.dataset import Dataset, Photo
from mtkd_edge.device import targets
from mtkd_edge.device.station import config as station
from mtkd_edge.errors import BundleError, DataError, MtkdError, UsageError
from mtkd_edge.lab import calibrate, checkpoint
from mtkd_edge.lab.benchmark.job import Job
from mtkd_edge.lab.benchmark.outcome import Maker, Outcome
from mtkd_edge.lab.benchmark.run import Claim, claim, load
from mtkd_edge.lab.benchmark.settings import complete, variants
from mtkd_edge.lab.calibrate import Calibration
from mtkd_edge.lab.config import TrainConfig
from mtkd_edge.lab.train import train
from mtkd_edge.progress import silent
from mtkd_edge.threshold import Threshold

MAKER = Maker("0.1.0", "2.9", "a CPU")
LISTING = Dataset("photos", "folder", (Photo("0.png", "0" * 8, "train", 64, 96),), (), (), 255)
RUN = TrainConfig(data="photos", out="run", preset="offline")
RANGES = Calibration(
    graph="a" * 8, method="minmax", seed=0, frames=2, versions={"onnx": "1"}, ranges={"x": (0, 1)}, photos={"0.png": ""}
)
SAVED = checkpoint.Saved(1, "a" * 8, [{"loss": 0.5}])
CLAIM = Claim(complete("mvtec", "photos", {"method": "map"}), MAKER)
CELL = Outcome(
    variant="all", category="disc", seed=0, image_auroc=0.5, importance={"a": (1.0,)}, photos={"train": 1}, scores=(),
    seconds=1.0, made_by=MAKER,
)  # fmt: skip

JOB = Job(
    CLAIM.settings, variants(CLAIM.settings, None)[0], "disc", 0, Path("unfinished"), "", torch.device("cpu"), silent
)


def restore(path: Path) -> None:
    net = torch.nn.Linear(1, 1)
    checkpoint.restore(path.parent, net, torch.optim.AdamW(net.parameters()))


def resume(path: Path) -> None:
    train(msgspec.structs.replace(RUN, out=str(path.parent), resume=True))


@pytest.mark.parametrize(
    ("name", "whole", "read", "wanted"),
    [
        pytest.param(
            "threshold.json",
            threshold.encode(Threshold(1.5, 2.5, "conformal", 0.01, 120, engine="cpu")),
            lambda path: threshold.decode(path.read_bytes(), str(path)),
            BundleError,
            id="threshold",
        ),
        pytest.param(
            "data.json",
            dataset.encode(LISTING),
            lambda path: dataset.decode(path.read_bytes(), str(path)),
            DataError,
            id="listing",
        ),
        pytest.param(
            "tiny.json",
            msgspec.json.encode(RANGES),
            lambda path: calibrate.load(path, path),
            BundleError,
            id="calibration",
        ),
        pytest.param("progress.json", msgspec.json.encode(SAVED), restore, BundleError, id="checkpoint"),
        pytest.param("config.json", msgspec.json.encode(RUN), resume, BundleError, id="run"),
        pytest.param(
            "config.json", msgspec.json.encode(RUN), lambda path: started(path.parent), UsageError, id="run-by-command"
        ),
        pytest.param(
            "settings.json",
            msgspec.json.encode(CLAIM),
            lambda path: claim(path.parent, CLAIM),
            BundleError,
            id="benchmark",
        ),
        pytest.param(
            "disc-0.json", msgspec.json.encode(CELL), lambda path: load(path, JOB, MAKER), BundleError, id="cell"
        ),
        pytest.param("cpu.toml", b'backend = "openvino"\n', targets.read, UsageError, id="target"),
        pytest.param("station.toml", b'station = "line 3"\n', station.read, UsageError, id="station"),
    ],
)
def test_a_high_bit_flipped_anywhere_is_the_error_that_is_promised(
    name: str, whole: bytes, read: Callable[[Path], object], wanted: type[MtkdError], tmp_path: Path
) -> None:
    path = tmp_path / name
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with pytest.raises(wanted) as caught:
            read(path)
        assert str(tmp_path) in caught.value.message and caught.value.hint, place
