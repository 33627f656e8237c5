"""Age deletes what is old, also where the clock of the machine once was not what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from store import Clocks, recorder, settle, verdict
from test_events import listed

from mtkd_edge.device.events.clock import TRUST
from mtkd_edge.device.events.recorder import Recorder, RecorderOptions
from mtkd_edge.device.events.retention import DAY, Limits

YEAR = 365 * DAY


def keep(root: Path, time_: Clocks, days: float, boot: str = "boot-1") -> Recorder:
    return recorder(root, RecorderOptions(limits=Limits(days=days), lossless=True), time_.clock(boot))


def write(keeper: Recorder, time_: Clocks, seqs: range, every: float = 60) -> None:
    for seq in seqs:
        keeper(verdict(seq), None, None)
        settle(keeper)
        time_.pass_(every)


def left(root: Path, keeper: Recorder) -> list[int]:
    while keeper._store.prune():
        continue
    return [event.seq for event in listed(root)]


def test_a_clock_that_is_set_forward_by_years_makes_no_event_of_this_boot_old(tmp_path: Path) -> None:
    """A board without a battery starts in 1970, and the network tells it the time a little later."""
    time_ = Clocks(wall=100.0)
    keeper = keep(tmp_path, time_, days=30)
    write(keeper, time_, range(2))
    time_.wall += 57 * YEAR
    write(keeper, time_, range(2, 5))
    time_.pass_(TRUST + 60)
    assert left(tmp_path, keeper) == [0, 1, 2, 3, 4]
    time_.pass_(30 * DAY - TRUST)
    write(keeper, time_, range(5, 6))
    assert left(tmp_path, keeper) == [5], "a month later they are old"
    keeper.close()


@pytest.mark.parametrize("boots", [1, 2])
def test_a_clock_that_was_years_ahead_keeps_age_from_nothing_once_it_is_set_back(boots: int, tmp_path: Path) -> None:
    time_ = Clocks()
    time_.wall += 70 * YEAR
    keeper = keep(tmp_path, time_, days=1)
    time_.pass_(TRUST + 1)
    write(keeper, time_, range(2))
    time_.wall -= 70 * YEAR
    if boots == 2:
        keeper.close()
        keeper = keep(tmp_path, time_, days=1, boot="boot-2")
    write(keeper, time_, range(2, 4))
    time_.pass_(TRUST + 1)
    write(keeper, time_, range(4, 5))
    assert left(tmp_path, keeper) == [0, 1, 2, 3, 4]
    time_.pass_(1 * DAY - TRUST)
    write(keeper, time_, range(5, 6))
    assert left(tmp_path, keeper) == [4, 5]
    time_.pass_(2 * DAY)
    assert left(tmp_path, keeper) == []
    keeper.close()


def test_what_was_written_before_a_clock_ran_ahead_goes_at_its_time(tmp_path: Path) -> None:
    time_ = Clocks()
    keeper = keep(tmp_path, time_, days=1)
    time_.pass_(TRUST + 1)
    write(keeper, time_, range(2))
    time_.pass_(0.5 * DAY)
    write(keeper, time_, range(2, 4))
    time_.pass_(0.6 * DAY)
    assert left(tmp_path, keeper) == [2, 3]
    keeper.close()
