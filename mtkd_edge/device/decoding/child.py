"""The process that decodes: a file's path in, its pixels out, within limits of memory and time.

It ends when whoever started it does (the end of the socket), when a photo takes too long (SIGPROF, also inside a
library), and when a library brings it down. What the libraries write to stderr is read: libjpeg decodes damaged files
to something and says so nowhere else.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from pathlib import Path

import cv2
import msgspec

from mtkd_edge import files, frames
from mtkd_edge.device.decoding.answer import LIMIT, MEMORY, WORDS, Answer, Memory, Question, questions
from mtkd_edge.errors import DataError

COMPLAINTS = ("Corrupt JPEG data", "Premature end of JPEG", "Invalid SOS")
"""What libjpeg says of pixels that it has made up."""
STDERR = 2


def main(socket_handle: int, memory_handle: int) -> None:
    """Answer until the socket ends."""
    cv2.setNumThreads(1)  # as many photos are decoded at once as there are processes
    memory = Memory(memory_handle)
    limit()
    asked = socket.socket(fileno=socket_handle)
    asked.send(msgspec.msgpack.encode(Answer()))  # ready
    while message := asked.recv(1 << 16):
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        answer = work(questions.decode(message), memory)
        signal.setitimer(signal.ITIMER_PROF, 0)
        asked.send(msgspec.msgpack.encode(answer))


def limit() -> None:
    """Bound the memory, and leave no core behind."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(question: Question, memory: Memory) -> Answer:
    """One photo into the memory, in RGB; or why not."""
    os.ftruncate(STDERR, 0)
    os.lseek(STDERR, 0, os.SEEK_SET)
    path, within = Path(os.fsdecode(question.path)), Path(os.fsdecode(question.within)) if question.within else None
    try:
        picture = frames.decode_bgr(files.read(path, frames.MAX_BYTES, within), str(path))
        if complaint := complained():
            raise DataError(f"{path} is damaged: {complaint}")
        answer = Answer("", picture.shape[0], picture.shape[1], picture.dtype.itemsize)
        cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=memory.view(answer))
        return answer
    except MemoryError:
        problem = f"{path} needs more than {MEMORY >> 20} MB of memory to be decoded"
    except DataError as error:
        said = "" if "damaged: " in error.message else words()
        problem = error.message + (f" ({said})" if said else "")
    return Answer(problem.replace(str(path), question.name))


def words() -> str:
    """What the libraries have written to stderr about this file, in one line."""
    text = os.pread(STDERR, WORDS, 0).decode(errors="replace").replace("libpng error: ", "")
    return files.shown("; ".join(text.split("\n")).strip("; \0"))


def complained() -> str:
    """The first complaint of libjpeg about the pixels, "" where it had none."""
    return next((line for line in words().split("; ") if line.startswith(COMPLAINTS)), "")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
