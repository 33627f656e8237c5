"""The thread that serves the page (uvicorn, extra `serve`): its own loop, its own threads, bounded in all it takes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from mtkd_edge.device.task import Task
from mtkd_edge.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette

PATIENCE = 1.5


class Server:
    """Listens at once. Raises UsageError where it cannot, MissingExtraError without uvicorn."""

    def __init__(self, app: Starlette, host: str, port: int, viewers: int) -> None:
        try:
            import uvicorn
        except ModuleNotFoundError as error:
            raise MissingExtraError("uvicorn", "serve", "the page") from error
        self._socket = _listen(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,  # it would print; and its access log would hold the token of the first request
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=16 + 4 * viewers,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16 << 10,
        )
        self._server: Any = uvicorn.Server(config)
        self._task = Task("page", lambda: self._server.run(sockets=[self._socket]))

    def alive(self) -> bool:
        """Whether it still serves."""
        return self._task.is_alive()

    def close(self) -> None:
        """Stop listening; whoever is being answered has a second. Raises what the thread died of."""
        self._server.should_exit = True
        self._task.join(PATIENCE)
        self._socket.close()
        if self._task.error is not None:
            raise self._task.error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise UsageError(
            f"the page cannot listen on {host}:{port}: {error.strerror}", "--serve 127.0.0.1:8081"
        ) from error
