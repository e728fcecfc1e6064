"""The files a page is made from, told apart by what is in them.

In: paths. Out: `Sources`: latency tables, accuracy tables, selections (of families too) and predictors, each read by
its own strict reader, and a line a file for the page. Rules kept: a file's name decides nothing; a file given twice
counts once; what cannot be read ends the command, naming the file; only the last part of a path reaches the page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ofa_edge import journal, strict_json
from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import BadFile
from ofa_edge.files import read_bytes
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search import families, selection
from ofa_edge.search.families import Family
from ofa_edge.search.selection import Selection

# A file that begins as JSON is read as far as families of selections go, to see what it is.
_MOST = families.MAX_FILE_BYTES
_TAKEN = "a latency table, an accuracy table, a selection or a predictor"


@dataclass(frozen=True, slots=True)
class Source:
    """A line of the page's list of files.

    Attributes:
        name: last part of the path.
        kind: in words.
        about: what it is of.
        sha256: hex digest of the file.
    """

    name: str
    kind: str
    about: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A selection, alone or of a family.

    Attributes:
        origin: its file, in words.
        mode: its name in a family of several.
        device: that a family says it is for.
    """

    origin: str
    mode: str | None
    device: str | None
    selection: Selection


@dataclass(frozen=True)
class Sources:
    """All that was given; each list in the order of the files."""

    files: list[Source] = field(default_factory=list)
    latency: list[LatencyTable] = field(default_factory=list)
    accuracy: list[tuple[str, AccuracyTable]] = field(default_factory=list)
    selections: list[Choice] = field(default_factory=list)
    predictors: list[tuple[str, family.Fitted]] = field(default_factory=list)


def read(paths: Sequence[Path]) -> Sources:
    """Read all files.

    Raises:
        UsageError: one cannot be opened.
        BadFile: one is none of what a page is made from, or is damaged.
    """
    found = Sources()
    seen: set[str] = set()
    for path in paths:
        read_one = _READERS[_kind(path)]
        digest = hashlib.sha256(read_bytes(path)).hexdigest()
        if digest not in seen:
            seen.add(digest)
            kind, about = read_one(path, found)
            found.files.append(Source(path.name, kind, about, digest))
    return found


def _latency(path: Path, found: Sources) -> tuple[str, str]:
    table = replace(LatencyTable.read(path), path=path.name)
    found.latency.append(table)
    sizes = table.header.resolutions
    about = f"{table.conditions.device_model}, {table.conditions.runtime}; {table.header.space}"
    return "latency table", f"{about} at {min(sizes)} to {max(sizes)} px{_unfinished(table.complete)}"


def _accuracy(path: Path, found: Sources) -> tuple[str, str]:
    table = AccuracyTable.read(path)
    found.accuracy.append((path.name, table))
    about = f"{table.space.name}, {len(table.frame)} rows; images: {table.header.data}"
    return "accuracy table", about + _unfinished(table.complete)


def _unfinished(complete: bool) -> str:
    return "" if complete else ", not finished"


def _selection(path: Path, found: Sources) -> tuple[str, str]:
    chosen = Selection.read(path)
    found.selections.append(Choice(path.name, None, None, chosen))
    runs = "" if chosen.runs_on is None else f", {chosen.runs_on}"
    return "selection", f"{chosen.space.name} within {chosen.budget}{runs}"


def _family(path: Path, found: Sources) -> tuple[str, str]:
    whole = families.read(path)
    assert isinstance(whole, Family)  # it says so, or its reader refuses it
    what = "one subnet for all" if whole.common else f"{len(whole.members)} selections"
    modes = f", modes {', '.join(whole.modes)}" if whole.modes else ""
    origin = f"{path.name}, {what}" if whole.common else path.name
    for member, device in zip(whole.members, _devices(whole), strict=True):
        found.selections.append(Choice(origin, member.mode, device, member.selection))
    return "family of selections", f"{whole.space.name}, {what}{modes}"


def _devices(whole: Family) -> list[str]:
    """What each member's device is called."""
    written = [member.conditions.model_dump_json() for member in whole.members]
    known = dict(zip(written, (member.conditions for member in whole.members), strict=True))
    names = dict(zip(known, families.labels(list(known.values())), strict=True))
    return [names[one] for one in written]


def _predictor(path: Path, found: Sources) -> tuple[str, str]:
    fitted = family.load(path)
    found.predictors.append((path.name, fitted))
    return "accuracy predictor", f"{fitted.predictor.kind}, {fitted.predictor.space.name}; images: {fitted.data}"


# Each adds what it reads, and gives its kind and what it is of.
_READERS: dict[str, Callable[[Path, Sources], tuple[str, str]]] = {
    "latency-table": _latency,
    "accuracy-table": _accuracy,
    selection.SCHEMA: _selection,
    families.SCHEMA: _family,
    family.SCHEMA: _predictor,
}


def _kind(path: Path) -> str:
    """The schema that a file names.

    Raises:
        UsageError: it cannot be opened.
        BadFile: it names none of those that are read here.
    """
    head = read_bytes(path, _MOST + 1)
    if head[8:9] == b"{":  # safetensors: the length of a header, then the header; its reader looks further
        return family.SCHEMA
    first = head.split(b"\n", 1)[0]
    for text, known in ((first, ("latency-table", "accuracy-table")), (head, (selection.SCHEMA, families.SCHEMA))):
        schema = _schema(text)
        if schema in known:
            return schema
    if head.startswith(b'{"record"'):
        said = journal.schema(path)  # a header that is damaged, or of a journal that is no table
        raise BadFile(f"{path} is a {said[:60]}, which no page is made from", hint=f"give {_TAKEN}")
    raise BadFile(
        f"{path} is not {_TAKEN}", hint="`ofa-edge profile`, `evaluate`, `select --out` and `predictor fit` write them"
    )


def _schema(text: bytes) -> str | None:
    try:
        value: Any = strict_json.loads(text)
    except ValueError:
        return None
    found = value.get("schema") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
