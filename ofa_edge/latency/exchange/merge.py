"""Several latency tables of one device and space as one.

In: LatencyTables. Out: the file of one. Rules kept: conditions must be equal, and an error names the keys and both
values; every row is kept once, so that a file merged with itself, or with an earlier copy, has that file's rows; what
must not be mixed is brought together first:

- sessions are numbered on, so that rounds and drift stay what they were;
- sentinels of another block are brought to the first table's, by that block's own time in their table;
- ratios to another anchor (it depends on the resolutions) become times by their own table's reference of it;
- a network that calibrates one table is no hold-out of another;
- of imported tables the blocks are made again from what all files said.

The fit is left out: it was of one table. Provenance lists where everything came from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ofa_edge import __version__, journal, strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency import plan
from ofa_edge.latency.conditions import UNKNOWN, Conditions, Header, PlanSettings, Provenance, require_match
from ofa_edge.latency.exchange import formats
from ofa_edge.latency.models.model import anchor_reference
from ofa_edge.latency.table import FORMAT, LatencyTable

Row = dict[str, Any]

_DROPPED = ("fit",)


def merge(tables: Sequence[LatencyTable], out: Path, *, accept_unknown: bool = False) -> LatencyTable:
    """Write the merged table, finished, and read it back.

    Args:
        accept_unknown: take an unknown condition as equal to any; it stays unknown.

    Raises:
        UsageError: fewer than two tables, or a space that is not known here.
        BadFile: conditions, spaces, predictors or priors differ; measured and imported tables do not mix, nor two
            imported ones that say different things of one block.
        OfaEdgeError: the file cannot be written.
    """
    if len(tables) < 2:
        raise UsageError("there is nothing to merge with one table", hint="name two or more")
    first = tables[0]
    for one, other in itertools.combinations(tables, 2):  # 'unknown' may be equal to two that are not
        _require_alike(one, other, accept_unknown)
    header = _header(tables)
    rows = _Rows(first)
    anchor = plan.middle(first.space, header.resolutions)
    for table in tables:
        rows.add(table, _calibrating(tables), anchored=plan.middle(table.space, table.header.resolutions) == anchor)
    found = rows.found
    if any(not table.given.empty for table in tables):
        found = _made_again(found, first.path)
    version = max(table.contents.version for table in tables)
    journal.write(out, FORMAT, header.as_json(), found, version=max(version, FORMAT.version))
    return LatencyTable.read(out)


# -- may they be merged ---------------------------------------------------------------------------
def _require_alike(a: LatencyTable, b: LatencyTable, accept_unknown: bool) -> None:
    require_match(a.conditions, b.conditions, names=(a.path, b.path), accept_unknown=accept_unknown)
    if a.space != b.space:
        raise BadFile(
            f"{a.path} is of space {a.header.space}, {b.path} of {b.header.space}"
            + (", another space of the same name" if a.header.space == b.header.space else ""),
            hint="merge tables of one space",
        )
    for what, one, other in (
        ("predictor", a.header.plan.predictor, b.header.plan.predictor),
        ("prior", _prior(a), _prior(b)),
    ):
        if one != other:
            raise BadFile(
                f"{a.path} has {what} {one}, {b.path} has {other}", hint="merge tables that were made the same way"
            )
    if a.given.empty != b.given.empty:
        imported, own = (b, a) if a.given.empty else (a, b)
        raise BadFile(
            f"{imported.path} is imported, of means, and {own.path} was measured, with medians",
            hint="use them one by one, or compare them with `ofa-edge table diff`",
        )


def _prior(table: LatencyTable) -> str:
    return "none" if table.header.prior is None else table.header.prior.sha256


def _calibrating(tables: Sequence[LatencyTable]) -> set[str]:
    return {key for t in tables for key in t.networks.loc[t.networks["role"] == "calibration", "key"]}


# -- rows -----------------------------------------------------------------------------------------
class _Rows:
    """The merged rows; `add` takes a table's, each once."""

    def __init__(self, first: LatencyTable):
        self._first = first
        self._seen: set[bytes] = set()
        self._sessions: dict[bytes, int] = {}  # a session record -> its number in the merged table
        self._count = 0
        self.found: list[Row] = []

    def add(self, table: LatencyTable, calibrating: set[str], *, anchored: bool) -> None:
        """
        Args:
            calibrating: keys of networks that must not be hold-outs.
            anchored: its anchor is the merged table's.
        """
        numbers = self._number(table)
        changes: list[Callable[[Row], Row]] = [_as_calibration(calibrating)]
        if (scale := _sentinel_scale(self._first, table)) is not None:
            changes.append(_as_sentinel(str(self._first.sentinels["key"].iloc[-1]), scale))
        if not anchored and (reference := anchor_reference(table)[0]) is not None:
            changes.append(_without_anchor(reference))
        for row in table.contents.rows:
            if row["record"] in ("session", *_DROPPED):
                continue
            for change in changes:
                row = change(row)
            if isinstance(own := row.get("session"), (int, float)):
                row = {**row, "session": numbers[int(own)]}
            spelled = strict_json.canonical(row)
            if spelled not in self._seen:
                self._seen.add(spelled)
                self.found.append(row)

    def _number(self, table: LatencyTable) -> dict[int, int]:
        """Session number in the table -> in the merged one, whose record is written where it is new. The same session,
        from another copy, keeps its number."""
        records = table.contents.of("session")
        used = {int(row["session"]) for row in table.contents.rows if isinstance(row.get("session"), (int, float))}
        begun: dict[int, tuple[Any, ...]] = {}
        for row in table.contents.rows:  # rows that no merge changes
            if row["record"] in ("block", "network", "failed"):
                begun.setdefault(int(row["session"]), (row["key"], row["at"], row.get("median")))
        numbers = {}
        for own in sorted({*range(len(records)), *used}):
            # Rows of a session without a record are of this file alone.
            unknown = {"record": "session", "start": table.header.provenance.created, "of": f"{table.sha256} {own}"}
            record = records[own] if own < len(records) else unknown
            # Two campaigns may begin in one second; equal first rows say that they are one.
            spelled = strict_json.canonical([record, begun.get(own)])
            if spelled not in self._sessions:
                self._sessions[spelled] = self._count
                self._count += 1
                self.found.append(record)
            numbers[own] = self._sessions[spelled]
        return numbers


def _sentinel_scale(first: LatencyTable, table: LatencyTable) -> float | None:
    """By what the sentinels of a table are to be multiplied to be those of the first table's block; None where they
    are. Where that block was not measured there, nothing is known of the levels, and they are taken to be equal."""
    if first.sentinels.empty or table.sentinels.empty:
        return None
    key = first.sentinels["key"].iloc[-1]
    if (table.sentinels["key"] == key).all():
        return None
    own = float(np.median(table.sentinels["median"]))
    if key in table.blocks.index:
        return float(table.blocks.loc[key, "median"]) / own
    return float(np.median(first.sentinels["median"])) / own


_TIMES = ("min", "p10", "median", "p90", "low", "high", "mean", "std")


def _times(figures: Mapping[str, Any], factor: float) -> Row:
    """Figures with every time multiplied."""
    return {name: value * factor if name in _TIMES else value for name, value in figures.items()}


def _as_sentinel(key: str, factor: float) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        if row["record"] != "sentinel":
            return row
        return {**_times(row, factor), "key": key, "measured": row["key"], "factor": factor}

    return change


def _without_anchor(reference: float) -> Callable[[Row], Row]:
    """A network's time as its ratio times the reference of its own anchor; its raw figures are kept beside."""

    def change(row: Row) -> Row:
        ratio = row.get("ratio")
        if row["record"] != "network" or not isinstance(ratio, dict):
            return row
        raw = {"figures": row["figures"], "anchor": row.get("anchor"), "ratio": ratio, "reference_ms": reference}
        return {**row, "figures": _times(ratio, reference), "anchor": None, "ratio": None, "raw": raw}

    return change


def _as_calibration(keys: set[str]) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        if row["record"] == "network" and row["role"] == "holdout" and row["key"] in keys:
            return {**row, "role": "calibration"}
        return row

    return change


def _made_again(rows: Sequence[Row], path: str) -> list[Row]:
    """Rows of imported tables with one block row a key, of everything that is given.

    Raises:
        BadFile: two files say different things of one block at one resolution.
    """
    given: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["record"] != "given":
            continue
        place = (row["key"], row["resolution"])
        if given.setdefault(place, row) != row:
            raise BadFile(
                f"{path} and another table both hold {row['key']} at resolution {row['resolution']}, with"
                f" {given[place]['mean']:g} and {row['mean']:g} ms",
                hint="use them one by one, or compare them with `ofa-edge table diff`",
            )
    keys = {key for key, _ in given}
    kept = [row for row in rows if row["record"] != "given" and not (row["record"] == "block" and row["key"] in keys)]
    return [*kept, *formats.pooled(list(given.values())), *given.values()]


# -- header ---------------------------------------------------------------------------------------
def _header(tables: Sequence[LatencyTable]) -> Header:
    headers = [table.header for table in tables]
    first = headers[0]
    roles = {
        (role, key) for table in tables for role, key in zip(table.networks["role"], table.networks["key"], strict=True)
    }
    calibrating = {key for role, key in roles if role == "calibration"}
    settings = first.plan.model_copy(
        update={
            "quick": all(header.plan.quick for header in headers),
            "networks": len(calibrating),
            "holdout": len({key for role, key in roles if role == "holdout"} - calibrating),
        }
    )
    return first.model_copy(
        update={
            "conditions": _conditions([header.conditions for header in headers]),
            "provenance": _provenance(tables),
            "resolutions": sorted({size for header in headers for size in header.resolutions}),
            "plan": PlanSettings.model_validate(settings.model_dump(mode="json")),
        }
    )


def _conditions(given: Sequence[Conditions]) -> Conditions:
    """The first's, with 'unknown' where any is."""
    unknown = {name: UNKNOWN for name in Conditions.model_fields if any(getattr(c, name) == UNKNOWN for c in given)}
    return given[0].model_copy(update=unknown)


_SAME: tuple[Literal["serial", "boot_id", "kernel", "machine", "python", "agent"], ...] = (
    "serial", "boot_id", "kernel", "machine", "python", "agent",
)  # fmt: skip


def _provenance(tables: Sequence[LatencyTable]) -> Provenance:
    """What is the same in all of them, and each one's own in `merged`."""
    merged: dict[str, Row] = {}
    for table in tables:
        own = table.header.provenance.model_dump(mode="json")
        parts = own.get("merged")
        if not isinstance(parts, list):
            parts = [
                {
                    "name": Path(table.path).name,
                    "sha256": table.sha256,
                    "provenance": own,
                    "resolutions": table.header.resolutions,
                    "plan": table.header.plan.model_dump(mode="json"),
                }
            ]
        merged |= {str(part.get("sha256")): part for part in parts if isinstance(part, dict)}
    origins = [table.header.provenance for table in tables]
    same = {
        name: values.pop() if len(values := {getattr(origin, name) for origin in origins}) == 1 else UNKNOWN
        for name in _SAME
    }
    return Provenance.model_validate(
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "tool": f"ofa-edge {__version__}",
            **same,
            "merged": list(merged.values()),
        }
    )
