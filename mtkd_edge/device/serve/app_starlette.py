"""The routes of the page (Starlette, extra `serve`).

    /                    the page                    /api/state                 everything as JSON
    /healthz             the process answers         /api/frame/N.jpg           the newest frame of line N
    /readyz              frames are really scored    /api/event/ID.jpg          an event's photo with its heat
    /metrics             for Prometheus              /api/acknowledge (POST)    an alarm has been seen
                                                     /api/trigger (POST)        a part is there

All but the two health routes want the token. Nothing here can change a setting, run a command or read a path that a
request names: a picture is found by its event's id. What blocks runs on the server's own threads, never the scorer's.
"""

from __future__ import annotations

import threading
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from mtkd_edge.device.events.acknowledge import acknowledge
from mtkd_edge.device.events.clock import Clock, decode
from mtkd_edge.device.events.database import Database
from mtkd_edge.device.serve import metrics, pictures
from mtkd_edge.device.serve.access import COOKIE, Access
from mtkd_edge.device.serve.pictures import Shutter
from mtkd_edge.device.serve.state import Watcher
from mtkd_edge.device.station.station import Judge, Station
from mtkd_edge.errors import DataError, MissingExtraError, MtkdError
from mtkd_edge.files import UNREADABLE

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

OPEN = ("/healthz", "/readyz", "/login", "/page.css")
FILES = {"/page.css": "text/css", "/page.js": "text/javascript"}
LARGEST = 4096
"""Bytes of a request's body."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """The endpoints. `viewers` requests for pictures are answered at once, the next is told to come back."""

    def __init__(self, watcher: Watcher, station: Station, judge: Judge, access: Access, viewers: int) -> None:
        self._watcher, self._station, self._judge, self._access = watcher, station, judge, access
        self._shutter = Shutter(watcher.viewfinder, judge.model.frame, judge.threshold)
        self._viewers = threading.BoundedSemaphore(viewers)

    def page(self, request: Request) -> Response:
        """The page."""
        return _text(_file("page.html"), "text/html")

    def asset(self, request: Request) -> Response:
        """Its style and its script."""
        return _text(_file(request.url.path.removeprefix("/")), FILES[request.url.path])

    def healthz(self, request: Request) -> Response:
        """200 while what lets time pass is alive."""
        return _json({"healthy": self._station.alive()}, 200 if self._station.alive() else 500)

    def readyz(self, request: Request) -> Response:
        """200 while at least one source is really watched."""
        found = self._watcher.ready()
        return _json(
            {"ready": any(found.values()), "sources": list(found.values())}, 200 if any(found.values()) else 503
        )

    def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return _text(metrics.text(self._watcher.state()), metrics.CONTENT_TYPE)

    def state(self, request: Request) -> Response:
        """Everything."""
        return _json(self._watcher.state())

    def frame(self, request: Request) -> Response:
        """The newest frame of a line, by its place."""
        sources = self._station.board.sources
        number = int(request.path_params["number"])
        if number >= len(sources):
            return _json({"error": f"there are {len(sources)} lines"}, 404)
        if not self._viewers.acquire(blocking=False):
            return _json({"error": "too many viewers"}, 503)
        try:
            found = self._shutter.picture(sources[number])
        finally:
            self._viewers.release()
        return _json({"error": "no frame yet"}, 404) if found is None else _jpeg(found[1])

    def event(self, request: Request) -> Response:
        """An event's picture."""
        root = self._station.root
        if root is None:
            return _json({"error": "no events are kept"}, 404)
        if not self._viewers.acquire(blocking=False):
            return _json({"error": "too many viewers"}, 503)
        try:
            decode(request.path_params["id"])
            database = Database(root, readonly=True)
            try:
                event = database.get(request.path_params["id"])
            finally:
                database.close()
            if not event.image:
                raise DataError("the event has no picture")
            return _jpeg(pictures.of_event(root, event, self._judge.model.frame, self._judge.threshold), keep=True)
        except (DataError, ValueError) as error:
            return _json({"error": str(error)}, 404)
        finally:
            self._viewers.release()

    async def acknowledge(self, request: Request) -> Response:
        """An alarm has been seen: {"id": ..., "by": ...}."""
        from starlette.concurrency import run_in_threadpool

        body = await _body(request)
        try:
            wanted = _acknowledged.decode(body)
            if self._station.root is None:
                raise DataError("no events are kept")
            written = await run_in_threadpool(acknowledge, self._station.root, wanted.id, wanted.by, Clock())
        except (MtkdError, *UNREADABLE) as error:
            return _json({"error": str(error)}, 400)
        return _json(written)

    async def trigger(self, request: Request) -> Response:
        """A part is there: {"source": ..., "part": ...} -> {"part": its id}."""
        body = await _body(request)
        try:
            wanted = _triggered.decode(body)
            return _json({"part": self._station.parts.trigger(wanted.source, wanted.part)})
        except (MtkdError, *UNREADABLE) as error:
            return _json({"error": str(error)}, 400)

    async def login(self, request: Request) -> Response:
        """The token, from the form."""
        from urllib.parse import parse_qs

        from starlette.responses import RedirectResponse

        if request.method == "GET":
            return _text(_file("login.html"), "text/html")
        given = parse_qs((await _body(request)).decode("ascii", "replace")).get("token", [""])[0].strip()
        if not self._access.allows(given):
            return _text(
                _file("login.html").replace("<!-- wrong -->", "<p>That is not the token.</p>"), "text/html", 403
            )
        return self._enter(RedirectResponse("/", 303, HEADERS))

    def _enter(self, response: Response) -> Response:
        response.set_cookie(COOKIE, self._access.token, httponly=True, samesite="strict", max_age=30 * 86400)
        return response

    async def gate(self, request: Request, call_next: Any) -> Response:
        """Every request passes here first: the host, where it comes from, then the token."""
        from starlette.responses import RedirectResponse

        host = request.headers.get("host", "")
        if not self._access.knows(host):
            return _json({"error": "this name is not served here"}, 421)
        if not self._access.token and request.method == "POST" and _foreign(request):
            return _json({"error": "another page asks, and is not answered"}, 403)
        if request.url.path not in OPEN and not self._allowed(request):
            if request.url.path != "/":
                return _json({"error": "the token is wanted"}, 401)
            if not self._access.allows(request.query_params.get("token", "")):
                return RedirectResponse("/login", 303, HEADERS)
            return self._enter(RedirectResponse("/", 303, HEADERS))  # the token leaves the address bar
        response: Response = await call_next(request)
        return response

    def _allowed(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        bearer = given.strip() if kind.lower() == "bearer" else ""
        return self._access.allows(bearer) or self._access.allows(request.cookies.get(COOKIE, ""))


def _foreign(request: Request) -> bool:
    """Whether another page's script asks. Browsers name the page that a POST comes from; without a token it could be
    any page in the world, with one the cookie stays away from it."""
    host = request.headers.get("host", "")
    return bool(request.headers.get("origin", f"//{host}").partition("//")[2] != host)


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `/api/acknowledge` takes."""

    id: str
    by: str = "the page"


class Triggered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `/api/trigger` takes."""

    source: str
    part: str = ""


_acknowledged = msgspec.json.Decoder(Acknowledgement)
_triggered = msgspec.json.Decoder(Triggered)


def application(pages: Pages) -> Starlette:
    """The application. Raises MissingExtraError without Starlette."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise MissingExtraError("starlette", "serve", "the page") from error
    routes = [
        Route("/", pages.page),
        *(Route(path, pages.asset) for path in FILES),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/healthz", pages.healthz),
        Route("/readyz", pages.readyz),
        Route("/metrics", pages.metrics),
        Route("/api/state", pages.state),
        Route("/api/frame/{number:int}.jpg", pages.frame),
        Route("/api/event/{id}.jpg", pages.event),
        Route("/api/acknowledge", pages.acknowledge, methods=["POST"]),
        Route("/api/trigger", pages.trigger, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=pages.gate)])


async def _body(request: Request) -> bytes:
    """At most LARGEST bytes; what is beyond is not read."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            return b""
    return body


def _file(name: str) -> str:
    return (resources.files("mtkd_edge.device.serve") / "page" / name).read_text()


def _text(text: str, kind: str, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(text, status, HEADERS, kind)


def _json(value: object, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(msgspec.json.encode(value), status, HEADERS, "application/json")


def _jpeg(data: bytes, *, keep: bool = False) -> Response:
    from starlette.responses import Response

    kept = {"Cache-Control": "private, max-age=86400"} if keep else {}
    return Response(data, 200, {**HEADERS, **kept}, "image/jpeg")
