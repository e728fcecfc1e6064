"""A latency table's blocks as one flat table, csv or parquet, and back.

In: a LatencyTable, or a file. Out: the file, or a LatencyTable's. Rules kept: one row a block, all its figures as the
table combined them (drift removed), and on every row the conditions, so that rows of several tables can be put under
each other and told apart; what comes back is the same blocks, failures, predictions and conditions, number by number.
Networks, sentinels and sessions do not fit into columns: a table read back predicts plain sums.

    record       block | predicted | given | failed
    key          ours (space/block.py)
    resolution   of `given` rows
    n min p10 median p90 low high mean std    ms; empty where unknown
    error        of predicted blocks, relative
    statistic    mean where `median` is one (imported tables)
    flags        separated by blanks
    reason       of failed blocks
    space, resolutions, condition_*           the same on every row; lists separated by blanks
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import importlib.util
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ofa_edge import journal
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import read_bytes, write_result
from ofa_edge.latency.conditions import Conditions
from ofa_edge.latency.exchange import formats
from ofa_edge.latency.exchange.yaml_tables import number
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import named

CSV, PARQUET = "csv", "parquet"

MAX_BYTES = 256 << 20
MAX_ROWS = 1_000_000
_FIGURES = ("n", "min", "p10", "median", "p90", "low", "high", "mean", "std")
_NUMBERS = ("resolution", *_FIGURES, "error")
_COLUMNS = ("record", "key", "resolution", *_FIGURES, "error", "statistic", "flags", "reason", "space", "resolutions")
_NEEDED = ("record", "key", "median", "mean", "space", "resolutions")
_CONDITION = "condition_"
# What each record is made of.
_FIELDS = {
    "block": (*_FIGURES,),
    "given": ("resolution", "mean", "n", "std"),
    "predicted": ("median", "error"),
    "failed": (),
}
_HINT = "the columns are those of `ofa-edge table export --format csv`"


# -- out ------------------------------------------------------------------------------------------
def frame(table: LatencyTable) -> pd.DataFrame:
    """The table as columns; see this module's docstring."""
    rows: list[dict[Any, Any]] = [
        {**row, "record": "block", "flags": _joined(row.get("flags"))}
        for row in table.blocks.reset_index().to_dict("records")
    ]
    rows += [{**row, "record": "predicted"} for row in table.predicted.reset_index().to_dict("records")]
    rows += [dict(row) for row in table.contents.of("given")]
    rows += [{"record": "failed", "key": key, "reason": reason} for key, reason in table.failed_blocks.items()]
    found = pd.DataFrame.from_records(rows, columns=_COLUMNS)
    found["space"] = table.header.space
    found["resolutions"] = _joined(table.header.resolutions)
    for name, value in table.conditions.model_dump(mode="json").items():
        found[_CONDITION + name] = _said(value)
    for column in _NUMBERS:
        found[column] = pd.to_numeric(found[column])
    return found.astype(dict.fromkeys(("n", "resolution"), "Int64"))


def write(table: LatencyTable, format: str, out: Path) -> None:
    """Write `frame` as CSV or PARQUET.

    Raises:
        OfaEdgeError: it cannot be written, or parquet needs a package that is not here.
    """
    found = frame(table)
    if format == PARQUET:
        _require_pyarrow()
        buffer = io.BytesIO()
        found.to_parquet(buffer, engine="pyarrow", index=False)
        write_result(out, buffer.getvalue())
        return
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(found.columns)
    # Python's own text of a number is the shortest that reads back as the same.
    writer.writerows(["" if _absent(v) else v for v in row] for row in found.itertuples(index=False))
    write_result(out, lines.getvalue().encode())


def _joined(values: Any) -> str:
    return " ".join(map(str, values)) if isinstance(values, list) else ""


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _joined(value) if isinstance(value, list) else str(value)


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


# -- in -------------------------------------------------------------------------------------------
def import_columns(
    path: Path, format: str, out: Path, *, space: Space | None = None, said: Mapping[str, Any] | None = None
) -> formats.Imported:
    """Write the table that a CSV or PARQUET file holds.

    Args:
        space: whose blocks these are; needed only for a space of one's own.
        said: conditions, in place of the file's.

    Raises:
        UsageError: the file cannot be read, or its space is not known here.
        BadFile: it lacks a column, a cell is not what the column holds, or rows are of different tables.
        OfaEdgeError: parquet needs a package that is not here.
    """
    lines = _csv(path) if format == CSV else _parquet(path)
    rows: list[dict[str, Any]] = []
    common: dict[str, str] | None = None
    for line, cells in lines:
        own = {name: text for name, text in cells.items() if name in ("space", "resolutions") or _is_condition(name)}
        common = common or own
        if own != common:
            name = next(name for name in own if own[name] != common.get(name))
            raise BadFile(
                f"{path} line {line}: {name} is {own[name][:60]!r}, in the first row {common[name][:60]!r}",
                hint="the rows are of several tables: write them to files of their own",
            )
        try:
            rows.append(_row(cells))
        except ValueError as error:
            raise BadFile(f"{path} line {line}: {error}", hint=_HINT) from error
    if common is None:
        raise BadFile(f"{path} has no rows", hint=_HINT)
    return _imported(path, format, out, rows, common, space, said or {})


def _imported(
    path: Path,
    format: str,
    out: Path,
    rows: list[dict[str, Any]],
    common: Mapping[str, str],
    space: Space | None,
    said: Mapping[str, Any],
) -> formats.Imported:
    if space is not None and space.name != common["space"]:
        raise BadFile(f"{path} is of space {common['space']}, not of {space.name}", hint="leave --space out")
    space = space or named(common["space"], None, str(path))
    try:
        sizes = sorted({int(number("resolution", text)) for text in common["resolutions"].split()})
        known = {name.removeprefix(_CONDITION): text for name, text in common.items() if _is_condition(name)}
        conditions = formats.conditions(
            {name: condition(name, text) for name, text in known.items() if text} | dict(said)
        )
        digest = hashlib.sha256(read_bytes(path)).hexdigest()
        origin = {"format": format, "files": [{"name": path.name, "sha256": digest}]}
        header = formats.header(space, sizes, conditions, origin)
    except (ValueError, UsageError) as error:
        raise BadFile(f"{path}: {str(error).splitlines()[0]}", hint=_HINT) from error
    start = {"record": "session", "start": header.provenance.created, "imported": [digest]}
    checked = journal.finished(FORMAT, header.as_json(), [start, *rows])
    LatencyTable.from_contents(journal.parse(checked, FORMAT, str(path)), str(path))
    write_result(out, checked)
    table = LatencyTable.read(out)
    planned = {block.key for block in space.distinct_blocks(sizes)}
    present = {*table.blocks.index, *table.predicted.index, *table.failed.index}
    strange = tuple(sorted(present - planned))
    return formats.Imported(table, len(rows), len(planned - present), strange)


def _is_condition(name: str) -> bool:
    return name.startswith(_CONDITION)


def condition(name: str, text: str) -> Any:
    """A condition out of its text, which for some is a number or a list; what cannot be one stays a text."""
    if name == "cores" and all(part.isascii() and part.isdigit() for part in text.split()):
        return [int(part) for part in text.split()]
    if name == "emulated" and text in ("true", "false"):
        return text == "true"
    whole = name in ("threads", "batch", "method") and text.isascii() and text.isdigit()
    return int(text) if whole and len(text) < 10 else text


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    """Raises ValueError."""
    record, key = cells["record"], cells["key"]
    if record not in _FIELDS:
        raise ValueError(f"record {record[:40]!r} is not one of {', '.join(_FIELDS)}")
    row: dict[str, Any] = {"record": record, "key": key}
    if record in ("block", "failed"):
        row |= {"session": 0, "at": 0.0}
    for name in _FIELDS[record]:
        text = cells.get(name, "")
        value = number(name, text) if text else None
        row[name] = int(value) if value is not None and name in ("n", "resolution") else value
    if record == "failed":
        row["reason"] = cells.get("reason", "")
    if record == "block":
        row["flags"] = cells.get("flags", "").split()
        if cells.get("statistic"):
            row["statistic"] = cells["statistic"]
    return row


def _csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.stat().st_size > MAX_BYTES:
                raise BadFile(f"{path} is larger than {MAX_BYTES >> 20} MB", hint=_HINT)
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            _check_columns(path, names)
            for cells in reader:
                if len(cells) != len(names):
                    raise BadFile(f"{path} line {reader.line_num} has {len(cells)} cells, not {len(names)}", hint=_HINT)
                yield reader.line_num, dict(zip(names, cells, strict=True))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{path} is not a csv file: {error}", hint=_HINT) from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    _require_pyarrow()
    parquet = importlib.import_module("pyarrow.parquet")
    read_bytes(path, 1)  # says what is wrong where it cannot be read at all
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadFile(f"{path} is larger than {MAX_BYTES >> 20} MB", hint=_HINT)
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise BadFile(f"{path} has {file.metadata.num_rows} rows", hint=_HINT)
            names = file.schema_arrow.names
            _check_columns(path, names)
            wanted = [name for name in names if name in _COLUMNS or _is_condition(name)]
            columns = file.read(columns=wanted).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise BadFile(f"{path} is not a parquet file: {str(error).splitlines()[0][:200]}", hint=_HINT) from error
    for line, cells in enumerate(zip(*columns.values(), strict=True), 1):
        yield line, {name: _cell(value) for name, value in zip(wanted, cells, strict=True)}


def _cell(value: Any) -> str:
    if _absent(value):
        return ""
    return value if isinstance(value, str) else repr(value)


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if lacking := [name for name in _NEEDED if name not in names]:
        raise BadFile(f"{path} has no column {lacking[0]!r}", hint=_HINT)
    if lacking := [name for name in map(_CONDITION.__add__, _required()) if name not in names]:
        raise BadFile(f"{path} has no column {lacking[0]!r}", hint=_HINT)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise BadFile(f"{path} has two columns {twice[0]!r}", hint=_HINT)


def _required() -> Iterable[str]:
    return (name for name, field in Conditions.model_fields.items() if field.is_required())


def _require_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise OfaEdgeError(
            "parquet needs pyarrow, which is not installed", hint="pip install pyarrow, or use --format csv"
        )
