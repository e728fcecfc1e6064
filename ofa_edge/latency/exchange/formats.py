"""Latency tables of others into ours: Once-for-All's and ProxylessNAS's yaml.

In: yaml files, one a resolution. Out: a LatencyTable's file (exports.py goes the other way). Rules kept: nothing is
claimed that a file does not say. Its statistic is the mean, so a block's median is that mean and `statistic` says so;
its interval is mean +- t x std / sqrt(n) where n and std are there, and open where they are not; conditions are
'unknown' but for those that a person names; there are no network records, so predictions are plain sums and their
intervals unknown. A block that several files have (feature maps repeat from resolution to resolution) is one `block`
row, the mean of all runs; what each file said stays in `given` rows, by which networks of that resolution are predicted
and by which the same files are written again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ofa_edge import __version__, journal
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency import stats
from ofa_edge.latency.conditions import UNKNOWN, Conditions, Header, PlanSettings, Provenance
from ofa_edge.latency.exchange import foreign_keys, yaml_tables
from ofa_edge.latency.exchange.foreign_keys import OFA, PROXYLESS, Meaning
from ofa_edge.latency.exchange.yaml_tables import Entry, YamlTable
from ofa_edge.latency.table import FORMAT, MEAN, LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import SPACES, own_definition

_STEM = re.compile(r"Conv-input:([0-9]+)x\1x3-output:.*")
_SHOWN = 3  # keys named in a message


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of some files.

    Attributes:
        table: as it was written.
        rows: in the files.
        missing: blocks of the space at these resolutions that no file has; they are estimated when they are needed.
        left_out: keys of the files that are no blocks of the space.
        ignored: fields of the files' rows that our table does not hold.
    """

    table: LatencyTable
    rows: int
    missing: int
    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


# -- in -------------------------------------------------------------------------------------------
def import_yaml(
    paths: Sequence[Path],
    out: Path,
    *,
    format: str | None = None,
    space: Space | None = None,
    resolutions: Sequence[int] = (),
    said: Mapping[str, Any] | None = None,
) -> Imported:
    """Write the table of some yaml files.

    Args:
        format: OFA or PROXYLESS; told from the keys where left out.
        space: whose blocks these are; where left out, the one built-in space that has every key.
        resolutions: of the files, in order; only needed where neither a file's keys nor its name tell.
        said: conditions that are known; all others are 'unknown'.

    Raises:
        UsageError: a file cannot be read, or what was left out cannot be told from the files.
        BadFile: a file is no such table, is of another space, or two are of one resolution.
    """
    if resolutions and len(resolutions) != len(paths):
        raise UsageError(
            f"{len(resolutions)} resolutions were named for {len(paths)} files", hint="name one a file, in their order"
        )
    files = [yaml_tables.read(path) for path in paths]
    format = _format(files, format)
    named = [_resolution(file, resolutions[i] if resolutions else None) for i, file in enumerate(files)]
    space = space or _space(files, named, format)
    sizes = [size or _from_name(file.path, space) for file, size in zip(files, named, strict=True)]
    for i, size in enumerate(sizes):
        if size in sizes[:i]:
            raise BadFile(
                f"{files[sizes.index(size)].path} and {files[i].path} are both of resolution {size}",
                hint="give one file a resolution",
            )
    given: list[dict[str, Any]] = []
    left_out: list[str] = []
    for size, file in sorted(zip(sizes, files, strict=True), key=lambda pair: pair[0]):
        known = _keys(space, size, format, file)
        left_out += sorted(_strange(file, known, space, size, format))
        given += [row for key, entry in file.rows.items() if key in known for row in _given(known[key], entry, size)]
    header = _header(space, sorted(sizes), said or {}, format, files)
    rows = [
        {"record": "session", "start": header.provenance.created, "imported": [file.sha256 for file in files]},
        *pooled(given),
        *given,
    ]
    journal.write(out, FORMAT, header.as_json(), rows)
    table = LatencyTable.read(out)
    planned = {block.key for block in space.distinct_blocks(sorted(sizes))}
    return Imported(
        table,
        sum(len(file.rows) for file in files),
        len(planned - set(table.blocks.index)),
        tuple(dict.fromkeys(left_out)),
        tuple(sorted({name for file in files for name in file.ignored})),
    )


def conditions(said: Mapping[str, Any]) -> Conditions:
    """Conditions of which only some are known.

    Raises:
        UsageError: `said` holds a value that is no condition.
    """
    from pydantic import ValidationError

    # Activations follow from the precision where nobody says.
    unknown = [name for name in Conditions.model_fields if name != "activations"]
    try:
        return Conditions.model_validate({**dict.fromkeys(unknown, UNKNOWN), **said})
    except ValidationError as error:
        first = error.errors()[0]
        name, wrong = first["loc"][0], first["input"]
        raise UsageError(f"{wrong!r} is no value of {name}", hint="leave it out: it is unknown then") from error


def header(space: Space, resolutions: Sequence[int], known: Conditions, imported: Mapping[str, Any]) -> Header:
    """The header of an imported table; `imported` says from what, and stands in its provenance."""
    origin = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"ofa-edge {__version__}",
        "imported": dict(imported),
    }
    return Header(
        conditions=known,
        provenance=Provenance.model_validate(origin),
        space=space.name,
        definition=own_definition(space),
        resolutions=list(resolutions),
        plan=PlanSettings(seed=0, quick=False, networks=0),
    )


def _header(
    space: Space, sizes: Sequence[int], said: Mapping[str, Any], format: str, files: Sequence[YamlTable]
) -> Header:
    names = [{"name": file.path.name, "sha256": file.sha256} for file in files]
    return header(space, sizes, conditions(said), {"format": format, "statistic": MEAN, "files": names})


def _format(files: Sequence[YamlTable], named: str | None) -> str:
    """The format of the keys, which must be the named one.

    Raises:
        BadFile: keys are of neither format, of both, or not of the named one.
        UsageError: the keys could be of either.
    """
    found: dict[str, Path] = {}
    for file in files:
        for key in file.rows:
            style = foreign_keys.style(key)
            if style is None or (named and style not in ("", named)):
                raise BadFile(
                    f"{file.path}: {key[:120]!r} is no key of {named or 'a latency table'}",
                    hint="keys look like 'Conv-input:224x224x3-output:112x112x24'"
                    if style is None
                    else f"leave --format out, or give {style}",
                )
            if style:
                found.setdefault(style, file.path)
    if len(found) > 1:
        raise BadFile(
            f"there are keys of Once-for-All (in {found[OFA]}) and of ProxylessNAS (in {found[PROXYLESS]})",
            hint="import them one by one",
        )
    if not found and named is None:
        raise UsageError(
            f"the keys in {files[0].path} do not tell their format", hint=f"name it: --format {OFA} or {PROXYLESS}"
        )
    return named or next(iter(found))


def _resolution(file: YamlTable, named: int | None) -> int | None:
    """What the stem's key says, else what a person named; None where nobody says."""
    stems = [int(match[1]) for key in file.rows if (match := _STEM.fullmatch(key))]
    if len(set(stems)) > 1:
        raise BadFile(
            f"{file.path} mixes resolutions {', '.join(map(str, sorted(set(stems))))}",
            hint="a file holds one resolution: split it",
        )
    if stems and named not in (None, stems[0]):
        raise BadFile(f"{file.path} is of resolution {stems[0]}, not {named}", hint="leave --resolutions out")
    return stems[0] if stems else named


def _from_name(path: Path, space: Space) -> int:
    """The resolution in a file's name, for files without their stem."""
    found = {int(number) for number in re.findall(r"[0-9]{1,5}", path.name)} & set(space.resolutions)
    if len(found) != 1:
        raise UsageError(f"{path} does not say of which resolution it is", hint="name it with --resolutions")
    return found.pop()


def _space(files: Sequence[YamlTable], sizes: Sequence[int | None], format: str) -> Space:
    """The one built-in space that has all keys; raises UsageError where there is none, or several."""
    fitting = []
    for space in SPACES.values():
        if not all(size in space.resolutions for size in sizes if size):
            continue
        try:
            known = [foreign_keys.keys(space, size or space.resolutions[0], format) for size in sizes]
        except UsageError:
            continue
        if all(file.rows.keys() <= own.keys() for file, own in zip(files, known, strict=True)):
            fitting.append(space)
    if len(fitting) == 1:
        return fitting[0]
    which = " and ".join(space.name for space in fitting) if fitting else "no built-in space"
    raise UsageError(
        f"the keys of {files[0].path} are those of {which}", hint="name the space with --space; it may be a TOML file"
    )


def _keys(space: Space, size: int, format: str, file: YamlTable) -> dict[str, tuple[Meaning, ...]]:
    try:
        return foreign_keys.keys(space, size, format)
    except UsageError as error:
        if size in space.resolutions:
            raise
        raise UsageError(
            f"{file.path} is of resolution {size}, which is not in space {space.name}",
            hint=f"copy the space with `ofa-edge spaces {space.name} --toml`, give it a name of its own, add {size} to"
            " its resolutions and pass the file with --space",
        ) from error


def _strange(
    file: YamlTable, known: Mapping[str, tuple[Meaning, ...]], space: Space, size: int, format: str
) -> list[str]:
    """Keys that are not of the space at this resolution: left out where the file has every block besides.

    Raises:
        BadFile: the file lacks blocks too, so it is of another space or resolution.
    """
    strange = [key for key in file.rows if key not in known]
    if not strange or known.keys() <= file.rows.keys():
        return strange
    elsewhere = [r for r in space.resolutions if r != size and strange[0] in foreign_keys.keys(space, r, format)]
    if elsewhere:
        raise BadFile(
            f"{file.path} mixes resolutions: {strange[0]} is of {elsewhere[0]}, the file of {size}",
            hint="a file holds one resolution: split it",
        )
    raise BadFile(
        f"{file.path}: {some(strange)} not in space {space.name} at resolution {size}",
        hint="name the space they were measured in with --space; `ofa-edge spaces` lists them",
        details={"keys": strange},
    )


def some(keys: Sequence[str]) -> str:
    """The first few of them, as the beginning of a sentence."""
    shown = ", ".join(keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more keys are" if len(keys) > _SHOWN else " are" if len(keys) > 1 else " is"
    return shown + more


def _given(meaning: Sequence[Meaning], entry: Entry, resolution: int) -> Iterable[dict[str, Any]]:
    """Rows of what a file says of a key. Of a key for several blocks each gets its share, and says so."""
    for block, share in meaning:
        part = {} if share == 1 else {"share": share}
        yield {
            "record": "given",
            "key": block.key,
            "resolution": resolution,
            "mean": entry.mean * share,
            "n": entry.count,
            "std": None if entry.std is None else entry.std * share,
            **part,
        }


def pooled(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One block row a key: the mean of all its runs, all files counting the same where one does not say how many."""
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for row in given:
        by_key.setdefault(row["key"], []).append(row)
    return [block_row(key, *_pool(rows)) for key, rows in by_key.items()]


def _pool(rows: Sequence[Mapping[str, Any]]) -> tuple[float, int | None, float | None]:
    if len(rows) == 1:
        return rows[0]["mean"], rows[0]["n"], rows[0]["std"]
    if any(row["n"] is None for row in rows):
        return math.fsum(row["mean"] for row in rows) / len(rows), None, None
    total = sum(row["n"] for row in rows)
    mean = math.fsum(row["n"] * row["mean"] for row in rows) / total
    if any(row["std"] is None for row in rows) or total < 2:
        return mean, total, None
    squares = [(row["n"] - 1) * row["std"] ** 2 + row["n"] * (row["mean"] - mean) ** 2 for row in rows]
    return mean, total, math.sqrt(math.fsum(squares) / (total - 1))


def block_row(key: str, mean: float, n: int | None, std: float | None) -> dict[str, Any]:
    """A `block` record of which only a mean is known, and perhaps how sure it is."""
    half = None if n is None or n < 2 or std is None else stats.student_t(0.95, n - 1) * std / math.sqrt(n)
    return {
        "record": "block",
        "key": key,
        "session": 0,
        "at": 0.0,
        "n": n,
        "min": None,
        "p10": None,
        "median": mean,
        "p90": None,
        "low": None if half is None else max(0.0, mean - half),
        "high": None if half is None else mean + half,
        "mean": mean,
        "std": std,
        "statistic": MEAN,
        "flags": [],
    }


def guess(paths: Sequence[Path]) -> str:
    """The format of files by their names: 'yaml' (either one), csv or parquet.

    Raises:
        UsageError: the names say nothing, or different things.
    """
    kinds = {{".yml": "yaml"}.get(path.suffix.lower(), path.suffix.lower().removeprefix(".")) for path in paths}
    if len(kinds) == 1 and (kind := kinds.pop()) in ("yaml", "csv", "parquet"):
        return kind
    raise UsageError(
        f"the name of {paths[0]} does not tell its format",
        hint=f"name it with --format: {OFA}, {PROXYLESS}, csv or parquet",
    )
