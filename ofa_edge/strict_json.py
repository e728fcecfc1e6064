"""The one JSON loader and writer of the host.

In: text or bytes from a file, a device or a user. Out: plain Python values. Rules kept: no duplicate
keys, no NaN or Infinity, no number that overflows to infinity, no nesting that exhausts the stack; what
is written is ASCII, so it can be read back under any locale. `json.loads` alone accepts all of these.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any, NoReturn

_LARGEST = sys.float_info.max


def loads(text: str | bytes) -> Any:
    """Parse one JSON value.

    Raises:
        ValueError: not JSON, not UTF-8, or one of the things this module refuses; callers turn it into
            an error that names the file or host.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Write one JSON value: compact by default, keys in the order given, ASCII only.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, allow_nan=False, indent=indent, separators=separators)


def canonical(value: Any) -> bytes:
    """The one spelling of a value that is hashed or compared: compact, keys sorted, UTF-8."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def sha256(value: Any) -> str:
    """Hex sha256 of the canonical spelling."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {twice[:80]!r}")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if -_LARGEST <= value <= _LARGEST:
        return value
    raise ValueError(f"number {text[:40]} is out of range")


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not allowed")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)
