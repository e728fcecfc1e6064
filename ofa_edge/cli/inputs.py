"""Finding and reading what commands work on: checkpoints, tables, and the models fitted to them.

In: what a person named, or nothing. Out: read and checked values. Rules kept: a table that was not named is the
newest that fits, and the command says which it took; nothing is used under other conditions than its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_edge import settings, shipped
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.latency.conditions import RunsOn, conditions, require_match
from ofa_edge.latency.model import LatencyModel
from ofa_edge.latency.table import LatencyTable, newest_match
from ofa_edge.search.selection import Selection
from ofa_edge.space.spaces import get_space
from ofa_edge.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from device_agents.wire import Facts


@dataclass(frozen=True)
class Models:
    """What selection works on: a latency model and an accuracy model of one space, and where both came from."""

    latency_table: LatencyTable
    latency: LatencyModel
    accuracy_table: AccuracyTable
    accuracy: AdditiveAccuracy

    @property
    def inputs(self) -> dict[str, str]:
        """Hex sha256 by role, for a selection."""
        return hashes(self.latency_table, self.accuracy_table)


def named_latency_table(path: Path | None, space: str | None, out: Output) -> LatencyTable:
    """The table at `path`, or the newest one that was measured from here for the space.

    Raises:
        UsageError: there is none.
        BadFile: the file is damaged.
    """
    if path is None:
        tables = settings.home() / "tables"
        for found in sorted(tables.glob("*/*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True):
            try:
                table = LatencyTable.read(found)
            except OfaEdgeError:
                continue
            if space in (None, table.header.space):
                out.notice(f"latency table {found}")
                return table
        raise UsageError(
            f"there is no latency table in {tables}", hint="make one with `ofa-edge profile --host HOST`, or name it"
        )
    return LatencyTable.read(path)


def device_latency_table(path: Path | None, facts: Facts, runs_on: RunsOn, space: str, out: Output) -> LatencyTable:
    """The table at `path`, or the newest of this device's, measured under the conditions the device is in now.

    Raises:
        UsageError: there is none.
        BadFile: the named table is damaged, or of other conditions.
    """
    now = conditions(facts, runs_on)
    if path is None:
        folder = settings.tables_dir(facts.device_model)
        path = newest_match(folder, now, space)
        if path is None:
            raise UsageError(
                f"no table in {folder} was measured under the conditions {facts.device_model} is in now",
                hint="make one with `ofa-edge profile --host HOST`, or name one with --table",
            )
        out.notice(f"latency table {path}")
        return LatencyTable.read(path)
    table = LatencyTable.read(path)
    require_match(table.conditions, now, names=(str(path), "this device"))
    return table


def table_of_selection(chosen: Selection, path: Path | None, facts: Facts, out: Output) -> LatencyTable | None:
    """The latency table a selection was made with: the one at `path`, or the one among this device's with its hash.

    None where it is not at hand; the promise is then measured, but the device's state is held against nothing.

    Raises:
        BadFile: the named table is another one, or is damaged.
    """
    wanted = chosen.inputs.get("latency-table")
    if path is not None:
        table = LatencyTable.read(path)
        if wanted not in (None, table.sha256):
            raise BadFile(
                f"{path} changed since the selection was made, or is another table",
                hint="select again with this table",
            )
        return table
    for found in settings.tables_dir(facts.device_model).glob("*.jsonl"):
        if hashlib.sha256(found.read_bytes()).hexdigest() == wanted:
            return LatencyTable.read(found)
    out.warning("the latency table of the selection is not here: conditions of the device are not compared")
    return None


def accuracy_table(path: Path | None, space: str, checkpoint: Checkpoint | None, out: Output) -> AccuracyTable:
    """The table at `path`, or the newest one of this checkpoint in the home or among those that ship.

    Raises:
        UsageError: there is none, or the named one is of another space or checkpoint.
        BadFile: the named one is damaged.
    """
    if path is not None:
        table = AccuracyTable.read(path, get_space(space))
        if checkpoint is not None and table.header.checkpoint != checkpoint.sha256:
            raise UsageError(
                f"{path} was measured with another checkpoint ({table.header.checkpoint[:12]}, "
                f"not {checkpoint.sha256[:12]})",
                hint="measure this one with `ofa-edge evaluate`",
            )
        return table
    folders = (settings.home() / "accuracy", shipped.tables() / "accuracy")
    for folder in folders:
        for found in sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True):
            try:
                table = AccuracyTable.read(found)
            except OfaEdgeError:
                continue
            if (table.header.space == space and checkpoint is None) or (
                checkpoint is not None and table.header.checkpoint == checkpoint.sha256
            ):
                out.notice(f"accuracy table {found}")
                return table
    raise UsageError(
        f"there is no accuracy table of space {space}"
        + (f" for checkpoint {checkpoint.sha256[:12]}" if checkpoint else ""),
        hint="make one with `ofa-edge evaluate --data PATH --samples 300 --out FILE`, and name it",
    )


def hashes(latency: LatencyTable, accuracy: AccuracyTable) -> dict[str, str]:
    """Hex sha256 of what a selection from these tables comes from, by role."""
    return {
        "latency-table": latency.sha256,
        "accuracy-table": accuracy.sha256,
        "supernet": accuracy.header.checkpoint,
    }


def models(latency: LatencyTable, accuracy: AccuracyTable, seed: int) -> Models:
    """Fit both models.

    Raises:
        UsageError: the tables are of different spaces.
    """
    if latency.header.space != accuracy.header.space:
        raise UsageError(
            f"the latency table is of space {latency.header.space}, the accuracy table of {accuracy.header.space}",
            hint="give tables of one space",
        )
    space = get_space(latency.header.space)
    return Models(latency, LatencyModel.from_table(latency), accuracy, AdditiveAccuracy.fit(space, accuracy, seed=seed))
