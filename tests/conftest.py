"""What every test gets: the real photos beside the checkout where there are any, fixed seeds, and no network."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from photo_tree import write

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"

# the same examples in every run, and no time limit for each: slow machines are not wrong
hypothesis.settings.register_profile("mtkd", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("mtkd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not data"` leaves out every test that asks for the real photos."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the checkout, with real photos and weights.

    Skips where it is absent; with `data` in the environment variable MTKD_REQUIRE (a comma-separated list) it fails.
    """
    if not (SHARED / "data").is_dir():
        reason = f"no real photos: {SHARED / 'data'} is not a folder"
        if "data" in os.environ.get("MTKD_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Global generators start every test from the same state; torch only where the test has it already."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection that leaves this machine is refused at once: a test that needs one is not a test."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if self.family in (socket.AF_INET, socket.AF_INET6) and not (
            host in ("localhost", "::1", "") or str(host).startswith("127.")
        ):
            raise ConnectionRefusedError(f"tests have no network, refused: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 good photos, some of them in folders."""
    for index in range(24):
        write(tmp_path / "photos" / ("early" if index < 10 else "") / f"{index:02}.png", index)
    return tmp_path / "photos"


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "part"
    for index in range(24):
        write(root / "train" / "good" / f"{index:03}.png", index)
    for index in range(3):
        write(root / "test" / "good" / f"{index:03}.png", 100 + index)
        write(root / "test" / "crack" / f"{index:03}.png", 200 + index)
    mask = np.zeros((40, 50), np.uint8)
    mask[5:9, 7:20] = 255
    for index in range(2):
        (root / "ground_truth" / "crack").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "ground_truth" / "crack" / f"{index:03}_mask.png"), mask)
    return root
