"""Short messages between two processes, over two pipes: length, then bytes. Pixels go through `shared.py`."""

from __future__ import annotations

import os
import select
import struct
import time

LENGTH = struct.Struct("<I")
CHUNK = 1 << 16


class Wire:
    """One end. Used from one thread at a time. Raises EOFError or BrokenPipeError once the other end is gone."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._got = bytearray()
        self._poll = select.poll()
        self._poll.register(read, select.POLLIN)

    def send(self, message: bytes) -> None:
        """Waits where the pipe is full, which 64 KB of messages that nobody reads make it."""
        data = LENGTH.pack(len(message)) + message
        while data:
            data = data[os.write(self._write, data) :]

    def receive(self, timeout: float | None) -> bytes | None:
        """The next message; None after `timeout` seconds (None: for ever). What was sent before an end comes."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (message := self._whole()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
            if not self._poll.poll(left):
                return None
            chunk = os.read(self._read, CHUNK)
            if not chunk:
                raise EOFError("the other end is closed")
            self._got += chunk
        return message

    def close(self) -> None:
        """Close both pipes: the other end then reads an end. Once only."""
        os.close(self._read)
        os.close(self._write)

    def _whole(self) -> bytes | None:
        if len(self._got) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._got)[0]
        if len(self._got) < end:
            return None
        message = bytes(self._got[LENGTH.size : end])
        del self._got[:end]
        return message
