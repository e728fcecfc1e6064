"""The yaml files of Once-for-All's and ProxylessNAS's latency tables: a strict reader and a writer.

In: one file. Out: key -> Entry, or text. Rules kept: the file is one mapping of keys to `{count, mean, std}` (or
ProxylessNAS's `var`, or the mean alone), all in milliseconds; a key stands once; tags, anchors and aliases, which can
make a small file a huge value, are refused; numbers are finite; what is written is what was read, number by number.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_edge.errors import BadFile
from ofa_edge.files import read_bytes

# A table of one resolution has about 15 kB.
MAX_BYTES = 8 << 20
_MAX_COUNT = 10**9
_FIELDS = ("count", "mean", "std", "var")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HINT = "a row looks like 'Logits-input:1x1x1536-output:1000: {count: 499, mean: 0.656, std: 0.077}'"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: mean in ms, and where the file says so how many runs it is of and their standard deviation in ms."""

    mean: float
    count: int | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class YamlTable:
    """A file as read; `ignored` are fields of its rows that no table of ours holds."""

    path: Path
    sha256: str
    rows: Mapping[str, Entry]
    ignored: tuple[str, ...] = ()


def read(path: Path) -> YamlTable:
    """Read a file.

    Raises:
        UsageError: it cannot be opened.
        BadFile: it is no such table; the message says which line.
    """
    data = read_bytes(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadFile(f"{path} is larger than {MAX_BYTES >> 20} MB: it is no table of one resolution", hint=_HINT)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not a yaml file: {error.reason} at byte {error.start}", hint=_HINT) from error
    ignored: set[str] = set()
    rows: dict[str, Entry] = {}
    for key, value, line in _mapping(text, path):
        if key in rows:
            raise BadFile(f"{path} line {line}: key {key[:120]!r} stands twice", hint=_HINT)
        try:
            rows[key] = _entry(value)
        except ValueError as error:
            raise BadFile(f"{path} line {line}: {key[:120]}: {error}", hint=_HINT) from error
        if isinstance(value, dict):
            ignored |= value.keys() - set(_FIELDS)
    if not rows:
        raise BadFile(f"{path} has no rows", hint=_HINT)
    return YamlTable(path, hashlib.sha256(data).hexdigest(), rows, tuple(sorted(ignored)))


def text(rows: Mapping[str, Entry], *, variance: bool = False) -> str:
    """The file of some rows, as PyYAML writes it: keys sorted, block style.

    Args:
        variance: write `var`, as ProxylessNAS's tables have it, for `std`.
    """
    lines = []
    for key, entry in sorted(rows.items()):
        fields: dict[str, str] = {}
        if entry.count is not None:
            fields["count"] = str(entry.count)
        fields["mean"] = _float(entry.mean)
        if entry.std is not None:
            fields |= {"var": _float(entry.std**2)} if variance else {"std": _float(entry.std)}
        lines += [f"{key}:", *(f"  {name}: {value}" for name, value in fields.items())]
    return "\n".join(lines) + "\n"


def _float(value: float) -> str:
    """As YAML 1.1 wants it: 1e-05 without a point would be read back as text."""
    said = repr(float(value))
    return said.replace("e", ".0e", 1) if "e" in said and "." not in said else said


def _mapping(text: str, path: Path) -> Iterator[tuple[str, Any, int]]:
    """(key, value, line) of the one mapping in a yaml text; values are texts of numbers, or a dict of them."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    key: str | None = None
    inner: dict[str, str] | None = None
    field: str | None = None
    depth = 0
    started = False
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            _plain(event, yaml, path, line)
            if isinstance(event, yaml.DocumentStartEvent):
                if started:
                    raise BadFile(f"{path} line {line}: a second document begins here", hint=_HINT)
                started = True
            elif isinstance(event, yaml.MappingStartEvent):
                depth += 1
                if depth > 2 or (depth == 2 and key is None):
                    raise BadFile(f"{path} line {line}: values nested too deeply", hint=_HINT)
                inner = {} if depth == 2 else None
            elif isinstance(event, yaml.MappingEndEvent):
                depth -= 1
                if depth == 1 and key is not None:
                    yield key, inner, line
                    key, inner = None, None
            elif isinstance(event, yaml.ScalarEvent):
                if depth == 0:
                    raise BadFile(f"{path} line {line} is not a table: there is a lone value", hint=_HINT)
                if depth == 1:
                    if key is None:
                        key = event.value
                    else:
                        yield key, event.value, line
                        key = None
                elif field is None:
                    field = event.value
                    if inner is not None and field in inner:
                        raise BadFile(f"{path} line {line}: {field[:40]!r} stands twice in one row", hint=_HINT)
                elif inner is not None:
                    inner[field], field = event.value, None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise BadFile(f"{path}{where} is not a yaml file: {reason}", hint=_HINT) from error


def _plain(event: Any, yaml: Any, path: Path, line: int) -> None:
    """Raises BadFile for what makes yaml more than a table: aliases, anchors, tags and lists."""
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise BadFile(f"{path} line {line}: anchors and aliases are refused", hint="write every row out")
    if getattr(event, "tag", None) is not None and not isinstance(event, yaml.DocumentStartEvent):
        raise BadFile(f"{path} line {line}: tag {str(event.tag)[:60]!r} is refused", hint=_HINT)
    if isinstance(event, yaml.SequenceStartEvent):
        raise BadFile(f"{path} line {line}: a list is no table", hint=_HINT)


def _entry(value: Any) -> Entry:
    """Raises ValueError."""
    if not isinstance(value, dict):
        return Entry(_positive("mean", value))
    if "mean" not in value:
        raise ValueError("it has no mean")
    count = value.get("count")
    if count is not None and not (re.fullmatch("[0-9]{1,10}", count) and 1 <= int(count) <= _MAX_COUNT):
        raise ValueError(f"count {count[:40]!r} is no number of runs")
    std = None
    if "std" in value:
        std = number("std", value["std"])
    elif "var" in value:
        std = math.sqrt(number("var", value["var"]))
    return Entry(_positive("mean", value["mean"]), None if count is None else int(count), std)


def number(name: str, text: str) -> float:
    """A finite number that is not negative; Python's own `float` reads '1_0', 'nan' and more.

    Raises:
        ValueError: it is none; says so, calling it `name`.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r} is not a number")
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {text[:40]} is {'negative' if value < 0 else 'out of range'}")
    return value


def _positive(name: str, text: str) -> float:
    value = number(name, text)
    if value <= 0:
        raise ValueError(f"{name} {text[:40]} is impossible: nothing takes no time")
    return value
