"""Decoder processes, lent to whoever has a photo: kept while idle, replaced when they die, ended with the program.

A photo on which a decoder dies is tried once more in another one: it may have been killed for a reason of its own. A
second death, or the time limit, is the photo's own problem.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from mtkd_edge.device.decoding.answer import LIMIT, WORDS, Answer, Memory, Question, answers
from mtkd_edge.errors import DataError, SourceError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.frames import Photo

CHILD = "mtkd_edge.device.decoding.child"
PATIENCE = 10.0
"""Seconds for which a decoder may stand still: one that waits for a dead network share cannot even be ended."""
START = 60.0
"""Seconds for a decoder to load its libraries, on a machine that is busy loading an engine."""
KEPT = min(4, os.cpu_count() or 1)
STOPPING = (signal.SIGINT, signal.SIGTERM)
ALONE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would give the pages of every photo back and fetch them anew for the next: half of the time, measured
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Variables of a decoder."""
SLOW = f"took longer than {LIMIT:g} s to decode"
STUCK = f"could not be read for {PATIENCE:g} s"


class Died(Exception):  # noqa: N818 - no error of the program: the pool starts another
    """A decoder is gone, and why."""


class Decoder:
    """One process. Used from one thread at a time. Raises SourceError where it does not start."""

    def __init__(self) -> None:
        with ExitStack() as failed:
            try:
                self._start(failed)
            except OSError as error:
                raise SourceError(
                    f"no decoder of photos can be started: {error.strerror}", "mtkd-edge doctor"
                ) from error
            failed.pop_all()
        try:
            self._receive()
        except Died as error:
            self.close()
            raise SourceError(f"the decoder of photos does not start: {error}", "mtkd-edge doctor") from error
        self._socket.settimeout(PATIENCE)

    def _start(self, failed: ExitStack) -> None:
        """The process, and what it is spoken to by, which `failed` closes. Raises OSError where there is no room."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        failed.callback(self._socket.close)
        failed.callback(theirs.close)
        self._memory = Memory()
        failed.callback(self._memory.close)
        self._words = os.memfd_create("words", os.MFD_CLOEXEC)
        failed.callback(os.close, self._words)
        self._socket.settimeout(START)
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)  # noqa: PTH100 - no link resolved
        handles = [theirs.fileno(), self._memory.handle]
        # Ctrl-C and SIGTERM reach the whole group: what has been captured still gets its verdict, so they wait here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", CHILD, *map(str, handles)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                cwd="/",  # python -m looks for modules here first: never among the photos
                env={**os.environ, "PYTHONPATH": path, **ALONE},
                pass_fds=handles,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def decode(self, path: Path, within: Path | None) -> Photo:
        """Raises DataError for what cannot be read, Died where the decoder has."""
        absolute = os.path.abspath(path)  # noqa: PTH100 - a link stays one: the child looks where it leads
        question = Question(os.fsencode(absolute), os.fsencode(within or ""), str(path))
        try:
            self._socket.send(msgspec.msgpack.encode(question))
        except OSError as error:
            raise Died(self._why()) from error
        answer = self._receive()
        if answer.problem:
            raise DataError(answer.problem)
        found = self._memory.take(answer)
        if found is None:
            raise Died("it answered nonsense")
        return found

    def close(self) -> None:
        """End it, whatever it does."""
        self._socket.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._memory.close()
        os.close(self._words)

    def _receive(self) -> Answer:
        """The answer, for which it may compute as long as its own alarm lets it."""
        used = -1.0
        while (answer := self._heard()) is None:
            before, used = used, self._computed()
            if used <= before:
                raise Died(STUCK)
        return answer

    def _heard(self) -> Answer | None:
        """The answer; None where there is none for PATIENCE seconds."""
        try:
            if message := self._socket.recv(1 << 16):
                return answers.decode(message)
        except TimeoutError:
            return None
        except (OSError, *UNREADABLE) as error:
            raise Died(self._why()) from error
        raise Died(self._why())

    def _computed(self) -> float:
        """Ticks of a processor that it has used so far."""
        with suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return float(fields[11]) + float(fields[12])  # utime and stime, proc(5)
        return 0.0

    def _why(self) -> str:
        """What it has died of."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code == -signal.SIGPROF:
            return SLOW
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        said = os.pread(self._words, WORDS, 0).decode(errors="replace").strip("\0\n").splitlines()
        return f"exit code {code}: {said[-1] if said else 'without a word'}"


class Pool:
    """Decoders for the whole program. `deaths` counts them, by what they died of."""

    def __init__(self) -> None:
        self.deaths: Counter[str] = Counter()
        self._idle: list[Decoder] = []
        self._lock = threading.Lock()

    def decode(self, path: Path, within: Path | None = None, deaths: Counter[str] | None = None) -> Photo:
        """A file -> photo. `within`: a resolved folder that it must lie in. `deaths` counts decoders lost on it.

        Raises DataError for what cannot be read, SourceError where no decoder starts.
        """
        for _ in range(2):
            found = self._tried(path, within)
            if not isinstance(found, str):
                return found
            with self._lock:
                self.deaths[found] += 1
                if deaths is not None:
                    deaths[found] += 1
            if found in (SLOW, STUCK):
                raise DataError(f"{path} {found}", "open it in an image viewer; save it again as PNG")
        raise DataError(f"{path} brought the decoder down twice: {found}", "keep the file: it shows a flaw")

    def _tried(self, path: Path, within: Path | None) -> Photo | str:
        """The photo, or what a decoder has died of."""
        try:
            with self._lent() as decoder:
                return decoder.decode(path, within)
        except Died as error:
            return str(error)

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.close()

    @contextmanager
    def _lent(self) -> Iterator[Decoder]:
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        decoder = decoder or Decoder()
        try:
            yield decoder
        except DataError:
            self._back(decoder)
            raise
        except BaseException:
            decoder.close()
            raise
        self._back(decoder)

    def _back(self, decoder: Decoder) -> None:
        with self._lock:
            keep = len(self._idle) < KEPT
            if keep:
                self._idle.append(decoder)
        if not keep:
            decoder.close()


POOL = Pool()
"""The one of this program: a decoder takes a third of a second to start, so the sources share them."""
atexit.register(POOL.close)
