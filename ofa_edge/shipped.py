"""Where the data lies that comes with the package.

In: nothing. Out: folders. A wheel holds the tables as ofa_edge/tables, a checkout at its top.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def tables() -> Path:
    """The folder with accuracy/ and latency/ tables; see its README."""
    inside = _PACKAGE / "tables"
    return inside if inside.is_dir() else _PACKAGE.parent / "tables"
