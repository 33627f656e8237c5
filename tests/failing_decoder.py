"""A decoder process that fails on files of certain names, as a library with a flaw would. Run by `test_decoding.py`."""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from mtkd_edge.device.decoding import child
from mtkd_edge.device.decoding.answer import Answer, Memory, Question

child.LIMIT = 0.3
child.MEMORY = 64 << 20
sound = child.work


def work(question: Question, memory: Memory) -> Answer:
    """As the real one, but for names that say otherwise."""
    name = os.fsdecode(question.path)
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "once" in name and os.path.exists(name + ".lives"):  # noqa: PTH110 - bytes that may be no text
        os.unlink(name + ".lives")  # noqa: PTH108
        os.kill(os.getpid(), signal.SIGKILL)
    while "spins" in name:
        continue
    if "sleeps" in name:
        time.sleep(60)
    if "raises" in name:
        raise ZeroDivisionError("a flaw of ours")
    if "nonsense" in name:
        return Answer("", 1 << 20, 1 << 20, 1)
    if "garbles" in name:
        return msgspec.Raw(b"\x91\xa1\xff")  # type: ignore[return-value]  # a problem that is no UTF-8
    return sound(question, memory)


child.work = work
if __name__ == "__main__":
    child.main(int(sys.argv[1]), int(sys.argv[2]))
