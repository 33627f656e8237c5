"""Addresses of streams without their secrets: what may stand in a name, a log or a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "udp")
"""Streams that FFmpeg, inside OpenCV, reads."""
_LOGIN = re.compile(r"(?<=://)\S*@")  # greedy: a password may hold an unescaped @ or /
_SECRET = re.compile(r"(?i)([?&;][^=&;]*(?:user|login|account|pass|pwd|token|key|auth|secret|sig|cred)[^=&;]*=)[^&;#]*")

_KEY = r"[\w-]*(?:user|login|account|pass|pw|token|key|auth|secret|cred)[\w-]*"
_PROPERTY = re.compile(
    rf"(?i)(?<![^\s:])({_KEY}\s*=\s*)"
    r"""(?:"(?:\\.|[^"\\])*(?:"|$)|'[^']*(?:'|$)|\\(?:.|$)|[^\s"'\\])+"""
)
"""A property of an element of GStreamer, such as user-pw=... of rtspsrc, quoted as for a shell or not to its end."""
_WORD = re.compile(rf"(?is)({_KEY}=).+")
_BARE = re.compile(rf"(?i){_KEY}=?")


def scheme(text: str) -> str:
    """ "rtsp" for "rtsp://camera/1", "" where there is no scheme."""
    head, found, _ = text.partition("://")
    return head.lower() if found else ""


def redact(text: str, pipeline: bool = False) -> str:
    """The address with login and secret-looking parameters starred out; anything else as it is.

    `pipeline`: it is one of GStreamer's, whose elements have their secrets as properties.
    """
    if pipeline:
        text = _PROPERTY.sub(r"\1***", text)
    if not scheme(text):
        return text
    return _SECRET.sub(r"\1***", _LOGIN.sub("***@", text))


def redact_words(words: Sequence[str]) -> str:
    """A pipeline whose quotes a shell has taken already, in one line, as `redact` shows it."""
    shown, hide = [], False
    for word in words:
        shown.append("***" if hide and word != "=" else redact(_WORD.sub(r"\1***", word)))
        hide = bool(_BARE.fullmatch(word)) or (hide and word == "=")
    return " ".join(shown)
