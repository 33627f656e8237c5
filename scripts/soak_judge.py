"""From what a soak has seen to what it proves: one check for each promise, each with its figures and its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import soak_times
from soak_around import offset
from soak_faults import STATION
from soak_picture import RATE, is_bad
from soak_run import Record
from soak_station import Life
from soak_times import of_life

MARGIN = 2.0
"""Seconds before a `kill -9` whose events need not have reached the disk: nobody was told that they had."""
WARM_UP = 900.0
"""Seconds after which the station's bounded lists and its stores' page caches are full, and each fault came thrice."""
SLOPE_NEEDS = 1200.0
"""Seconds of memory figures below which a slope says nothing."""
JUDGED = ("normal", "anomalous")


class Bounds(msgspec.Struct, frozen=True):
    """Seconds; `slope` in MB an hour, `growth` in files or threads."""

    noticed: float = 1.0
    back: float = 2.5
    worker: float = 2.5
    others: float = 1.0
    age: float = 2.5
    stop: float = 5.0
    slope: float = 5.0
    growth: float = 8.0


class Check(msgspec.Struct, frozen=True):
    """`found` in words, `bound` in words, `ok` None where nothing could be said."""

    name: str
    found: str
    bound: str
    ok: bool | None


def judge(record: Record, bounds: Bounds) -> list[Check]:
    """All checks, in the order in which a reader asks."""
    return [
        ledger(record),
        ledger_while_it_ran(record),
        *soak_times.outages(record, bounds),
        verdicts_kept(record),
        frames_kept(record),
        photos_kept(record),
        delivered(record),
        acknowledged(record),
        honest(record, bounds),
        ordered(record),
        ends(record, bounds),
        memory(record, bounds),
        flat("open files", [[sample.fds for sample in running(life)] for life in record.lives], bounds),
        flat("threads", [[sample.threads for sample in running(life)] for life in record.lives], bounds),
    ]


def _check(name: str, found: str, bound: str, ok: bool | None) -> Check:
    return Check(name, found, bound, None if ok is None else bool(ok))


def _timed(record: Record, right: bool, seconds: float, bound: float) -> bool | None:
    """False where it is not right, or too late; None where it is late and others had the processors."""
    if right and seconds > bound and soak_times.waiting(record) > soak_times.BUSY:
        return None
    return right and seconds <= bound


def ledger(record: Record) -> Check:
    """At every end on purpose: captured = scored + dropped + invalid, and as many verdicts as were printed."""
    wrong, frames, accounts = [], 0, 0
    for number, life in enumerate(record.lives):
        for total in life.totals:
            accounts += 1
            frames += total.captured
            printed = [said.state for said in life.said if said.source == total.source]
            scored = sum(state in JUDGED for state in printed)
            if total.captured != total.scored + total.dropped + total.invalid:
                wrong.append(f"life {number + 1}: {total}")
            elif (scored, len(printed) - scored) != (total.scored, total.invalid):
                wrong.append(f"life {number + 1}: {total}, but {scored} + {len(printed) - scored} verdicts")
    missing = sum(not life.killed and len(life.totals) < 3 for life in record.lives)
    found = f"{frames} frames in {accounts} accounts, {len(wrong)} unequal, {missing} ends without an account"
    return _check("ledger at the end", "; ".join([found, *wrong[:3]]), "equal", not wrong and not missing)


def ledger_while_it_ran(record: Record) -> Check:
    """Every account that the page has shown: nothing negative, nothing that goes back."""
    looks = wrong = 0
    for life in record.lives:
        before: dict[str, tuple[int, ...]] = {}
        for state in life.states:
            for source, row in state.items():
                looks += 1
                gone = row["scored"], row["invalid"], sum(row["dropped"].values())
                figures = (row["captured"], *gone)
                equal = row["captured"] == sum(gone) + row["waiting"] and row["waiting"] >= 0
                wrong += not equal or any(a < b for a, b in zip(figures, before.get(source, (0, 0, 0, 0)), strict=True))
                before[source] = figures
    return _check("ledger while it ran", f"{looks} looks, {wrong} unequal", "equal", wrong == 0 and looks > 0)


def verdicts_kept(record: Record) -> Check:
    """Every verdict that was printed as anomalous or invalid is an event of the store."""
    asked, missing = 0, []
    for number, life in enumerate(record.lives):
        stored = {(event.source, event.seq) for event in record.events if of_life(life, event.monotonic)}
        until = life.ended - MARGIN if life.killed else float("inf")
        for said in life.said:
            if said.state != "normal" and said.at < until:
                asked += 1
                if (said.source, said.seq) not in stored:
                    missing.append(f"life {number + 1}: {said.source} #{said.seq}")
    found = "; ".join([f"{asked} verdicts, {len(missing)} without an event", *missing[:5]])
    return _check("every anomalous or invalid verdict is stored", found, "0 lost", not missing and asked > 0)


def frames_kept(record: Record) -> Check:
    """Every frame with a defect that a camera showed while it and the station were well has an event with its photo.

    A camera's frame may be dropped for a newer one, which the ledger counts: no more may be missing than that.
    """
    asked, missing, dropped = 0, 0, 0
    for number, (name, shown) in enumerate(record.shown.items(), 1):
        well = soak_times.well(record, name)
        seen = {event.number for event in record.events if event.source == name}
        bad = [k for k in shown if is_bad(k, offset(number)) and _within(record.began + k / RATE, well)]
        asked += len(bad)
        missing += sum(k not in seen for k in bad)
        dropped += sum(_dropped(life, name) for life in record.lives)
    found = f"{asked} frames, {missing} without an event; the ledger counts {dropped} dropped"
    return _check("every defect that a camera showed is stored", found, "0 lost", missing <= dropped and asked > 0)


def _within(at: float, intervals: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= at <= end for begin, end in intervals)


def _dropped(life: Life, name: str) -> int:
    if life.totals:
        return sum(total.dropped for total in life.totals if total.source == name)
    return sum(life.states[-1].get(name, {"dropped": {}})["dropped"].values()) if life.states else 0


def photos_kept(record: Record) -> Check:
    """Every photo of the hot folder: bad and broken ones have an event, good ones have none but for a worker's end."""
    wanted = {"bad": "anomalous", "broken": "invalid"}
    states: dict[str, set[str]] = {}
    for event in record.events:
        excused = event.state == "invalid" and soak_times.with_a_worker(record, event.monotonic)
        states.setdefault(event.path, set()).add("excused" if excused else event.state)
    right = {kind: ({"excused"}, {wanted.get(kind)} - {None}) for kind in ("good", "bad", "broken")}
    wrong = [path for path, kind in record.photos.items() if states.get(path, set()) not in right[kind]]
    paths = [event.path for event in record.events if event.path]
    again = len(paths) - len(set(paths))
    found = f"{len(record.photos)} photos, {len(wrong)} wrong or lost, {again} events more after restarts"
    return _check("every photo of the hot folder has its verdict", found, "0 lost", not wrong and bool(record.photos))


def delivered(record: Record) -> Check:
    """Every event of the store reached both receivers, at least once."""
    parts, ok = [], record.drained and bool(record.events)
    for name, got in (("MQTT", record.mqtt), ("webhook", record.hook)):
        lost = sum(event.id not in got for event in record.events)
        parts.append(f"{name}: {lost} of {len(record.events)} lost, {sum(got.values()) - len(got)} came again")
        ok = ok and lost == 0
    parts += [] if record.drained else ["not everything was sent when the time for it was over"]
    return _check("every event is delivered at least once", "; ".join(parts), "0 lost", ok)


def acknowledged(record: Record) -> Check:
    """Whatever a receiver has had is in the store: no event that somebody knows of has gone."""
    stored = {event.id for event in record.events}
    gone = (set(record.mqtt) | set(record.hook)) - stored
    return _check("what was delivered is in the store", f"{len(gone)} of {len(stored)} gone", "0 lost", not gone)


def honest(record: Record, bounds: Bounds) -> Check:
    """Photos of cameras' events: a frame that was shown just before, with the defect it is called, in its colours.

    A frame that a worker had when it was ended may be called invalid, and no more frames than workers were ended.
    """
    ages, wrong, excused = [], 0, 0
    for number, (name, shown) in enumerate(record.shown.items(), 1):
        real = set(shown)
        for event in record.events:
            if event.source != name or not event.photo:
                continue
            with_worker = event.state == "invalid" and soak_times.with_a_worker(record, event.monotonic)
            if event.number not in real or not (is_bad(event.number, offset(number)) or with_worker):
                wrong += 1
            else:
                excused += with_worker
                ages.append(event.monotonic - record.began - event.number / RATE)
    middle, worst = (float(np.median(ages)), max(ages)) if ages else (0.0, 0.0)
    found = (
        f"{len(ages) + wrong} photos, {wrong} invented, swapped or false, {excused} invalid with the worker that had "
        f"them; age {middle:.2f} s p50, {worst:.2f} s at most"
    )
    ended = sum(fault.kind in ("worker_kill", "worker_freeze") and not fault.skipped for fault in record.faults)
    ok = _timed(record, wrong == 0 and excused <= ended and bool(ages), worst, bounds.age)
    return _check("no invented, stale or colour-swapped frame", found, f"0, at most {bounds.age:g} s old", ok)


def ordered(record: Record) -> Check:
    """The order of ids is that of the frames, for each source, whatever the wall clock was set to."""
    wrong = 0
    for life in record.lives:
        before: dict[str, int] = {}
        for event in record.events:
            if event.photo and of_life(life, event.monotonic):
                wrong += event.seq <= before.get(event.source, -1)
                before[event.source] = event.seq
    steps = sum(fault.kind == "clock_step" and not fault.skipped for fault in record.faults)
    found = f"{len(record.events)} events, {wrong} out of order; the clock was set {2 * steps} times"
    return _check("clock steps do not change the order", found, "0", wrong == 0)


def ends(record: Record, bounds: Bounds) -> Check:
    """SIGTERM ends it in time with 0, `kill -9` leaves no process behind."""
    stops = [life for life in record.lives if not life.killed]
    worst = max((life.stopped_in for life in stops), default=0.0)
    codes = sorted({life.code for life in stops if life.code is not None})
    orphans = sum(life.orphans for life in record.lives)
    found = f"{len(stops)} stops, {worst:.1f} s at most, exit codes {codes}; {orphans} processes left by kill -9"
    ok = _timed(record, codes == [0] and orphans == 0, worst, bounds.stop)
    return _check("SIGTERM ends it, nothing outlives it", found, f"at most {bounds.stop:g} s, 0, none", ok)


def warm(life: Life) -> list[soak_times.Sample]:
    """The figures of a life after its first minutes, while as many processes ran as mostly do.

    A worker that was just killed, or its successor that has just begun, says nothing about what grows.
    """
    samples = [sample for sample in life.samples if sample.at - life.began > WARM_UP]
    usual = Counter(sample.processes for sample in samples).most_common(1)
    return [sample for sample in samples if sample.processes == usual[0][0]]


def running(life: Life) -> list[soak_times.Sample]:
    """The figures of a life from when every camera had given its first verdict."""
    return [sample for sample in life.samples if life.first and sample.at > life.first + 10.0]


def memory(record: Record, bounds: Bounds) -> Check:
    """One slope of resident memory through all lives, each with its own beginning."""
    lives = [samples for life in record.lives if len(samples := warm(life)) > 2]
    if not lives:
        found = f"no life was longer than {WARM_UP / 60:g} minutes"
        return _check("memory", found, f"{bounds.slope:g} MB an hour", None)
    at = np.concatenate([np.subtract([s.at for s in each], np.mean([s.at for s in each])) for each in lives])
    rss = np.concatenate([np.subtract([s.rss for s in each], np.mean([s.rss for s in each])) for each in lives])
    slope = float(at @ rss / (at @ at)) * 3600 / 1e6
    seconds = sum(each[-1].at - each[0].at for each in lives)
    most = max(sample.rss for each in lives for sample in each) / 1e6
    enough = max(each[-1].at - each[0].at for each in lives) >= SLOPE_NEEDS / 2 and seconds >= SLOPE_NEEDS
    found = f"{slope:+.1f} MB an hour over {seconds / 60:.0f} min, {most:.0f} MB at most, all processes"
    found += "" if enough else "; too short to judge a slope"
    return _check("memory", found, f"{bounds.slope:g} MB an hour", slope <= bounds.slope if enough else None)


def flat(what: str, lives: list[list[int]], bounds: Bounds) -> Check:
    """The last third of each life has no more than the first, but for what a fault in it takes."""
    thirds = [(each[: len(each) // 3], each[-len(each) // 3 :]) for each in lives if len(each) > 8]
    grown = max((int(np.median(last) - np.median(first)) for first, last in thirds), default=0)
    most = max((max(each) for each in lives if each), default=0)
    return _check(what, f"{most} at most, grown by {grown} within a life", f"{bounds.growth:g}", grown <= bounds.growth)


def broken(checks: Sequence[Check]) -> list[Check]:
    """Those that failed."""
    return [check for check in checks if check.ok is False]


def restarts(record: Record) -> dict[str, int]:
    """How often the station was ended, by how."""
    return {kind: sum(f.kind == kind and not f.skipped for f in record.faults) for kind in STATION}
