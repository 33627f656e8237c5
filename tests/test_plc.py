"""Answers for a controller: read by real Modbus and OPC UA clients, and never good once the station has died."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import line
import pytest
from soak_around import free_port
from store import until
from test_station import events, station

from mtkd_edge.device.decisions.board import Board, Status
from mtkd_edge.device.decisions.rules import Rules
from mtkd_edge.device.plc.modbus import FAILED, ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE, Modbus
from mtkd_edge.device.plc.opcua_asyncua import OpcUa
from mtkd_edge.device.plc.registers import table
from mtkd_edge.errors import MissingExtraError, UsageError
from mtkd_edge.verdict import Region, State, Verdict

REGION = Region((1, 2, 3, 4), 12, 0.9, (2, 3))


def statuses(latch: bool = True) -> list[Status]:
    """Line a is good, line b bad and latched, line c has never been seen."""
    board = Board({"a": Rules(), "b": Rules(latch=latch), "c": Rules()})
    board.step(Verdict("a", 0, 0.0, State.NORMAL, 0.25, 0.5))
    board.step(Verdict("b", 0, 0.0, State.ANOMALOUS, 0.75, 0.5, (REGION, REGION)))
    return [board.status(source) for source in board.sources]


def floats(high: int, low: int) -> float:
    return float(struct.unpack(">f", struct.pack(">HH", high, low))[0])


def test_the_table_is_what_is_documented_and_zero_means_invalid() -> None:
    found = table(statuses(), 65537)
    assert len(found) == 40 and all(0 <= word <= 0xFFFF for word in found)
    assert found[:10] == (1, 2, 3, 0, 0, 0, 0, 0, 0, 0)
    good, bad, unseen = found[10:20], found[20:30], found[30:40]
    assert good[:4] == (1, 1, 1, 0) and floats(*good[4:6]) == 0.25 and floats(*good[6:8]) == 0.5
    assert bad[:4] == (2, 1, 1, 1) and bad[8] == 2 and bad[9] < 100
    assert unseen[:4] == (0, 0, 0, 0) and math.isnan(floats(*unseen[4:6])) and unseen[9] == 0xFFFF


@pytest.fixture
def modbus() -> Iterator[Modbus]:
    server = Modbus("127.0.0.1", 0)
    yield server
    server.close()


def test_a_controller_reads_it_with_a_client_that_is_not_ours(modbus: Modbus) -> None:
    clients = pytest.importorskip("pymodbus.client", reason="no pymodbus: pip install 'mtkd-edge[dev]'")
    modbus(statuses())
    client = clients.ModbusTcpClient("127.0.0.1", port=modbus.port, timeout=2)
    assert client.connect()
    try:
        assert tuple(client.read_holding_registers(0, count=40).registers) == table(statuses(), 1)[:40]
        assert client.read_input_registers(20, count=4).registers == [2, 1, 1, 1]
        assert client.read_discrete_inputs(0, count=3).bits[:3] == [True, False, False], "good"
        assert client.read_coils(0, count=3).bits[:3] == [False, True, False], "latched"
        for refused, code in (
            (client.read_holding_registers(39, count=2), ILLEGAL_ADDRESS),
            (client.read_holding_registers(5000, count=1), ILLEGAL_ADDRESS),
            (client.write_register(0, 1), ILLEGAL_FUNCTION),
            (client.write_coil(1, True), ILLEGAL_FUNCTION),
        ):
            assert refused.isError() and refused.exception_code == code
        first = client.read_holding_registers(0, count=1).registers
        modbus(statuses())
        assert client.read_holding_registers(0, count=1).registers != first, "the heartbeat"
    finally:
        client.close()


def test_when_the_beats_stop_every_read_is_refused(modbus: Modbus, monkeypatch: pytest.MonkeyPatch) -> None:
    read = struct.pack(">BHH", 3, 0, 3)
    assert modbus.answer(read, "x") == bytes([0x83, FAILED]), "before the first beat"
    modbus(statuses())
    assert modbus.answer(read, "x")[:2] == bytes([3, 6])
    later = time.monotonic() + 1.1
    monkeypatch.setattr("mtkd_edge.device.plc.modbus.time.monotonic", lambda: later)
    assert modbus.answer(read, "x") == bytes([0x83, FAILED])


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (struct.pack(">BHH", 3, 0, 0), ILLEGAL_VALUE),
        (struct.pack(">BHH", 3, 0, 126), ILLEGAL_VALUE),
        (struct.pack(">BHH", 2, 0, 4), ILLEGAL_ADDRESS),
        (struct.pack(">BH", 3, 0), ILLEGAL_VALUE),
        (b"\x2b\x0e\x01\x00", ILLEGAL_FUNCTION),
        (b"\xff", ILLEGAL_FUNCTION),
    ],
)
def test_what_is_no_sound_request_is_refused(request_: bytes, code: int, modbus: Modbus) -> None:
    modbus(statuses())
    assert modbus.answer(request_, "x") == bytes([request_[0] | 0x80, code])


def test_noise_on_the_port_ends_that_connection_and_no_other(modbus: Modbus) -> None:
    modbus(statuses())
    with socket.create_connection(("127.0.0.1", modbus.port), 2) as good:
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 300, b"\0\1\0\0\xff\xff\1"):
            with socket.create_connection(("127.0.0.1", modbus.port), 2) as bad:
                bad.sendall(noise)
                assert bad.recv(100) == b""
        good.sendall(struct.pack(">HHHBBHH", 7, 0, 6, 9, 3, 1, 1))
        assert good.recv(100) == struct.pack(">HHHBBBH", 7, 0, 5, 9, 3, 2, 2)
        modbus.close()
        assert good.recv(100) == b"", "a controller notices that the station ends"


def test_a_port_that_is_taken_is_told(modbus: Modbus) -> None:
    with pytest.raises(UsageError, match="Modbus cannot listen"):
        Modbus("127.0.0.1", modbus.port)


def test_a_controller_acknowledges_where_it_may(tmp_path: Path) -> None:
    source = line.Memory("folder", [line.part(defect=True), line.part()])
    settings = {"modbus": {"address": "127.0.0.1:0", "acknowledge": True}, "rules": {"latch": True}}
    first = station(tmp_path, [source], **settings)
    line.run([source], sinks=[first.sink])
    running = station(tmp_path, [line.Memory("folder", [])], **settings)
    try:
        assert running.modbus is not None
        until(lambda: running.modbus.answer(struct.pack(">BHH", 1, 0, 1), "x") == bytes([1, 1, 1]))
        assert running.modbus.answer(struct.pack(">BHH", 5, 0, 0), "x") == bytes([0x85, ILLEGAL_VALUE])
        assert running.modbus.answer(struct.pack(">BHH", 5, 1, 0xFF00), "x") == bytes([0x85, ILLEGAL_ADDRESS])
        press = struct.pack(">BHH", 5, 0, 0xFF00)
        assert running.modbus.answer(press, "Modbus 10.0.0.5") == press
        until(lambda: running.modbus.answer(struct.pack(">BHH", 1, 0, 1), "x") == bytes([1, 1, 0]), 3)
        (written,) = events(tmp_path, kind="acknowledged")
        assert written.reason == "by Modbus 10.0.0.5"
        assert running.modbus.answer(press, "x") == press, "pressing twice is no mistake"
    finally:
        running.close()


async def browse(port: int, names: list[str], user: str = "") -> dict[str, Any]:
    import asyncua

    client = asyncua.Client(f"opc.tcp://127.0.0.1:{port}/")
    if user:
        client.set_user(user)
        client.set_password("any")
    async with client:
        space = await client.get_namespace_index("urn:mtkd-edge")
        nodes = {name: client.get_node(f"ns={space};s={name}") for name in names}
        found = {name: await node.read_value() for name, node in nodes.items()}
        try:
            await nodes["a.Answer"].write_value(2, asyncua.ua.VariantType.UInt32)
            found["written"] = True
        except asyncua.ua.UaStatusCodeError:
            found["written"] = False
        return found


@pytest.mark.filterwarnings("default")  # asyncua and what it stands on warn of their own future
def test_opc_ua_clients_read_answers_that_go_invalid_when_the_beats_stop() -> None:
    pytest.importorskip("asyncua", reason="no asyncua: pip install 'mtkd-edge[opcua]'")
    port = free_port()
    server = OpcUa("127.0.0.1", port, "line 3", ["a", "b", "c"])
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.05):
            server(statuses())

    thread = threading.Thread(target=beat)
    thread.start()
    names = ["Heartbeat", "Worst", "a.Answer", "a.Valid", "a.Score", "b.Answer", "b.Latched", "b.Regions", "c.Answer"]
    try:
        time.sleep(0.3)
        found = asyncio.run(browse(port, names))
        assert found["Heartbeat"] > 0 and (found["Worst"], found["written"]) == (2, False)
        assert not any(asyncio.run(browse(port, names, user))["written"] for user in ("admin", "Admin", "root"))
        assert (found["a.Answer"], found["a.Valid"], found["a.Score"]) == (1, True, 0.25)
        assert (found["b.Answer"], found["b.Latched"], found["b.Regions"], found["c.Answer"]) == (2, True, 2, 0)
        beating.set()
        thread.join()
        time.sleep(1.3)
        found = asyncio.run(browse(port, names))
        assert (found["Worst"], found["a.Answer"], found["a.Valid"], found["b.Answer"]) == (0, 0, False, 0)
        with pytest.raises(UsageError, match="OPC UA cannot listen"):
            OpcUa("127.0.0.1", port, "line 3", ["a"])
    finally:
        beating.set()
        server.close()


def test_without_asyncua_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncua", None)
    with pytest.raises(MissingExtraError) as caught:
        OpcUa("127.0.0.1", 0, "s", [])
    assert "mtkd-edge[opcua]" in caught.value.hint
