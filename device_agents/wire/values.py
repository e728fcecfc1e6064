"""Values of the wire: dataclasses whose annotations say what may come in a field.

In: a class of fields `name: Annotated[type, rule]`. Out: its `parse`. Rule kept: what parses has every field, in its
type and range, and no other. (Their modules cannot import annotations from the future: the rules are read off them.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Callable, ClassVar, Optional, TypeVar

from device_agents.strict_json import MAX_TEXT, Fields, WireError, clean

MAX_NAMES = 64
V = TypeVar("V", bound="Value")
Rule = Callable[[Fields, str], Any]
"""Takes the field of that name, or raises WireError."""


class Value:
    """Base of the wire's dataclasses; `what` names one in error messages."""

    what: ClassVar[str]
    rules: ClassVar[Mapping[str, Rule]]

    def __init_subclass__(cls, what: str) -> None:
        cls.what = what
        cls.rules = {name: said.__metadata__[0] for name, said in cls.__annotations__.items()}

    @classmethod
    def parse(cls: type[V], value: Any) -> V:
        """Raises WireError, also where its fields contradict each other."""
        f = Fields(cls.what, value)
        out = cls(**{name: rule(f, name) for name, rule in cls.rules.items()})
        f.done()
        if not out.agrees():
            raise WireError(f"{cls.what} contradicts itself")
        return out

    def agrees(self) -> bool:
        """Whether its fields go together."""
        return True


def text(pattern: str = "", limit: int = MAX_TEXT) -> Rule:
    return lambda f, name: f.text(name, pattern, limit)


def whole(low: int = 0, high: int = 1 << 62) -> Rule:
    return lambda f, name: f.whole(name, low, high)


def number(low: float = 0.0, high: float = 1e15) -> Rule:
    return lambda f, name: f.number(name, low, high)


def wholes(limit: int, low: int = 0, high: int = 1 << 31) -> Rule:
    return lambda f, name: f.wholes(name, limit, low, high)


def maybe(rule: Rule) -> Rule:
    """None for null."""
    return lambda f, name: rule(f, name) if f.maybe(name) else None


def of(kind: type[Value]) -> Rule:
    return lambda f, name: kind.parse(f.take(name))


def each(rule: Rule, limit: int) -> Rule:
    """A tuple of a list's entries."""
    return lambda f, name: tuple(rule(Fields(f.what, {name: item}), name) for item in f.items(name, limit))


def named(rule: Rule) -> Rule:
    """An object whose keys are plain names, few of them."""

    def read(f: Fields, name: str) -> dict[str, Any]:
        values = f.object(name)
        inner, odd = Fields(name, values), [key for key in values if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", key)]
        if odd or len(values) > MAX_NAMES:
            raise WireError(f"{name}: {clean(odd[0], 60)!r} is not a name" if odd else f"{name}: too many")
        return {key: rule(inner, key) for key in values}

    return read


Flag = Annotated[bool, Fields.flag]
Sha256 = Annotated[str, Fields.sha256]
Key = Annotated[str, text(limit=400)]
Words = Annotated[str, text(limit=200)]
Count = Annotated[int, whole()]
MaybeCount = Annotated[Optional[int], maybe(whole())]
Share = Annotated[Optional[float], maybe(number(0.0, 1.0))]
Celsius = Annotated[Optional[float], maybe(number(-100.0, 300.0))]
Throttled = Annotated[Optional[int], maybe(whole(0, 15))]
"""Bits as a Raspberry Pi's firmware numbers them: 0 under-voltage, 1 frequency capped, 2 throttled, 3 soft temperature
limit."""


def to_wire(value: Any) -> dict[str, Any]:
    """The JSON object of one of the wire's dataclasses: what a peer will read, with lists for tuples."""
    plain = _plain(asdict(value))
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
