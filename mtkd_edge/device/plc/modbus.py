"""A Modbus-TCP server that is read by a controller (specification: modbus.org, "Messaging on TCP/IP", V1.0b).

    1       read coils               coil n - 1: 1 while line n waits for an acknowledgement
    2       read discrete inputs     input n - 1: 1 only while the answer of line n is good
    3, 4    read registers           the table of `registers.py`
    5       write coil n - 1 to 1    acknowledge the alarms of line n, where that is allowed
            coil 999 + n to 1        a part is there on line n, where that is allowed
    others  exception 1; any, when the station's beats have stopped: exception 4

Written here, since it is one page of protocol, and the libraries that have it change the interface for servers with
every version. Modbus knows no passwords: listen where only the controller is, and leave acknowledging off elsewhere.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Sequence

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.decisions.line import STALE, Answer
from mtkd_edge.device.plc.registers import PARTS, parts, table
from mtkd_edge.errors import MtkdError, UsageError

HEAD = struct.Struct(">HHHB")
"""Transaction, protocol (0), length of what follows it, unit (any is answered)."""
CLIENTS = 16
SILENCE = 60.0
"""Seconds without a request after which a connection is closed: a controller asks many times a second."""
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, FAILED = 1, 2, 3, 4
MOST = {1: 2000, 2: 2000, 3: 125, 4: 125}
"""Bits or registers in one answer."""
Acknowledge = Callable[[str, str], None]
"""Called with a line's source and who acknowledges; may raise MtkdError."""
TriggerPart = Callable[[str], object]
"""Called with a line's source; may raise MtkdError."""


class ModbusException(Exception):  # noqa: N818 - the name the protocol has for an answer that is a refusal
    """A refusal with its code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


class Modbus:
    """An output (`station/pulse.py`) that serves what it heard last, for STALE seconds; then every read is refused.

    Listens at once; raises UsageError where it cannot.
    """

    def __init__(
        self, host: str, port: int, acknowledge: Acknowledge | None = None, trigger: TriggerPart | None = None
    ) -> None:
        self._acknowledge, self._trigger = acknowledge, trigger
        self._beat, self._heard_at = 0, float("-inf")
        # one assignment replaces both, so no answer mixes two beats
        self._now: tuple[tuple[int, ...], tuple[Status, ...]] = ((0,) * 10, ())
        self._clients = threading.BoundedSemaphore(CLIENTS)
        try:
            self._server = _Server(host, port, self)
        except OSError as error:
            what = f"Modbus cannot listen on {host}:{port}: {error.strerror}"
            raise UsageError(what, 'address = "0.0.0.0:1502"; ports below 1024 are the root user\'s') from error
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="modbus", daemon=True).start()

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat."""
        self._beat += 1
        self._now = table(statuses, self._beat), tuple(statuses)
        self._heard_at = time.monotonic()

    def close(self) -> None:
        """Stop listening, and close every connection: a controller shall notice."""
        self._server.shutdown()
        self._server.server_close()

    def serve(self, connection: socket.socket, who: str) -> None:
        """Answer one controller until it leaves, falls silent or sends what is no Modbus."""
        if not self._clients.acquire(blocking=False):
            return
        try:
            connection.settimeout(SILENCE)
            while head := _exactly(connection, HEAD.size):
                transaction, protocol, length, unit = HEAD.unpack(head)
                if protocol or not 2 <= length <= 254:
                    return
                request = _exactly(connection, length - 1)
                if not request:
                    return
                answer = self.answer(request, who)
                connection.sendall(HEAD.pack(transaction, 0, len(answer) + 1, unit) + answer)
        except OSError:
            return  # gone: it will connect again
        finally:
            self._clients.release()

    def answer(self, request: bytes, who: str) -> bytes:
        """One request, without its head -> the answer, without its head."""
        try:
            return request[:1] + self._content(request, who)
        except ModbusException as refusal:
            return bytes([request[0] | 0x80, refusal.code])

    def _content(self, request: bytes, who: str) -> bytes:
        function = request[0]
        if function not in (*MOST, 5):
            raise ModbusException(ILLEGAL_FUNCTION)
        if len(request) != 5:
            raise ModbusException(ILLEGAL_VALUE)
        if time.monotonic() - self._heard_at > STALE:
            raise ModbusException(FAILED)
        address, number = struct.unpack(">HH", request[1:])
        registers, statuses = self._now
        if function == 5:
            return self._coil(address, number, statuses, who) or request[1:]
        have: Sequence[int] = registers
        if function in (3, 4) and address >= PARTS:
            have, address = parts(statuses), address - PARTS
        if function in (1, 2):
            have = [each.latched if function == 1 else each.answer is Answer.GOOD for each in statuses]
        if not 1 <= number <= MOST[function]:
            raise ModbusException(ILLEGAL_VALUE)
        if address + number > len(have):
            raise ModbusException(ILLEGAL_ADDRESS)
        chosen = have[address : address + number]
        data = _bits(chosen) if function in (1, 2) else struct.pack(f">{number}H", *chosen)
        return bytes([len(data)]) + data

    def _coil(self, address: int, value: int, statuses: Sequence[Status], who: str) -> bytes:
        trigger, asked = address >= PARTS, self._trigger if address >= PARTS else self._acknowledge
        address -= PARTS * trigger
        if asked is None:
            raise ModbusException(ILLEGAL_FUNCTION)
        if address >= len(statuses):
            raise ModbusException(ILLEGAL_ADDRESS)
        if value != 0xFF00:  # a coil cannot be set back: a latch opens, it is not closed from outside
            raise ModbusException(ILLEGAL_VALUE)
        try:
            if trigger and self._trigger:
                self._trigger(statuses[address].source)
            elif self._acknowledge:
                self._acknowledge(statuses[address].source, who)
        except MtkdError as error:
            raise ModbusException(FAILED) from error
        return b""


class _Server(socketserver.ThreadingTCPServer):
    """A thread a controller; `shutdown` of the listening socket closes the connections, too."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, modbus: Modbus) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._modbus = modbus
        self._open: set[socket.socket] = set()
        super().__init__((host, port), socketserver.BaseRequestHandler)

    def finish_request(self, request: object, client_address: tuple[str, int]) -> None:
        """One connection."""
        assert isinstance(request, socket.socket), "a TCP server hands over sockets"
        self._open.add(request)
        try:
            self._modbus.serve(request, f"Modbus {client_address[0]}")
        finally:
            self._open.discard(request)

    def server_close(self) -> None:
        """Close what listens and what is connected."""
        super().server_close()
        for connection in list(self._open):
            self.shutdown_request(connection)


def _bits(values: Sequence[int]) -> bytes:
    """The first value in the lowest bit of the first byte."""
    return bytes(
        sum(bool(v) << place for place, v in enumerate(values[at : at + 8])) for at in range(0, len(values), 8)
    )


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, none where the connection ends before."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data
