"""Passwords and tokens: from a file or an environment variable, never from the configuration itself, never shown."""

from __future__ import annotations

import os
from pathlib import Path

from mtkd_edge.errors import UsageError


def secret(key: str, file: str, env: str, base: Path) -> str:
    """The secret behind `<key>_file` or `<key>_env`, without the line end; "" where neither is set.

    A relative path starts at `base`. Raises UsageError, naming key and place but nothing of the content, where both are
    set or where there is nothing.
    """
    if file and env:
        raise UsageError(f"{key}_file and {key}_env are both set", f"keep one of {key}_file and {key}_env")
    if env:
        value, where = os.environ.get(env, ""), f"the environment variable {env} ({key}_env)"
    elif file:
        value, where = _read(base / file, key), f"{file} ({key}_file)"
    else:
        return ""
    value = value.rstrip("\r\n")
    if not value:
        raise UsageError(f"{where} is empty or not set", "write the secret there, and nothing else")
    if "\n" in value:
        raise UsageError(f"{where} holds more than one line", "write the secret there, and nothing else")
    return value


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UsageError(
            f"{path} ({key}_file) cannot be read: {error.strerror}", f"chmod 600, then {key}_file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} ({key}_file) is no text", "write the secret there, and nothing else") from error
