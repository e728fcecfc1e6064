"""Strict JSON and typed fields: the ground the wire and the release files stand on.

In: bytes of a peer or a file that may be broken or hostile. Out: plain Python values of the type and range that was
asked for, or a WireError. Rules kept: no NaN, Infinity, 1e999, repeated keys, long numbers or deep nesting; a missing
or an unknown field is an error; text holds no control or direction characters, so that a terminal may show it; the
work is linear in the bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_TEXT = 4096
MAX_DEPTH = 64
"""Levels of lists and objects; the deepest message has seven. Far below what any interpreter's recursion allows."""
_MAX_DIGITS = 20
_MAX_NUMBER = 40  # characters; the longest double that Python writes has 24


class WireError(ValueError):
    """A line or a field that is not what this module defines."""


def loads(data: str | bytes) -> Any:
    """Strict JSON.

    Raises:
        WireError: no JSON, NaN or Infinity in any spelling, a number beyond a double, an integer of more
            than 20 digits, a number of more than 40 characters, a repeated key, nesting deeper than MAX_DEPTH, bytes
            that are not UTF-8.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(
            text, parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object
        )
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {clean(str(error))}") from error
    _require_shallow(value)
    return value


def dumps(value: Any) -> str:
    """One line of strict JSON, keys in the order given, ASCII only."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def canonical(value: Any) -> bytes:
    """The one spelling of a value that is hashed: compact, keys sorted, ASCII (as ofa_edge.strict_json's)."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":")).encode("ascii")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text without control characters, lone surrogates or more than `limit` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _require_shallow(value: Any) -> None:
    """Level by level, because a recursion here would end where the nesting is too deep for one."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [item for item in level if isinstance(item, (dict, list))]
        if not inner:
            return
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
    raise WireError(f"nested deeper than {MAX_DEPTH} levels")


def _constant(name: str) -> NoReturn:
    raise WireError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    if len(text) > _MAX_NUMBER:
        raise WireError(f"a number of {len(text)} characters")
    value = float(text)
    if not math.isfinite(value):
        raise WireError(f"{text[:40]} does not fit a double")
    return value


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise WireError(f"an integer of {len(text)} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise WireError("a key is repeated in an object")
    return value


class Fields:
    """Takes typed fields out of one JSON object; `done` refuses what nobody took.

    `what` names the object in error messages.
    """

    def __init__(self, what: str, value: Any):
        if not isinstance(value, Mapping):
            raise WireError(f"{what} must be an object")
        self.what = what
        self._rest = dict(value)

    def take(self, name: str) -> Any:
        if name not in self._rest:
            raise WireError(f"{self.what} has no {name!r}")
        return self._rest.pop(name)

    def has(self, name: str) -> bool:
        return name in self._rest

    def done(self) -> None:
        if self._rest:
            raise WireError(f"{self.what} has an unknown field {clean(sorted(self._rest)[0], 60)!r}")

    def text(self, name: str, pattern: str = "", limit: int = MAX_TEXT) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > limit or not value.isprintable():
            raise self._bad(name, f"printable text of at most {limit} characters")
        if pattern and not re.fullmatch(pattern, value):
            raise self._bad(name, f"text of the form {pattern}")
        return value

    def whole(self, name: str, low: int = 0, high: int = 1 << 62) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float = 0.0, high: float = 1e15) -> float:
        value = self.take(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def object(self, name: str) -> dict[str, Any]:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self._bad(name, "an object")
        return value

    def sha256(self, name: str) -> str:
        return self.text(name, "[0-9a-f]{64}")

    def items(self, name: str, limit: int) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._bad(name, f"a list of at most {limit} entries")
        return value

    def wholes(self, name: str, limit: int, low: int = 0, high: int = 1 << 31) -> tuple[int, ...]:
        values = self.items(name, limit)
        if not all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= high for v in values):
            raise self._bad(name, f"whole numbers from {low} to {high}")
        return tuple(values)

    def maybe(self, name: str) -> bool:
        """Is there a value other than null? A null is taken."""
        if name not in self._rest:
            raise WireError(f"{self.what} has no {name!r}")
        if self._rest[name] is None:
            del self._rest[name]
            return False
        return True

    def _bad(self, name: str, want: str) -> WireError:
        return WireError(f"{self.what}: {name!r} must be {want}")
