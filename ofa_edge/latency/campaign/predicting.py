"""Rows for the blocks that a quick campaign does not measure.

In: its table so far, and those blocks. Out: `predicted` rows that are not in it yet. Rules kept: a block that failed or
was measured has no such row; nor has one of which nothing measured tells (it stays missing, and `table check` says so);
times are rounded as in all rows, so that equal measurements give equal rows and a resumed campaign adds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ofa_edge.latency.models.block_model import MIN_FITTED, BlockModel
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.block import Block


def predicted_rows(table: LatencyTable, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Fields key, median (ms) and error (relative standard error, cross-validated) of each row."""
    if len(table.blocks) < MIN_FITTED:
        return []
    measured = table.blocks.sort_index()
    model = BlockModel([Block.from_key(key) for key in measured.index], measured["median"].tolist())
    known = set(measured.index) | set(table.failed.index)
    wanted = [block for block in blocks if block.key not in known and model.knows(block)]
    if not wanted:
        return []
    times, errors = model.predict(wanted)
    there = {row.Index: (row.median, row.error) for row in table.predicted[["median", "error"]].itertuples()}
    rows = []
    for block, ms, error in zip(wanted, times.tolist(), errors.tolist(), strict=True):
        value = round(ms, 7), round(error, 4)
        if there.get(block.key) != value:
            rows.append({"key": block.key, "median": value[0], "error": value[1]})
    return rows
