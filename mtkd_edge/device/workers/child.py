"""The parent's end of a process of our own.

It is a fresh interpreter, never a fork: threads and a vendor's runtime do not survive one. It gets the module search
path of this process and nothing from the folder it happens to start in, and its orders over a pipe: a camera's
password is in no list of processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import ExitStack

from mtkd_edge.device.workers.shared import Shared
from mtkd_edge.device.workers.wire import Wire

BOOT = (
    "import sys; words, sys.path[:] = sys.argv[1:6], sys.argv[6:]; "
    "from mtkd_edge.device.workers.main import main; main(words)"
)
KEPT = 20
"""Lines of the child's stderr that are remembered, to say what it died of."""
REAPED = 1.0
"""Seconds after which a process that was killed and is still there hangs in the kernel."""


class Child:
    """A process that runs `target` ("module:function") with `order`. It ends with the thread that has made it.

    Used from one thread, `kill` apart. Raises OSError where no process can be started.
    """

    def __init__(self, name: str, target: str, order: bytes) -> None:
        self._said: deque[str] = deque(maxlen=KEPT)
        self._closed = False
        with ExitStack() as theirs, ExitStack() as failed:
            self.shared = Shared.create()
            failed.callback(self.shared.close)
            down, mine = _pipe(theirs, failed)
            back, up = _pipe(failed, theirs)
            self.wire = Wire(back, mine)
            handles = (down, up, self.shared.descriptor)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", BOOT, target, str(os.getpid()), *map(str, handles), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # a pipe: a decoder that complains about every frame must not fill the log
                pass_fds=handles,
                start_new_session=True,
            )
            failed.callback(self.kill)
            self._listener = threading.Thread(target=self._listen, daemon=True, name=f"said by {name}")
            self._listener.start()
            self.wire.send(order)
            failed.pop_all()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def kill(self) -> bool:
        """End it now -> whether it has ended: one that hangs in the kernel has not, and will when that returns."""
        self._process.kill()
        try:
            self._process.wait(REAPED)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self, grace: float = 0.0) -> bool:
        """Close the wire, wait `grace` seconds for the end that this asks for, then kill -> whether it has ended."""
        if not self._closed:
            self._closed = True
            self.wire.close()
            self.shared.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            return self.kill()
        return True

    def death(self) -> str:
        """What it died of, for people: call it once the wire has ended, or after `kill`."""
        try:
            code = self._process.wait(REAPED)
        except subprocess.TimeoutExpired:
            return "does not answer"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        self._listener.join(REAPED)
        return f"ended with {code}: {self._said[-1]}" if self._said else f"ended with {code}"

    def _listen(self) -> None:
        assert self._process.stdout is not None, "it was made with a pipe"
        with self._process.stdout as lines:
            for line in lines:
                self._said.append(line[:500].decode(errors="replace").strip())


def _pipe(read: ExitStack, write: ExitStack) -> tuple[int, int]:
    """A pipe, and who closes its two ends."""
    ends = os.pipe()
    read.callback(os.close, ends[0])
    write.callback(os.close, ends[1])
    return ends
