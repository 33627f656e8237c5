"""An OPC UA server that a controller or a SCADA system reads and subscribes to, with asyncua (extra `opcua`, LGPL).

    Objects / <station>   Heartbeat, Worst; and an object for each line with
                          Answer (0 invalid, 1 good, 2 bad), Valid, Sequence, Latched, Score, Threshold, Regions, Age,
                          Part, Parts (the latest part's id, how many were decided); where that is allowed the method
                          Trigger(part) -> its id: a part is there

Nodes are in the namespace NAMESPACE and have ids like "top.Answer", the same after every start. Nobody can write them,
whatever name they give.
When the station's beats stop, Answer becomes 0 and Valid false by the server's own clock. The server has no encryption:
it belongs where only the controller is.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mtkd_edge.device.decisions.board import Status
from mtkd_edge.device.decisions.line import STALE, Answer
from mtkd_edge.device.plc.registers import CODES, worst
from mtkd_edge.device.task import Task
from mtkd_edge.errors import MissingExtraError, MtkdError, UsageError

NAMESPACE = "urn:mtkd-edge"
PACE = 0.05
START = 20.0

Values = dict[str, float | int | bool | str]
TriggerPart = Callable[[str, str], str]
"""Called with a line's source and a part's id, "" for none -> its id; may raise MtkdError."""


class OpcUa:
    """An output (`station/pulse.py`). Listens when made; raises UsageError where it cannot, MissingExtraError without
    asyncua."""

    def __init__(
        self, host: str, port: int, station: str, sources: Sequence[str], trigger: TriggerPart | None = None
    ) -> None:
        _asyncua()
        self._trigger = trigger
        self._host, self._port, self._station, self._sources = host, port, station, tuple(sources)
        self._heard: tuple[float, int, tuple[Status, ...]] = (-math.inf, 0, ())
        self._ready, self._closing = threading.Event(), threading.Event()
        self._task = Task("opcua", lambda: asyncio.run(self._serve()))
        deadline = time.monotonic() + START
        while not self._ready.wait(0.05):
            if self._task.error is not None or time.monotonic() > deadline:
                what = f"OPC UA cannot listen on {host}:{port}: {self._task.error or 'it does not begin'}"
                raise UsageError(what, 'address = "0.0.0.0:4840"') from self._task.error

    def __call__(self, statuses: Sequence[Status]) -> None:
        """A beat. Raises what the server died of."""
        if self._task.error is not None:
            raise self._task.error
        self._heard = time.monotonic(), self._heard[1] + 1, tuple(statuses)

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self._task.join(2.0)

    async def _serve(self) -> None:
        server = _asyncua().Server()
        await server.init()
        server.allow_remote_admin(False)  # asyncua takes whoever says "admin" for one, and what an admin writes stays
        server.set_endpoint(f"opc.tcp://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}/")
        server.set_server_name(f"mtkd-edge {self._station}")
        server.set_security_policy([_asyncua().ua.SecurityPolicyType.NoSecurity])
        nodes = await self._nodes(server)
        async with server:
            self._ready.set()
            written: Values = {}
            while not self._closing.is_set():
                values = self._values()
                for name, value in values.items():
                    if written.get(name) != value:
                        await nodes[name].write_value(value, nodes[name].kind)
                written = values
                await asyncio.sleep(PACE)

    async def _nodes(self, server: Any) -> dict[str, Any]:
        """A node for every name in `_values`, all at what a station has that has just begun."""
        space = await server.register_namespace(NAMESPACE)
        ua = _asyncua().ua
        kinds = {bool: ua.VariantType.Boolean, int: ua.VariantType.UInt32, float: ua.VariantType.Double}
        kinds[str] = text = ua.VariantType.String
        root = await server.nodes.objects.add_object(ua.NodeId(self._station, space), f"{space}:{self._station}")
        parents = {
            source: await root.add_object(ua.NodeId(source, space), f"{space}:{source}") for source in self._sources
        }
        for source, parent in parents.items() if self._trigger else ():
            name = f"{space}:Trigger"
            await parent.add_method(ua.NodeId(f"{source}.Trigger", space), name, self._method(source), [text], [text])
        nodes: dict[str, Any] = {}
        for name, value in self._values().items():
            source, _, last = name.rpartition(".")
            parent = parents.get(source, root)
            node = await parent.add_variable(ua.NodeId(name, space), f"{space}:{last}", value, kinds[type(value)])
            node.kind = kinds[type(value)]
            nodes[name] = node
        return nodes

    def _method(self, source: str) -> Callable[..., Any]:
        """What a client's call does."""
        ua = _asyncua().ua

        def trigger(parent: object, part: Any) -> Any:
            assert self._trigger is not None, "the method is there where this is"
            try:
                return [ua.Variant(self._trigger(source, str(part.Value or "")), ua.VariantType.String)]
            except MtkdError:
                return ua.StatusCode(ua.StatusCodes.BadInvalidArgument)

        return trigger

    def _values(self) -> Values:
        """{name of the node: value} now."""
        at, beat, statuses = self._heard
        known = {status.source: status for status in statuses} if time.monotonic() - at <= STALE else {}
        values: Values = {"Heartbeat": beat % 2**32, "Worst": CODES[worst(list(known.values()))]}
        for source in self._sources:
            values |= {f"{source}.{name}": value for name, value in _line(known.get(source)).items()}
        return values


def _line(status: Status | None) -> Values:
    last = status.last if status else None
    return {
        "Answer": CODES[status.answer if status else Answer.INVALID],
        "Valid": bool(status and status.valid),
        "Sequence": status.sequence % 2**32 if status else 0,
        "Latched": bool(status and status.latched),
        "Score": float(last.score) if last and last.score is not None else -1.0,
        "Threshold": float(last.threshold) if last else -1.0,
        "Regions": len(last.regions) if last else 0,
        "Part": status.part if status else "",
        "Parts": status.parts % 2**32 if status else 0,
        "Age": round(status.age, 1) if status and status.age is not None else -1.0,
    }


def _asyncua() -> Any:
    try:
        import asyncua
    except ModuleNotFoundError as error:
        raise MissingExtraError("asyncua", "opcua", "answering by OPC UA") from error
    return asyncua
