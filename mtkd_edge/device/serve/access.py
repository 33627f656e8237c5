"""Who may look: whoever has the token. Beyond loopback there is no page without a token that the user has set.

A token comes once in the address (`/?token=...`) and is then kept by the browser as a cookie that no script can read
and no other site can use; programs send it as `Authorization: Bearer ...`.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import secrets
import socket

import msgspec

from mtkd_edge.errors import UsageError

COOKIE = "mtkd_edge_token"
SHORTEST = 16
"""Characters of a token of the user's own."""


class Access(msgspec.Struct, frozen=True):
    """`token`: "" lets everybody in. `made`: it was made here, and is shown once. `hosts`: names a browser may use when
    there is no token (a foreign site may point its own name at this machine)."""

    token: str
    made: bool
    hosts: frozenset[str] = frozenset()

    def allows(self, given: str) -> bool:
        """Whether this is the token; takes as long for a wrong one as for the right one."""
        return not self.token or hmac.compare_digest(given.encode(), self.token.encode())

    def knows(self, host: str) -> bool:
        """Whether the Host header of a request is one of ours; any is where a token protects the page."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return bool(self.token) or name.strip("[]").lower() in self.hosts


def access(host: str, token: str, *, open_: bool) -> Access:
    """The rule for a page on `host`. Raises UsageError for one that would let in whoever reaches it."""
    if token and len(token) < SHORTEST:
        raise UsageError(
            f"the token of the page has {len(token)} characters, at least {SHORTEST} are wanted", "openssl rand -hex 16"
        )
    if token and open_:
        raise UsageError("[serve] is open and has a token: one of them is meant", "leave `open` out")
    if not (token or is_loopback(host)):
        raise UsageError(
            f"the page on {host} would be open to everybody who reaches this machine",
            "set token_file or token_env in [serve], or listen on 127.0.0.1",
        )
    if token:
        return Access(token, made=False)
    if open_:
        return Access("", made=False, hosts=frozenset({"localhost", "127.0.0.1", "::1", host.lower()}))
    return Access(secrets.token_urlsafe(24), made=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address. Raises UsageError for a name that means nothing here."""
    with contextlib.suppress(ValueError):  # a name, not an address
        return ipaddress.ip_address(host).is_loopback
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise UsageError(f"{host!r} is no address of this machine: {error.strerror}", "127.0.0.1:8080") from error
    return all(ipaddress.ip_address(address).is_loopback for address in found)
