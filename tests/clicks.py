"""Chromium with somebody who clicks: its debugging protocol over two pipes, which needs no library and no port."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ABOVE = 10
"""File descriptors from which on none is 3 or 4, where Chromium has its pipes."""


class Tab:
    """One page. Protocol: https://chromedevtools.github.io/devtools-protocol/."""

    def __init__(self, ask: int, hear: int, address: str) -> None:
        self._ask, self._hear, self._ahead = ask, hear, b""
        self._ids, self._session = itertools.count(1), {}
        target = self._call("Target.createTarget", url=address)["targetId"]
        self._session = {"sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def run(self, script: str) -> Any:
        """What an expression of JavaScript is worth in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _call(self, method: str, **given: object) -> Any:
        number = next(self._ids)
        asked = {"id": number, "method": method, "params": given, **self._session}
        os.write(self._ask, json.dumps(asked).encode() + b"\0")
        while True:
            while b"\0" not in self._ahead:
                chunk = os.read(self._hear, 1 << 16)
                assert chunk, "Chromium has ended"
                self._ahead += chunk
            message, _, self._ahead = self._ahead.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]


@contextmanager
def tab(chromium: Sequence[str], address: str) -> Iterator[Tab]:
    """A page in a browser of its own, which ends with the block."""
    theirs, ask = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE) for end in os.pipe())
    hear, said = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE) for end in os.pipe())
    command = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{said}', "bash", *chromium, "--remote-debugging-pipe"]
    with subprocess.Popen(command, pass_fds=(theirs, said), stderr=subprocess.DEVNULL) as browser:
        os.close(theirs)
        os.close(said)
        try:
            yield Tab(ask, hear, address)
        finally:
            browser.kill()
            os.close(ask)
            os.close(hear)
