"""The latency table: Block -> latency under conditions, as a file and as frames.

In: a journal (journal.py) of schema `latency-table`. Out: a LatencyTable of pandas frames, every row checked (what is
wrong with a table as a whole says health.py). Rules kept: times are ms; a measurement is a value, so failures are
rows too; several measurements of one block make one value (combine.py); of several of one network the last undisturbed
one counts, else the one with the narrowest interval; unknown fields survive a read and a write; rows are checked by
column, not one by one.

Records (every row but `fit` and `predicted` says its `session`, by position in the file, and `at`, seconds
since that session began):

    session    start (UTC), facts of the device
    block      key, figures (n min p10 median p90 low high mean std), batch, seconds, cpu_over_wall,
               involuntary_switches, flags; round, in whose fresh worker it was measured (missing: 0)
    sentinel   as block, of the one block that is measured again and again
    network    role (calibration | holdout), arch (OFA's dict), figures, anchor and ratio as objects, and as block
    failed     key (of a block, or the arch's of a network), reason
    predicted  key, median, error: blocks a reduced campaign did not measure; error is relative
    given      key, resolution, mean, n, std: what an imported file says of a block in networks of one resolution
    sustained  median of the anchor (ms) while the device was heated, its ratio to the first, temperature_c,
               frequency_mhz, throttled (latency/campaign/sustained.py)
    energy     key, role (block, or the network's), sensor, idle_w, busy_w, mj a run with low and high, runs, windows;
               session, but no `at` (latency/campaign/energy.py)
    fit        terms, coefficients, leave-one-out error: what `ofa-edge profile` reported; not read back

A block of an imported table says `statistic: mean`: its median is that mean, and what its source does not tell (n, std,
min, p10, p90, low, high) is null. It stands for all `given` rows of its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from ofa_edge import journal
from ofa_edge.errors import BadFile, OfaEdgeError
from ofa_edge.latency.conditions import Conditions, Header, mismatches
from ofa_edge.latency.judging.combine import combine
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import named

RECORDS = ("session", "block", "predicted", "given", "failed", "network", "sentinel", "sustained", "energy", "fit")
FORMAT = journal.Format("latency-table", (1, 1), frozenset(RECORDS))

# What the keys of whole networks begin with.
NETWORK = "network:"

# Flags that say other work was on the machine, or that it was slowed down; the others say that a limit was short, and
# `low`, `high` show it.
DISTURBING = frozenset({"cpu-starved", "preempted", "steal", "spread", "throttled", "undervoltage", "governor-changed"})

_FIGURES = ("min", "p10", "median", "p90", "low", "high", "mean", "std")
_BLOCK_NUMBERS = ("session", "at", "n", *_FIGURES)
_ROLES = ("calibration", "holdout")
# Value of a block's `statistic` where the source of an imported table tells the mean and not the median, and what
# such a row may leave open.
MEAN = "mean"
_MAY_BE_OPEN = frozenset({"n", "min", "p10", "p90", "low", "high", "std"})


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """A table in memory.

    Attributes:
        path: where it was read from; what errors call it.
        header: conditions, provenance, space, resolutions and plan.
        blocks: one row a block key (the index): figures of all rounds, drift removed; columns as the record,
            `disturbed`, and `rounds`, the number of measurements in it.
        predicted: index key; median (ms) and error (relative).
        given: key, resolution, mean (ms), of an imported table: one row a block and resolution.
        failed: index key; reason. Only keys that no measurement has.
        networks: one row an arch and role: `median` (ms), `anchor_median` (ms), `ratio_median` (NaN where there was no
            anchor) are medians over its `processes`, `ratio_std` is the standard deviation of the ratio's logarithm
            between them (NaN for one); the other columns are of the last of them, as written.
        sentinels: all of them, in file order.
        complete: the campaign ended and the file is as it was written.
        sha256: of the file, for lock files and reports.
        contents: the journal itself, with what this version does not know.
    """

    path: str
    header: Header
    blocks: pd.DataFrame
    predicted: pd.DataFrame
    given: pd.DataFrame
    failed: pd.DataFrame
    networks: pd.DataFrame
    sentinels: pd.DataFrame
    complete: bool
    sha256: str
    contents: journal.Contents

    @property
    def conditions(self) -> Conditions:
        return self.header.conditions

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """Read a table, finished or not.

        Raises:
            UsageError: the file cannot be opened.
            BadFile: it is no latency table of a version this ofa-edge reads, or was changed or damaged.
        """
        return cls.from_contents(journal.read(path, FORMAT), str(path))

    @classmethod
    def from_contents(cls, contents: journal.Contents, name: str) -> LatencyTable:
        """As `read`, for a journal already read; `name` is what errors call it."""
        header = _header(contents.header, name)
        lines: dict[str, list[int]] = {record: [] for record in RECORDS}
        for number, row in enumerate(contents.rows, 2):
            lines.setdefault(row["record"], []).append(number)
        part = _Reader(contents.rows, lines, name)
        sentinels = part.frame("sentinel", _BLOCK_NUMBERS, ("key",))
        rows = part.frame("block", _BLOCK_NUMBERS, ("key",))
        blocks = combine(rows, disturbed_rows(rows), sentinels)
        networks = part.networks()
        failed = part.frame("failed", ("session", "at"), ("key", "reason")).drop_duplicates("key", keep="last")
        known = {row["key"] for record in ("block", "network") for row in contents.of(record)}
        return cls(
            path=name,
            header=header,
            blocks=blocks.set_index("key"),
            predicted=part.frame("predicted", ("median", "error"), ("key",))
            .drop_duplicates("key", keep="last")
            .set_index("key"),
            given=part.frame("given", ("resolution", "mean"), ("key",)),
            failed=failed[np.array([key not in known for key in failed["key"]], bool)].set_index("key"),
            networks=networks,
            sentinels=sentinels,
            complete=contents.complete,
            sha256=contents.sha256,
            contents=contents,
        )

    def write(self, path: Path | str) -> str:
        """Write the table as a finished file, all rows kept; returns its hex sha256."""
        contents = self.contents
        return journal.write(path, FORMAT, contents.header, contents.rows, version=contents.version)

    @property
    def failed_blocks(self) -> dict[str, str]:
        """Reasons of `failed`, without those of networks."""
        reasons = zip(self.failed.index, self.failed["reason"], strict=True)
        return {key: reason for key, reason in reasons if not key.startswith(NETWORK)}

    @property
    def space(self) -> Space:
        """That its blocks are of.

        Raises:
            UsageError: the header names none that is known here, and defines none.
            BadFile: its definition is none.
        """
        return named(self.header.space, self.header.definition, self.path)


class _Reader:
    """Turns the rows of one record into a checked frame; errors name the file and the line."""

    def __init__(self, rows: Sequence[dict[str, Any]], lines: dict[str, list[int]], name: str):
        self._rows = rows
        self._lines = lines
        self._name = name

    def frame(self, record: str, numbers: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
        """All rows of a record; `numbers` are checked to be finite and not negative, `texts` to be strings."""
        lines = self._lines[record]
        if not lines:
            return pd.DataFrame(
                {**{c: pd.Series(dtype=float) for c in numbers}, **{c: pd.Series(dtype=str) for c in texts}}
            )
        rows = [self._rows[line - 2] for line in lines]
        for column in texts:
            if bad := [i for i, row in enumerate(rows) if not isinstance(row.get(column), str)]:
                raise self._bad(lines[bad[0]], f"{column!r} is not text")
        frame = pd.DataFrame.from_records(rows)
        imported = (frame["statistic"] == MEAN).to_numpy(bool) if "statistic" in frame else np.zeros(len(frame), bool)
        for column in numbers:
            if column in _MAY_BE_OPEN and imported.any() and column in frame and frame[column].isna().all():
                frame[column] = np.nan
            self._check_number(frame, column, lines, imported if column in _MAY_BE_OPEN else None)
        if "at" in numbers and "round" in frame:
            frame["round"] = frame["round"].where(frame["round"].notna(), 0)
            self._check_number(frame, "round", lines)
        if "median" in numbers and "low" in numbers:
            self._check_order(frame, lines, imported)
        return frame

    def networks(self) -> pd.DataFrame:
        lines = self._lines["network"]
        frame = self.frame("network", ("session", "at"), ("key", "role"))
        for column in ("arch", "figures", "anchor", "ratio"):
            if column not in frame:
                frame[column] = pd.Series([None] * len(frame), dtype=object)
        for line, role, arch in zip(lines, frame["role"], frame["arch"], strict=True):
            if role not in _ROLES or not isinstance(arch, dict):
                raise self._bad(line, "a network needs an arch and a role, calibration or holdout")
        for column, source in (("median", "figures"), ("anchor_median", "anchor"), ("ratio_median", "ratio")):
            optional = source != "figures"
            frame[column] = [
                self._median(line, source, value, optional) for line, value in zip(lines, frame[source], strict=True)
            ]
        width = np.array([min(_width(r), _width(f)) for r, f in zip(frame["ratio"], frame["figures"], strict=True)])
        keys = ["key", "role"]
        if "round" not in frame:
            frame["round"] = 0
        return _over_processes(_counting(frame, [*keys, "session", "round"], width), keys)

    def _median(self, line: int, what: str, figures: Any, optional: bool) -> float:
        if optional and (figures is None or (isinstance(figures, float) and np.isnan(figures))):
            return float("nan")
        value = figures.get("median") if isinstance(figures, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise self._bad(line, f"{what!r} has no positive median")
        return float(value)

    def _check_number(
        self, frame: pd.DataFrame, column: str, lines: Sequence[int], may_be_open: np.ndarray | None = None
    ) -> None:
        if column not in frame:
            raise self._bad(lines[0], f"there is no {column!r}")
        if frame[column].dtype.kind not in "iuf":  # text, booleans, objects, integers beyond 64 bits
            offends = next((i for i, value in enumerate(frame[column]) if not _is_number(value)), 0)
            raise self._bad(lines[offends], f"{column!r} is not a number")
        values = frame[column].to_numpy(float)
        wrong = ~(values >= 0)  # NaN stands for null or a missing field
        bad = np.flatnonzero(wrong if may_be_open is None else wrong & ~(may_be_open & np.isnan(values)))
        if len(bad):
            raise self._bad(lines[int(bad[0])], f"{column!r} is missing or negative")

    def _check_order(self, frame: pd.DataFrame, lines: Sequence[int], imported: np.ndarray) -> None:
        """Raises BadFile where figures contradict each other; NaN contradicts nothing in an imported row."""
        low, median, high = (frame[column].to_numpy(float) for column in ("low", "median", "high"))
        least, p10, p90 = (frame[column].to_numpy(float) for column in ("min", "p10", "p90"))
        ordered = (least > 0) & (least <= p10) & (p10 <= median) & (median <= p90) & (low <= median) & (median <= high)
        ordered |= imported & (median > 0) & ~(low > median) & ~(median > high)
        if not ordered.all():
            raise self._bad(lines[int(np.argmin(ordered))], "its figures contradict each other")

    def _bad(self, line: int, reason: str) -> BadFile:
        return BadFile(f"{self._name} line {line} is damaged: {reason}", hint="restore the file or measure again")


def _counting(frame: pd.DataFrame, keys: list[str], width: np.ndarray) -> pd.DataFrame:
    """One row a key: the last undisturbed measurement, else the one with the least relative `width`."""
    frame = frame.assign(disturbed=disturbed_rows(frame))
    # Ascending, so that the last of a key is the one that counts; the sort is stable.
    preference = np.where(frame["disturbed"], -1.0 - width, 0.0)
    return (
        frame.assign(_preference=preference)
        .sort_values("_preference", kind="stable")
        .drop_duplicates(keys, keep="last")
        .sort_index()
        .drop(columns="_preference")
        .reset_index(drop=True)
    )


def _over_processes(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row a key: medians over its measurements, each of a process of its own. Disturbed ones are left out unless
    most are: then the median of all is safer than one process, whose ratio to the anchor is off by several per cent
    now and then."""
    disturbed = frame["disturbed"].groupby([frame[key] for key in keys], sort=False).transform("mean")
    frame = frame[(disturbed > 0.5) | ~frame["disturbed"]]
    groups = frame.groupby(keys, sort=False)
    columns = ["median", "anchor_median", "ratio_median"]
    found = frame.drop_duplicates(keys, keep="last").set_index(keys)
    found[columns] = groups[columns].median()
    found["ratio_std"] = np.log(frame["ratio_median"]).groupby([frame[key] for key in keys], sort=False).std()
    return found.assign(disturbed=groups["disturbed"].all(), processes=groups.size()).reset_index()


def disturbed_rows(frame: pd.DataFrame) -> np.ndarray:
    """Which rows carry a flag that says other work was on the machine."""
    if "flags" not in frame:
        return np.zeros(len(frame), bool)
    return np.array([isinstance(f, list) and not DISTURBING.isdisjoint(map(str, f)) for f in frame["flags"]], bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63


def _width(figures: Any) -> float:
    """Relative width of a figures object's interval; infinite where there is none."""
    if not isinstance(figures, dict):
        return float("inf")
    low, median, high = (figures.get(key) for key in ("low", "median", "high"))
    numbers = [v for v in (low, median, high) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return float((numbers[2] - numbers[0]) / numbers[1]) if len(numbers) == 3 and numbers[1] > 0 else float("inf")


def _header(value: dict[str, Any], name: str) -> Header:
    try:
        return Header.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFile(
            f"{name} line 1 is damaged: {where}: {first['msg']}", hint="restore the file or measure again"
        ) from error


def newest_match(
    files: Iterable[Path], space: str | None = None, conditions: Conditions | None = None
) -> LatencyTable | None:
    """The most recently changed finished table among `files` of this space and these conditions (None: any).

    Where none is finished, the newest that holds blocks or networks. Files that are no tables are passed over.
    """
    begun = None
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            header = _header(journal.read_header(path, FORMAT), str(path))
            if space not in (None, header.space) or (conditions and mismatches(header.conditions, conditions)):
                continue
            table = LatencyTable.read(path)
        except OfaEdgeError:
            continue
        if table.complete:
            return table
        if begun is None and not (table.blocks.empty and table.networks.empty):
            begun = table
    return begun
