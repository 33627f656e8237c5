"""The page of a station, opened and closed as one thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtkd_edge.device.serve.access import access
from mtkd_edge.device.serve.app_starlette import Pages, application
from mtkd_edge.device.serve.server_uvicorn import Server
from mtkd_edge.device.serve.state import Watcher
from mtkd_edge.device.station.config import Serve, split
from mtkd_edge.device.station.secrets import secret
from mtkd_edge.device.station.station import Judge, Station


class Page:
    """Listens at once. `watcher.viewfinder` is a sink; `address` may be shown."""

    def __init__(
        self, wanted: Serve, base: Path, station: Station, judge: Judge, name: str, engine: str, live: Sequence[bool]
    ) -> None:
        """`live`: for each source, whether it is a camera. Raises UsageError, MissingExtraError without the extra."""
        host, port = split(wanted.address)
        token = secret("token", wanted.token_file, wanted.token_env, base)
        self.access = access(host, token, open_=wanted.open)
        self.watcher = Watcher(station, judge, name, engine, live)
        self.pages = Pages(self.watcher, station, judge, self.access, wanted.viewers)
        self.server = Server(application(self.pages), host, port, wanted.viewers)

    @property
    def address(self) -> str:
        """Where the page is; with its token only where that was made here, since nobody else knows it."""
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"http://{host}:{self.server.port}/" + (f"?token={self.access.token}" if self.access.made else "")

    def close(self) -> None:
        """Stop serving."""
        self.server.close()
