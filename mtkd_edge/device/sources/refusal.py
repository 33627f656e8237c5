"""Why a stream gives no picture: its host is silent, or it refuses our login. FFmpeg, inside OpenCV, says neither.

One request over a connection of our own. Whether anybody is there: OPTIONS for RTSP (RFC 2326), which any server
answers at once. DESCRIBE makes some set up their encoder, and tear it down when we leave: whoever comes then is refused
for a while. So it is for finding out what was refused, with the login of the address by Basic or Digest (RFC 7617, RFC
7616 with MD5). Over HTTP both are a GET. A camera that answers in any other way is not refused here: whether it can be
read is FFmpeg's to say. TLS certificates are not checked, as FFmpeg does not.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
MOST = 1 << 14
"""Bytes of an answer's head."""
_STATUS = re.compile(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})")
_CHALLENGE = re.compile(r"(?im)^www-authenticate:[ \t]*(basic|digest)\b([^\r\n]*)")
_WORD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is for people and holds no secret; `login`: it is our login that is refused."""

    reason: str
    login: bool = False


def reach(address: str, timeout: float) -> Refusal | None:
    """What speaks against anybody being there; None where nothing does, and for streams that cannot be asked."""
    return _ask(address, timeout, whole=False)


def ask(address: str, timeout: float) -> Refusal | None:
    """What speaks against opening a stream; None where nothing does, and for streams that cannot be asked."""
    return _ask(address, timeout, whole=True)


def _ask(address: str, timeout: float, whole: bool) -> Refusal | None:
    try:
        place = urlsplit(address)
        port = place.port or PORTS.get(place.scheme.lower())
        if place.scheme.lower() not in PORTS or not place.hostname or port is None:
            return None
        method = ("DESCRIBE" if whole else "OPTIONS") if _rtsp(place) else "GET"
        status, head = _request(place, port, method, "", timeout)
        if status != 401:
            return _judge(status, whole)
        if place.username is None:
            return Refusal("it wants a login (401), and the address has none", login=True)
        answer = _answer(head, method, _uri(place), unquote(place.username), unquote(place.password or ""))
        return _judge(_request(place, port, method, answer, timeout)[0], whole) if answer else None
    except ValueError:
        return None  # an address that only FFmpeg understands
    except TimeoutError:
        return Refusal("no answer")
    except OSError:
        return Refusal("no connection")


def _judge(status: int, whole: bool) -> Refusal | None:
    """Whether it gives the stream is asked for `whole` alone: to be told, FFmpeg tries again all the same."""
    if status in (401, 403):
        return Refusal(f"it refuses the login ({status})", login=True)
    return Refusal(f"it answers, and gives no such stream ({status})") if whole and status >= 400 else None


def _rtsp(place: SplitResult) -> bool:
    return place.scheme.lower().startswith("rtsp")


def _uri(place: SplitResult) -> str:
    """The request's address: whole for RTSP, without login; the path for HTTP."""
    path = (place.path or "/") + (f"?{place.query}" if place.query else "")
    bare = place.netloc.rpartition("@")[2]
    return f"{place.scheme}://{bare}{path}" if _rtsp(place) else path


def _request(place: SplitResult, port: int, method: str, login: str, timeout: float) -> tuple[int, str]:
    """One request on a connection of its own -> status (0: not understood) and head. Raises OSError."""
    host = place.hostname or ""
    lines = [f"{method} {_uri(place)} {'RTSP/1.0' if _rtsp(place) else 'HTTP/1.1'}"]
    lines += ["CSeq: 1", "Accept: application/sdp"] if _rtsp(place) else [f"Host: {host}:{port}", "Connection: close"]
    lines += ["User-Agent: mtkd-edge"] + ([f"Authorization: {login}"] if login else [])
    with (
        socket.create_connection((host, port), timeout) as plain,
        _secured(plain, host, place.scheme.lower() in ("rtsps", "https")) as connection,
    ):
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        head = b""
        while b"\r\n\r\n" not in head and len(head) < MOST and (chunk := connection.recv(4096)):
            head += chunk
    found = _STATUS.match(head)
    return int(found[1]) if found else 0, head.decode("latin-1")


def _secured(plain: socket.socket, host: str, tls: bool) -> socket.socket:
    if not tls:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def _answer(head: str, method: str, uri: str, user: str, password: str) -> str:
    """What answers a challenge; "" for one that is not known."""
    challenges = {found[1].lower(): found[2] for found in _CHALLENGE.finditer(head)}
    if "digest" in challenges:
        words = {name.lower(): quoted or bare for name, quoted, bare in _WORD.findall(challenges["digest"])}
        return _digest(words, method, uri, user, password)
    if "basic" in challenges:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return ""


def _digest(words: dict[str, str], method: str, uri: str, user: str, password: str) -> str:
    realm, nonce = words.get("realm", ""), words.get("nonce", "")
    if words.get("algorithm", "MD5").upper() != "MD5":
        return ""
    secret, what = _md5(f"{user}:{realm}:{password}"), _md5(f"{method}:{uri}")
    parts = {"username": user, "realm": realm, "nonce": nonce, "uri": uri}
    if "auth" in re.split(r"[\s,]+", words.get("qop", "")):
        once = secrets.token_hex(8)
        response = _md5(f"{secret}:{nonce}:00000001:{once}:auth:{what}")
        more = f', qop=auth, nc=00000001, cnonce="{once}"'
    else:
        response, more = _md5(f"{secret}:{nonce}:{what}"), ""
    if "opaque" in words:
        more += f', opaque="{words["opaque"]}"'
    shown = ", ".join(f'{name}="{value}"' for name, value in parts.items())
    return f'Digest {shown}, response="{response}"{more}'


def _md5(text: str) -> str:
    # what the protocol wants; nothing here relies on it being hard to break
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
