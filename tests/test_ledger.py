"""captured = scored + invalid + dropped + waiting, exactly, at every moment and from every thread."""

from __future__ import annotations

import random
import threading
import time

import line
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge.device.ledger import Account, Ledger
from mtkd_edge.device.mailbox import OVERWRITTEN, Mailbox
from mtkd_edge.device.prepare import Prepared
from mtkd_edge.device.sources.base import Captured
from mtkd_edge.verdict import State


def test_every_entry_is_counted_where_it_belongs() -> None:
    ledger = Ledger(["a", "b"])
    for _ in range(4):
        ledger.capture("a")
    ledger.settle("a", State.NORMAL)
    ledger.settle("a", State.INVALID)
    ledger.drop("a", "late")
    assert ledger.account("a") == Account(4, 1, 1, {"late": 1}, 1)
    assert ledger.account("b") == Account(0, 0, 0, {}, 0)


def test_a_frame_cannot_end_twice() -> None:
    ledger = Ledger(["a"])
    ledger.capture("a")
    ledger.settle("a", State.ANOMALOUS)
    with pytest.raises(RuntimeError, match="all 1 captured ones already have"):
        ledger.drop("a", "late")


def test_a_ledger_with_a_frame_in_flight_does_not_close() -> None:
    ledger = Ledger(["a"])
    ledger.capture("a")
    with pytest.raises(RuntimeError, match="frames without a verdict"):
        ledger.close()
    ledger.settle("a", State.NORMAL)
    assert ledger.close()["a"].waiting == 0


@given(st.lists(st.sampled_from(["capture", "scored", "invalid", "drop"])))
def test_the_equation_holds_after_any_sequence(steps: list[str]) -> None:
    ledger = Ledger(["a"])
    waiting = 0
    for step in steps:
        if step == "capture":
            ledger.capture("a")
            waiting += 1
        else:
            end = {"scored": (ledger.settle, State.NORMAL), "invalid": (ledger.settle, State.INVALID)}
            act, word = end.get(step, (ledger.drop, "late"))
            if waiting:
                act("a", word)  # type: ignore[operator]
                waiting -= 1
            else:
                with pytest.raises(RuntimeError):
                    act("a", word)  # type: ignore[operator]
        account = ledger.account("a")
        assert account.waiting == waiting
        assert account.captured == account.scored + account.invalid + sum(account.dropped.values()) + waiting


def test_the_equation_holds_over_ten_thousand_frames_from_many_threads() -> None:
    """Four cameras overwrite, two files wait for room, one reader takes, an observer looks all the time."""
    live, files = [f"camera{n}" for n in range(4)], ["folder", "film"]
    ledger = Ledger([*live, *files])
    mailbox = Mailbox(ledger, live=True, room=8, room_bytes=1 << 20)
    photo = line.part()
    over = threading.Event()
    seen: list[tuple[str, int]] = []

    def frame(source: str, seq: int) -> Prepared:
        return Prepared(Captured(source, seq, 0.0, 0.0, photo), photo, "", 0.0)

    def capture(source: str) -> None:
        leave = mailbox.offer if source in live else mailbox.put
        for seq in range(2000):
            assert leave(frame(source, seq))

    def observe() -> None:
        while not over.is_set():
            for source in (*live, *files):
                account = ledger.account(source)
                assert account.waiting >= 0
            time.sleep(0.001)

    observer = threading.Thread(target=observe)
    writers = [threading.Thread(target=capture, args=(source,)) for source in (*live, *files)]
    for thread in (observer, *writers):
        thread.start()
    random.seed(1)
    while any(writer.is_alive() for writer in writers) or ledger_waits(ledger, [*live, *files]):
        for prepared in mailbox.take(random.randint(1, 8), 0.05):
            source = prepared.captured.source
            seen.append((source, prepared.captured.seq))
            if random.random() < 0.1:
                ledger.drop(source, "late")
            else:
                ledger.settle(source, random.choice(list(State)))
    over.set()
    observer.join()
    accounts = ledger.close()
    assert sum(account.captured for account in accounts.values()) == 12_000
    for source in files:  # every frame of a file, in order
        assert [seq for name, seq in seen if name == source] == list(range(2000))
    for source in live:  # the order is kept, the last frame is never the one that was lost
        seqs = [seq for name, seq in seen if name == source]
        assert seqs == sorted(seqs)
        assert seqs[-1] == 1999
        assert accounts[source].dropped[OVERWRITTEN] == 2000 - len(seqs)


def ledger_waits(ledger: Ledger, sources: list[str]) -> bool:
    return any(ledger.account(source).waiting for source in sources)


def test_no_camera_is_starved_by_a_faster_one() -> None:
    """With room for one frame at a time, a slow camera's frame is taken although a fast one overwrites all the time."""
    ledger = Ledger(["fast", "slow"])
    mailbox = Mailbox(ledger, live=True, room=4, room_bytes=1 << 20)
    photo = line.part()
    taken = []
    for round_ in range(20):
        mailbox.offer(Prepared(Captured("slow", round_, 0.0, 0.0, photo), photo, "", 0.0))
        for seq in range(5):
            mailbox.offer(Prepared(Captured("fast", 5 * round_ + seq, 0.0, 0.0, photo), photo, "", 0.0))
        taken += [prepared.captured.source for prepared in mailbox.take(1, 0.0)]
    assert abs(taken.count("fast") - taken.count("slow")) <= 1


def test_files_take_turns_with_cameras_and_only_one_at_a_time() -> None:
    ledger = Ledger(["camera", "folder"])
    mailbox = Mailbox(ledger, live=True, room=8, room_bytes=1 << 20)
    photo = line.part()
    for seq in range(8):
        mailbox.put(Prepared(Captured("folder", seq, 0.0, 0.0, photo), photo, "", 0.0))
    order = []
    for seq in range(6):
        mailbox.offer(Prepared(Captured("camera", seq, 0.0, 0.0, photo), photo, "", 0.0))
        order.append([prepared.captured.source for prepared in mailbox.take(8, 0.0)])
    assert order == [["camera"], ["folder"]] * 3


def test_room_is_bounded_by_bytes_and_one_photo_always_fits() -> None:
    ledger = Ledger(["folder"])
    photo = line.part()
    mailbox = Mailbox(ledger, live=False, room=8, room_bytes=photo.nbytes // 2)
    prepared = Prepared(Captured("folder", 0, 0.0, 0.0, photo), photo, "", 0.0)
    assert mailbox.put(prepared)
    blocked = threading.Thread(target=mailbox.put, args=(prepared,))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive()
    assert len(mailbox.take(8, 0.0)) == 1
    blocked.join(2)
    assert not blocked.is_alive()


def test_a_closed_mailbox_captures_nothing_more_and_gives_what_it_has() -> None:
    ledger = Ledger(["folder"])
    mailbox = Mailbox(ledger, live=False, room=1, room_bytes=1 << 20)
    photo = line.part()
    prepared = Prepared(Captured("folder", 0, 0.0, 0.0, photo), photo, "", 0.0)
    assert mailbox.put(prepared)
    answers: list[bool] = []
    blocked = threading.Thread(target=lambda: answers.append(mailbox.put(prepared)))
    blocked.start()
    mailbox.close()
    blocked.join(2)
    assert answers == [False]
    assert mailbox.take(8, 5.0) == [prepared]
    assert mailbox.take(8, 5.0) == []
    assert ledger.account("folder").captured == 1
