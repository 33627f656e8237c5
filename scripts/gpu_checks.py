"""What must hold of the kernel wherever it runs, and what must hold of pycuda's contexts and threads on a GPU.

A check returns what it found, or raises CheckError with what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_cases import CASES, DEFAULT, ODD, features
from gpu_rows import CheckError, Row, attempt, demand
from gpu_runners import Compile, Runner, loaded

from mtkd_edge.device.engine import Bounds
from mtkd_edge.device.engines import _cuda
from mtkd_edge.device.kernel.launcher import Kernel
from mtkd_edge.device.kernel.layout import FeatureType, layout
from mtkd_edge.errors import BackendError
from mtkd_edge.score import ScoreSpec, oracle

TOLERANCE = 1e-5
REPETITIONS = 20
TYPES: tuple[FeatureType, ...] = ("float32", "float16")
Check = Callable[[], str]


def error_of(runner: Runner, spec: ScoreSpec, kind: FeatureType, batch: int) -> float:
    """Largest difference to the float64 oracle, in units of its largest value. Raises CheckError above TOLERANCE."""
    student, reference = features(spec, batch, 0, kind)
    made = runner.run(layout(spec, kind), student, reference)
    worst = 0.0
    for got, wanted in zip((made.maps, made.scores), oracle(spec, student, reference), strict=True):
        demand(bool(np.isfinite(got).all()), "a result is not finite")
        worst = max(worst, float(np.abs(got - wanted).max()) / max(1.0, float(np.abs(wanted).max())))
    demand(worst <= TOLERANCE, f"differs from the oracle by {worst:.2g}")
    return worst


def exact(runner: Runner) -> str:
    """Every case, both types of features, batches of 1 and 5."""
    runs = [(spec, kind, batch) for spec in CASES.values() for kind in TYPES for batch in (1, 5)]
    return f"{len(runs)} runs, at most {max(error_of(runner, *run) for run in runs):.1e} from the float64 oracle"


def same_bits(runner: Runner, other: Runner) -> str:
    """Two runners, one result, bit by bit."""
    for name, spec in CASES.items():
        for kind in TYPES:
            given = features(spec, 3, 1, kind)
            found = layout(spec, kind)
            ours, theirs = runner.run(found, *given), other.run(found, *given)
            demand(ours.bits() == theirs.bits(), f"{name}, {kind}: {runner.name} and {other.name} differ")
    return f"{2 * len(CASES)} runs are the same bits on {runner.name} and {other.name}"


def launch_shapes(runner: Runner, again: int) -> str:
    """Block sizes, and the same launch many times: a race would show as other bits."""
    for name, spec in CASES.items():
        given, found = features(spec, 4, 2), layout(spec)
        usual = runner.run(found, *given).bits()
        for block in (32, 64, 128, 256, *(256 for _ in range(again))):
            demand(runner.run(found, *given, block=block).bits() == usual, f"{name}: other bits with blocks of {block}")
    return f"blocks of 32 to 256 and {again} repetitions: the same bits"


def verdicts(runner: Runner) -> str:
    """NaN and infinity in any level make their own image invalid; the threshold itself is not above the threshold."""
    found = layout(ODD)
    for number in range(len(ODD.levels)):
        for bad in (np.nan, np.inf, -np.inf):
            student, reference = features(ODD, 3, 3)
            student[number][1, -1, -1, -1] = bad
            bits = runner.run(found, student, reference, bounds=Bounds(-1e9, np.inf)).verdicts.tolist()
            demand(bits == [1, 2, 1], f"{bad} in level {number} gives verdict bits {bits}")
    given = features(ODD, 1, 4)
    score = float(runner.run(found, *given).scores[0])
    below = float(np.nextafter(score, -np.inf))
    bits = [int(runner.run(found, *given, bounds=Bounds(at, np.inf)).verdicts[0]) for at in (score, below)]
    demand(bits == [0, 1], f"at the threshold and just above it the bits are {bits}")
    peak = float(runner.run(found, *given).maps[0].max())
    tops = peak, float(np.nextafter(peak, -np.inf))
    bits = [int(runner.run(found, *given, bounds=Bounds(np.inf, at)).verdicts[0]) for at in tops]
    demand(bits == [0, 4], f"at the map threshold and just above it the bits are {bits}")
    return f"{3 * len(ODD.levels)} bad features, and two thresholds 1 ulp of double precision away"


def wrong_digest(device: _cuda.Device, compile_kernel: Compile) -> str:
    """A cubin of another spec does not load."""
    with device.current() as cuda:
        try:
            Kernel(cuda, compile_kernel(layout(DEFAULT)), layout(ODD), 1)
        except BackendError as error:
            return error.message
    raise CheckError("a kernel of another spec was loaded")


def failed_launch(device: _cuda.Device, compile_kernel: Compile) -> str:
    """A launch that CUDA refuses is a BackendError, and the context goes on working."""
    found, given = layout(ODD), features(ODD, 1)
    said = ""
    with device.current() as cuda, loaded(cuda, compile_kernel(found), found, *given) as session:
        try:
            with device.current():
                session.launch(block=2048)
                session.stream.synchronize()
        except BackendError as error:
            said = error.message
        demand(bool(said), "a block of 2048 threads was launched")
        session.launch()
        demand(bool(np.isfinite(session.results().scores).all()), "nothing works after a refused launch")
    return said


def threads(device: _cuda.Device, compile_kernel: Compile, count: int = 4) -> str:
    """Every thread with the context pushed for itself: the same bits as alone."""
    found, given = layout(DEFAULT), features(DEFAULT, 2, 5)
    cubin = compile_kernel(found)
    made: list[bytes] = []

    def work() -> None:
        with device.current() as cuda, loaded(cuda, cubin, found, *given) as session:
            for _ in range(5):
                session.launch()
            made.append(session.results().bits())

    work()
    wrong: list[Row | None] = []
    workers = [threading.Thread(target=lambda: wrong.append(attempt(work))) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    reasons = [row["found"] for row in wrong if row is not None]
    demand(not reasons, f"{len(reasons)} threads failed: {reasons[:1]}")
    demand(len(set(made)) == 1, "threads disturb each other")
    return f"{count} threads at once, each with the same bits as one alone"


def nothing_leaks(device: _cuda.Device, compile_kernel: Compile, rounds: int = 30) -> str:
    """Open, launch and close over and over: the free memory of the device stays."""
    found, given = layout(DEFAULT), features(DEFAULT, 1)
    cubin = compile_kernel(found)
    free: list[int] = []
    for _ in range(rounds):
        with device.current() as cuda:
            with loaded(cuda, cubin, found, *given) as session:
                session.launch()
                session.results()
            free.append(int(cuda.mem_get_info()[0]))
    lost = free[1] - free[-1]  # the first round also loads what stays
    demand(lost <= 1 << 20, f"{lost} bytes are gone after {rounds} rounds")
    return f"{rounds} rounds of open, launch, close: {max(lost, 0)} bytes lost"


def checks(runner: Runner, gpu: tuple[Any, Compile] | None) -> dict[str, Check]:
    """Every check by name; `gpu`: device and compiler, for those that need one."""
    found: dict[str, Check] = {
        "exactness": lambda: exact(runner),
        # the host build has no races but those of its schedule, which `same_bits` changes
        "launch shapes": lambda: launch_shapes(runner, 2 if gpu is None else REPETITIONS),
        "verdict bits": lambda: verdicts(runner),
    }
    if gpu is not None:
        found |= {
            "digest": lambda: wrong_digest(*gpu),
            "failed launch": lambda: failed_launch(*gpu),
            "threads": lambda: threads(*gpu),
            "leaks": lambda: nothing_leaks(*gpu),
        }
    return found
