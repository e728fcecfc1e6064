"""The one JSON loader and writer of the host.

In: text or bytes from a file, a device or a user. Out: plain Python values. Rules kept: no duplicate
keys, no NaN or Infinity, no number that overflows to infinity, no nesting that exhausts the stack; what
is written is ASCII, so it can be read back under any locale. `json.loads` alone accepts all of these.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
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


def rows(lines: Sequence[bytes]) -> list[Any]:
    """What `loads` makes of each of many lines (without their newlines), in half the time.

    Raises:
        BadLine: `loads` refuses one.
    """
    found: list[Any] = []
    for start in range(0, len(lines), _AT_ONCE):
        part = lines[start : start + _AT_ONCE]
        values = _flat(part)
        if values is None:
            values = []
            for number, line in enumerate(part, start):
                try:
                    values.append(loads(line))
                except ValueError as error:
                    raise BadLine(number, str(error)) from error
        found += values
    return found


class BadLine(ValueError):
    """A line that is refused: its number, from 0, and why."""

    def __init__(self, number: int, reason: str):
        super().__init__(reason)
        self.number = number


_AT_ONCE = 200
# Digits as 0 and exponents as e, so that a number which could overflow a double is one text of these.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE = (b"0e000", b"0e+000", b"0" * 200)
# Blanks that could stand between a key and its colon; backslashes, without which every quote begins or ends a string.
_UNUSUAL = (b"\\", b"\t", b"\r", b" :")


def _flat(lines: Sequence[bytes]) -> list[Any] | None:
    """Lines that are objects which hold no objects, parsed in one go; None where they are, or may be, anything else.

    The parser's hooks, which refuse repeated keys and infinite numbers, cost more than its parsing, so this is seen
    from the bytes. Strings hold no newline. So where every newline stands between two braces, and there are no other
    braces, each line is one object. Every key's closing quote is followed by its colon: where there are as many of
    these as keys were read, none stood twice.
    """
    text = b",\n".join(lines)
    count = len(lines)
    if (
        text.count(b"{") != count
        or text.count(b"}") != count
        or text.count(b"},\n{") != count - 1
        or text[:1] != b"{"
        or text[-1:] != b"}"
        or not text.isascii()
        or any(odd in text for odd in _UNUSUAL)
    ):
        return None
    shape = text.translate(_SHAPE)
    if any(large in shape for large in _LARGE):
        return None
    try:
        values: list[Any] = _PLAIN.decode(f"[{text.decode()}]")
    except (ValueError, RecursionError):
        return None
    return values if text.count(b'":') == sum(map(len, values)) else None


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


_PLAIN = json.JSONDecoder(parse_constant=_refuse)
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse)
