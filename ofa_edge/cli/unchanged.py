"""Whether what a selection was made with is still as it was.

In: a selection and files, named or at hand. Out: the latency table it was made with, or BadFile where a file changed.
Rules kept: a file is the one the selection was made with where its hash is the selection's; a table whose header is the
one the selection remembers, and whose hash is not, is the same table and changed; a table that is nowhere at hand
is no reason to refuse, since a selection is a lock file that travels without its tables.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_edge import journal, settings
from ofa_edge.accuracy import table as accuracy_tables
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable
from ofa_edge.cli.inputs import KeptPredictor, accuracy_tables_at_hand, identity
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, OfaEdgeError
from ofa_edge.latency import table as latency_tables
from ofa_edge.latency.conditions import Header
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.selection import Selection

if TYPE_CHECKING:
    from device_agents.wire import Facts

# Which option names a file of a role.
_OPTIONS = {"latency-table": "--table", "accuracy-table": "--accuracy-table"}


def table_of_one(chosen: Sequence[Selection], path: Path) -> LatencyTable:
    """The latency table at `path`, which must be the one that one of the selections was made with.

    Raises:
        UsageError: the file cannot be opened.
        BadFile: it is another table, or damaged.
    """
    table = LatencyTable.read(path)
    if not any(one.inputs.get("latency-table") in (None, table.sha256) for one in chosen):
        _require_same(chosen[0], "latency-table", table.sha256, path)
    return table


def find_selections_table(chosen: Selection, facts: Facts) -> LatencyTable | None:
    """The latency table a selection was made with, found by its hash among this device's; None: it is not at hand.

    Raises:
        BadFile: it is at hand, and changed since.
    """
    files = sorted(settings.tables_dir(facts.device_model).glob("*.jsonl"))
    found = _unchanged(chosen, "latency-table", files, lambda file: _latency_header(file).as_json())
    return None if found is None else LatencyTable.read(found)


def table_by_hash(sha256: str | None, facts: Facts) -> LatencyTable | None:
    """The latency table with this hash among this device's; None: it is not at hand."""
    for file in sorted(settings.tables_dir(facts.device_model).glob("*.jsonl")):
        if sha256 is not None and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return LatencyTable.read(file)
    return None


def warn_unchecked(facts: Facts, out: Output) -> None:
    """Say that without the latency table the promise is measured, but the device's state is held against nothing."""
    out.warning(
        f"the latency table of the selection is not in {settings.tables_dir(facts.device_model)}: whether the device is"
        " as it was when it was profiled is not checked; name the table with --table"
    )


def require_accuracies_unchanged(chosen: Selection, table: Path | None, predictor: Path | None) -> None:
    """What a selection was made with besides a latency table: the files named, or the accuracy tables at hand.

    Raises:
        UsageError: a named file cannot be opened.
        BadFile: a named file is not the one the selection was made with, or its accuracy table changed since.
    """
    if predictor is not None:
        _require_same(chosen, "predictor", KeptPredictor.read(predictor).sha256, predictor)
    if table is not None:
        _require_same(chosen, "accuracy-table", AccuracyTable.read(table).sha256, table)
    else:
        _unchanged(chosen, "accuracy-table", accuracy_tables_at_hand(), lambda file: _accuracy_header(file).as_json())


def _require_same(chosen: Selection, role: str, sha256: str, path: Path) -> None:
    made_with = chosen.inputs.get(role)
    what = role.replace("-", " ")
    if made_with is None and role == "predictor":
        raise BadFile(f"the selection was made without a predictor, not with {path}", hint="leave --predictor out")
    if made_with not in (None, sha256):
        raise BadFile(
            f"{path} changed since the selection was made, or is another {what}",
            hint=f"select again with this {what}, or name the one it was made with",
            details={"role": role, "selection": made_with, "file": sha256},
        )


def _unchanged(
    chosen: Selection, role: str, files: Iterable[Path], header: Callable[[Path], Mapping[str, Any]]
) -> Path | None:
    """The file that a selection was made with, found by its hash; None where it is not among these.

    A table that has grown or was changed is another file, but its header is the one the selection remembers.

    Raises:
        BadFile: only a changed one is there.
    """
    wanted, own = chosen.inputs.get(role), chosen.headers.get(role)
    changed = None
    for file in files:
        if hashlib.sha256(file.read_bytes()).hexdigest() == wanted:
            return file
        with contextlib.suppress(OfaEdgeError, ValueError):  # a file that cannot be read is another one
            if own is not None and identity(header(file)) == own:
                changed = file
    if changed is None:
        return None
    raise BadFile(
        f"{changed} changed since the selection was made",
        hint=f"select again with it, or name a copy as it was with {_OPTIONS[role]}",
        details={"role": role, "selection": wanted, "file": str(changed)},
    )


def _latency_header(file: Path) -> Header:
    return Header.model_validate(journal.read_header(file, latency_tables.FORMAT))


def _accuracy_header(file: Path) -> AccuracyHeader:
    return AccuracyHeader.model_validate(journal.read_header(file, accuracy_tables.FORMAT))
