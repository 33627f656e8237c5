"""Events by HTTP: one POST each, with the event's id as `Idempotency-Key`, since a POST may be repeated.

Delivered is 2xx. What the other side says about this one event (400, 409, 413, 414, 415, 422) is for good, and counted.
Everything else is about the way: silence, 5xx, 429 with its Retry-After, a token that is no longer right, a redirect,
an address where nothing is. Events then wait, and the page and the log say why. Certificates are checked; a proxy is
taken from the environment as usual.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

import msgspec

from mtkd_edge.device.events.clock import Clock
from mtkd_edge.device.events.record import Event
from mtkd_edge.device.outbox import message
from mtkd_edge.device.outbox.channel import NotDelivered, Refused
from mtkd_edge.device.sources.address import redact

REFUSED = frozenset({400, 409, 413, 414, 415, 422})
"""Answers about this one event. All others (a token that was changed, an address that has moved) are about the way:
events wait for somebody who mends it."""
LONGEST = 300.0
"""Seconds of a Retry-After that are honoured at most: a wrong one must not silence a station."""


class WebhookOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is sent as a bearer token. `timeout` in seconds. `root`: the store's folder, to send photos along."""

    url: str
    station: str
    token: str = ""
    timeout: float = 5.0
    headers: Mapping[str, str] = {}
    root: Path | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Never."""
        return


class Webhook:
    """A channel (`channel.py`)."""

    def __init__(self, options: WebhookOptions, clock: Clock) -> None:
        self.name = redact(options.url)
        self._options, self._clock = options, clock
        self._opener = urllib.request.build_opener(_NoRedirect)

    @property
    def trouble(self) -> str:
        """There is no connection to know of between two requests."""
        return ""

    def send(self, events: Sequence[Event]) -> int:
        """One POST. Raises NotDelivered or Refused."""
        event, options = events[0], self._options
        headers = {
            **options.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": event.id,
            "User-Agent": "mtkd-edge",
        }
        if options.token:
            headers["Authorization"] = f"Bearer {options.token}"
        body = message.encode(event, options.station, options.root)
        request = urllib.request.Request(options.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=options.timeout):
                return 1
        except urllib.error.HTTPError as error:
            with error:
                raise self._failure(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise NotDelivered(
                f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
            ) from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _failure(self, error: urllib.error.HTTPError) -> NotDelivered | Refused:
        if error.code in REFUSED:
            return Refused(f"HTTP {error.code}")
        return NotDelivered(f"HTTP {error.code}", self._after(error.headers.get("Retry-After", "")))

    def _after(self, text: str) -> float:
        """Retry-After, as seconds or as a date, in seconds; 0 where it is neither."""
        try:
            seconds = (
                float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - self._clock.stamp().wall
            )
        except (ValueError, TypeError):
            return 0.0
        return min(LONGEST, max(0.0, seconds))
