"""Addresses of streams without their secrets: what may stand in a name, a log or a verdict."""

from __future__ import annotations

import re

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "udp")
"""Streams that FFmpeg, inside OpenCV, reads."""
_LOGIN = re.compile(r"(?<=://)\S*@")  # greedy: a password may hold an unescaped @ or /
_SECRET = re.compile(r"(?i)([?&;][^=&;]*(?:user|login|account|pass|pwd|token|key|auth|secret|sig|cred)[^=&;]*=)[^&;#]*")

_PROPERTY = re.compile(
    r"(?i)(?<![^\s:])([\w-]*(?:user|login|account|pass|pw|token|key|auth|secret|cred)[\w-]*\s*=\s*)"
    r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^\s"'\\])+"""
)
"""A property of one of GStreamer's elements, such as user-pw=... of rtspsrc, whose value may be quoted in parts."""


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
