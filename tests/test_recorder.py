"""What goes wrong while events are written ends no recorder, and lets nobody else into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store import recorder, until, verdict

from mtkd_edge.device import health
from mtkd_edge.errors import UsageError


def test_a_surprise_while_writing_ends_no_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[health.Event] = []
    keeper = recorder(tmp_path, told=told)
    write = keeper._store.write

    def surprising(*given: Any) -> Any:
        monkeypatch.setattr(keeper._store, "write", write)
        raise ValueError("of a library")

    monkeypatch.setattr(keeper._store, "write", surprising)
    keeper(verdict(), None, None)
    until(lambda: [event.what for event in told] == ["failing", "recovered"])
    assert "of a library" in told[0].reason
    keeper.close()


def test_a_watch_keeps_its_folder_while_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = recorder(tmp_path)
    keeper._store._drop()  # as after an error of the disk
    with pytest.raises(UsageError, match="another watch writes"):
        recorder(tmp_path)
    keeper(verdict(), None, None)
    keeper.close()
    assert keeper.stored == 1
    recorder(tmp_path).close()
