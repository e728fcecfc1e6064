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
from ofa_edge.errors import BadFile, UsageError
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
        kind = _kind(path)
        digest, add = _READERS[kind](path)
        if digest not in seen:
            seen.add(digest)
            add(found, path.name, digest)
    return found


Add = Callable[[Sources, str, str], None]


def _latency(path: Path) -> tuple[str, Add]:
    table = replace(LatencyTable.read(path), path=path.name)
    sizes = table.header.resolutions
    unfinished = "" if table.complete else ", not finished"

    def add(found: Sources, name: str, digest: str) -> None:
        about = f"{table.conditions.device_model}, {table.conditions.runtime}; {table.header.space}"
        about += f" at {min(sizes)} to {max(sizes)} px{unfinished}"
        found.files.append(Source(name, "latency table", about, digest))
        found.latency.append(table)

    return table.sha256, add


def _accuracy(path: Path) -> tuple[str, Add]:
    table = AccuracyTable.read(path)
    unfinished = "" if table.complete else ", not finished"

    def add(found: Sources, name: str, digest: str) -> None:
        about = f"{table.space.name}, {len(table.frame)} rows; images: {table.header.data}{unfinished}"
        found.files.append(Source(name, "accuracy table", about, digest))
        found.accuracy.append((name, table))

    return table.sha256, add


def _selection(path: Path) -> tuple[str, Add]:
    chosen = Selection.read(path)

    def add(found: Sources, name: str, digest: str) -> None:
        about = f"{chosen.space.name} within {chosen.budget}"
        about += "" if chosen.runs_on is None else f", {chosen.runs_on}"
        found.files.append(Source(name, "selection", about, digest))
        found.selections.append(Choice(name, None, None, chosen))

    return _digest(path), add


def _family(path: Path) -> tuple[str, Add]:
    whole = families.read(path)
    assert isinstance(whole, Family)  # it says so, or its reader refuses it

    def add(found: Sources, name: str, digest: str) -> None:
        what = "one subnet for all" if whole.common else f"{len(whole.members)} selections"
        modes = f", modes {', '.join(whole.modes)}" if whole.modes else ""
        found.files.append(Source(name, "family of selections", f"{whole.space.name}, {what}{modes}", digest))
        origin = f"{name}, {what}" if whole.common else name
        for member, device in zip(whole.members, _devices(whole), strict=True):
            found.selections.append(Choice(origin, member.mode, device, member.selection))

    return _digest(path), add


def _devices(whole: Family) -> list[str]:
    """What each member's device is called."""
    written = [member.conditions.model_dump_json() for member in whole.members]
    known = dict(zip(written, (member.conditions for member in whole.members), strict=True))
    names = dict(zip(known, families.labels(list(known.values())), strict=True))
    return [names[one] for one in written]


def _predictor(path: Path) -> tuple[str, Add]:
    fitted = family.load(path)

    def add(found: Sources, name: str, digest: str) -> None:
        about = f"{fitted.predictor.kind}, {fitted.predictor.space.name}; images: {fitted.data}"
        found.files.append(Source(name, "accuracy predictor", about, digest))
        found.predictors.append((name, fitted))

    return _digest(path), add


_READERS: dict[str, Callable[[Path], tuple[str, Add]]] = {
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
    head = _head(path)
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


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def _schema(text: bytes) -> str | None:
    try:
        value: Any = strict_json.loads(text)
    except ValueError:
        return None
    found = value.get("schema") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
