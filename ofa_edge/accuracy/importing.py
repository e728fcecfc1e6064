"""Accuracies that others measured, into an accuracy table.

In: CSV files of one row per measurement, as the Once-for-All accuracies published by others have them: an OFA dict as
Python prints it (`Sub-network`), top-1 in percent (`Top-1 Acc (%)`), and where the column is there the `MACs` they
counted. Out: a finished table whose checkpoint is 'unknown'. Rules kept: a subnet that was measured several times
becomes one row with the mean, rounded to whole images; the MACs must be those of the space, since the archs of two
spaces that differ in width alone read the same; nothing in a file is evaluated but literals.
"""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_edge.accuracy.table import UNKNOWN, AccuracyHeader, AccuracyWriter
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import cost

ARCH, TOP1, MACS = "Sub-network", "Top-1 Acc (%)", "MACs"
_MAX_FIELD = 10_000


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of the files.

    Attributes:
        rows: measurements in the files.
        subnets: different ones.
        spread: greatest difference between measurements of one subnet, a share.
    """

    rows: int
    subnets: int
    spread: float


def import_csv(paths: Sequence[Path], space: Space, images: int, out: Path, *, data: str) -> Imported:
    """Write the table of some CSV files.

    Args:
        images: how many images each top-1 was measured on.
        data: these images in words, for the header.

    Raises:
        UsageError: a file cannot be read, or `out` exists already.
        BadFile: a file lacks a column, or a row is no subnet of this space with a top-1.
    """
    found: dict[Arch, list[float]] = {}
    for path in paths:
        for arch, share in _rows(path, space):
            found.setdefault(arch, []).append(share)
    if not found:
        raise BadFile(f"{paths[0]} has no rows", hint="give a file with measurements")
    header = AccuracyHeader.of(space, checkpoint=UNKNOWN, data=data, bn=UNKNOWN, seed=0)
    with AccuracyWriter.open(out, space, header) as writer:
        for arch, shares in found.items():
            writer.add(arch, round(math.fsum(shares) / len(shares) * images), images)
        writer.finish()
    spread = max(max(shares) - min(shares) for shares in found.values())
    return Imported(sum(map(len, found.values())), len(found), spread)


def _rows(path: Path, space: Space) -> Iterator[tuple[Arch, float]]:
    hint = f"the columns are {ARCH!r}, {TOP1!r} and, if there, {MACS!r}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            if missing := [name for name in (ARCH, TOP1) if name not in (reader.fieldnames or ())]:
                raise BadFile(f"{path} has no column {missing[0]!r}", hint=hint)
            for row in reader:
                try:
                    yield _row(row, space)
                except UsageError as error:
                    raise BadFile(f"{path} line {reader.line_num}: {error.message}", hint=error.hint or hint) from error
                except ValueError as error:
                    raise BadFile(f"{path} line {reader.line_num}: {error}"[:500], hint=hint) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{path} is not a CSV file: {error}", hint=hint) from error


def _row(row: dict[str, str | None], space: Space) -> tuple[Arch, float]:
    """Raises ValueError or UsageError."""
    text = row[ARCH] or ""
    if len(text) > _MAX_FIELD:
        raise ValueError(f"its arch is {len(text)} characters long")
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"its arch is not a dict as Python prints it ({type(error).__name__})") from error
    arch = codecs.decode(space, value)
    percent = float(row[TOP1] or "")
    if not 0 <= percent <= 100:
        raise ValueError(f"top-1 of {percent} % is impossible")
    if row.get(MACS):
        said, own = float(row[MACS] or ""), cost(space.blocks(arch)).macs
        if said > 0 and said != own:
            raise UsageError(
                f"{said:,.0f} MACs are not those of this subnet in space {space.name}, which has {own:,}",
                hint="name the space they were measured in with --space; `ofa-edge spaces` lists them",
            )
    return arch, percent / 100
