"""Where the pictures of an event lie: the one definition, for who writes, reads, sweeps and deletes them."""

from __future__ import annotations

import re

FOLDER = "pictures"
ID = re.compile("[0-9A-Za-z]{1,26}")


def picture_names(event: str) -> tuple[str, str]:
    """Paths below the store's folder of the image and the heat map that an event may have.

    Empty for what is no id: one of a store from elsewhere must not make us show, send or delete other files.
    """
    if not ID.fullmatch(event):
        return "", ""
    stem = f"{FOLDER}/{event[:6]}/{event}"
    return f"{stem}.jpg", f"{stem}-heat.png"
