"""What the system tells in small text files (/sys, /proc): absent where it is not there, never an error."""

from __future__ import annotations

import re

_MOST = 1 << 16  # characters


def text(path: str) -> str:
    """The file's beginning, "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_MOST)
    except OSError:
        return ""


def whole(path: str) -> int | None:
    """The integer that the file holds; None where it holds none."""
    found = text(path).strip()
    return int(found) if re.fullmatch(r"-?\d{1,20}", found) else None
