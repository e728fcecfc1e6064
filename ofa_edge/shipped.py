"""Where the files lie that come with the package and are no part of its code.

In: nothing. Out: paths. A wheel holds the tables as ofa_edge/tables and the examples as ofa_edge/examples, a checkout
both outside of the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def tables() -> Path:
    """The folder with accuracy/ and latency/ tables; see its README."""
    inside = _PACKAGE / "tables"
    return inside if inside.is_dir() else _PACKAGE.parent / "tables"


def examples() -> Path:
    """The folder with examples for applications and services."""
    inside = _PACKAGE / "examples"
    return inside if inside.is_dir() else _PACKAGE.parent / "docs" / "examples"


def preprocess() -> Path:
    """The module that an application takes along to feed a network as it was trained."""
    return _PACKAGE / "preprocess.py"
