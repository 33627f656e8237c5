"""The thread of a sink: where it starts, what it sends, how much may wait, and what happens on a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import store
from store import recorder, settle, until, verdict
from test_webhook import FAST, station

from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.database import Database
from mtkd_edge.device.events.draft import Draft
from mtkd_edge.device.events.record import Kind
from mtkd_edge.device.events.recorder import RecorderOptions
from mtkd_edge.device.events.retention import Limits
from mtkd_edge.device.outbox.channel import Backoff, NotDelivered
from mtkd_edge.device.outbox.sender import CROWDED, UNSTORED, Sender, SenderOptions


class Recording:
    """A channel in memory that can be shut."""

    name = "memory"
    trouble = ""

    def __init__(self, shut: bool = False) -> None:
        self.got: list[int] = []
        self.shut = shut

    def send(self, events: Any) -> int:
        if self.shut:
            raise NotDelivered("shut")
        self.got.append(events[0].seq)
        return 1

    def close(self) -> None:
        pass


def test_a_new_sink_starts_with_what_comes_next_and_a_known_one_where_it_stopped(tmp_path: Path) -> None:
    store.fill(tmp_path, 5)
    for first in (5, 8):
        channel = Recording()
        keeper, sender = station(tmp_path, channel)
        for seq in range(first, first + 3):
            keeper(verdict(seq), None, None)
        keeper.close()
        until(lambda channel=channel: len(channel.got) == 3)  # type: ignore[misc]
        sender.close()
        assert channel.got == list(range(first, first + 3))


def test_only_alarms_where_that_is_asked(tmp_path: Path) -> None:
    channel = Recording()
    keeper, sender = station(tmp_path, channel, SenderOptions(what="alarms", first=0.02))
    keeper(verdict(1), None, None)
    keeper.offer(Draft(Kind.ALARM, verdict(2), None, None, Clock().stamp(), latched=True))
    keeper(verdict(3), None, None)
    keeper.close()
    until(lambda: sender.waiting() == 0)
    sender.close()
    assert channel.got == [2]


def test_what_may_wait_is_bounded_by_number_and_by_the_stores_limits_and_both_are_counted(tmp_path: Path) -> None:
    channel = Recording(shut=True)
    keeper, sender = station(tmp_path, channel, SenderOptions(most=10, first=0.02, longest=0.02))
    for seq in range(30):
        keeper(verdict(seq), None, None)
    settle(keeper)
    until(lambda: sender.lost)
    keeper.close()
    sender.close()
    assert sum(sender.lost.values()) == 20
    pruner = recorder(tmp_path, RecorderOptions(limits=Limits(bytes=1500)))
    until(lambda: pruner._store._used <= 1500)
    pruner.close()
    kept = Database(tmp_path, readonly=True).size().events
    sender = Sender("hook", tmp_path, Recording(), FAST)
    until(lambda: sender.waiting() == 0)
    sender.close()
    assert sender.sent == kept < 10
    assert sender.lost == {"deleted by the limits of the store before they were sent": 10 - kept}


def test_events_that_the_disk_cannot_take_are_sent_from_memory_and_not_again(tmp_path: Path) -> None:
    channel = Recording()
    keeper, sender = station(tmp_path, channel)
    events = [store.event(f"{'7' * 24}{n:02d}", seq=n) for n in range(3)]
    sender.heard(events, False)
    until(lambda: channel.got == [0, 1, 2])
    database = Database(tmp_path)
    with database.transaction():
        database.add([*events, store.event(f"{'7' * 25}9", seq=3)])
    database.close()
    sender.heard(events, True)
    until(lambda: sender.waiting() == 0)
    keeper.close()
    sender.close()
    assert channel.got == [0, 1, 2, 3]


def test_what_finds_its_place_on_the_disk_before_it_was_sent_is_sent_once(tmp_path: Path) -> None:
    channel = Recording(shut=True)
    keeper, sender = station(tmp_path, channel)
    events = [store.event(f"{'7' * 22}{n:04d}", seq=n) for n in range(UNSTORED + 5)]
    sender.heard(events, False)
    assert sender.lost == {CROWDED: 5}
    database = Database(tmp_path)
    with database.transaction():
        database.add(events)
    database.close()
    sender.heard(events, True)
    assert sum(sender.lost.values()) == 0, "they are on the disk now"
    channel.shut = False
    until(lambda: len(channel.got) >= len(events))
    keeper.close()
    sender.close()
    assert channel.got == list(range(len(events)))


def test_a_librarys_surprise_is_told_and_tried_again(tmp_path: Path) -> None:
    class Surprising(Recording):
        def send(self, events: Any) -> int:
            if not self.got:
                self.got.append(-1)
                raise ZeroDivisionError("in a library")
            return super().send(events)

    channel, told = Surprising(), []
    keeper, sender = station(tmp_path, channel, told=told)
    keeper(verdict(4), None, None)
    until(lambda: channel.got == [-1, 4])
    keeper.close()
    sender.close()
    assert told[0].reason.startswith("unexpected ZeroDivisionError: in a library")


def test_pauses_double_to_their_limit_and_differ() -> None:
    backoff = Backoff(0.5, 8.0)
    pauses = [backoff.next() for _ in range(50)]
    assert all(0.25 * 2 ** min(n, 4) <= pause <= 0.5 * 2 ** min(n, 4) for n, pause in enumerate(pauses))
    assert len(set(pauses)) == 50
    backoff.reset()
    assert backoff.next() <= 0.5
