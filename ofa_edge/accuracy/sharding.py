"""Many workers, one accuracy table: each writes a part of its own, and whoever ends last puts the parts together.

In: a table's path, the archs it is to hold, this worker's Shard. Out: `FILE.2of4` while it grows, and FILE, with the
very rows one worker alone would have written, in the same order. Rules kept: workers talk through these files only, no
torch and no network; a killed worker costs the row it was at, and goes on when it is started again with --resume; FILE
is made when every part ends as a finished journal does, so it never lacks what a worker still measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ofa_edge.accuracy.evaluate import Evaluator, fill_table
from ofa_edge.accuracy.samples import Shard
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyTable, AccuracyWriter
from ofa_edge.errors import LockHeld, UsageError
from ofa_edge.space.arch import Arch, Space


def part_path(out: Path, shard: Shard) -> Path:
    """Where a worker's rows are until all have ended."""
    return out.with_name(f"{out.name}.{shard.index + 1}of{shard.count}")


def fill_part(
    evaluator: Evaluator,
    archs: Sequence[Arch],
    out: Path,
    shard: Shard,
    header: AccuracyHeader,
    *,
    resume: bool,
    report: Callable[[Arch], None],
) -> AccuracyTable | None:
    """Measure this worker's part of the archs, then put all parts together if it was the last to end.

    Rows that FILE has already, from an earlier run, are not measured again.

    Returns:
        The whole table, or None while other workers are not done.

    Raises:
        UsageError: FILE or the part exists, and `resume` is False.
        BadFile: one of them is damaged or was made under other conditions.
        LockHeld: another process is writing the part.
    """
    space = evaluator.checkpoint.space
    if out.exists() and not resume:
        raise UsageError(f"{out} exists already", hint="continue it with --resume, or choose another file with --out")
    known = set(AccuracyTable.read(out, space).frame["arch"]) if out.exists() else set()
    own = [arch for arch in shard.part(archs) if arch not in known]
    with AccuracyWriter.open(part_path(out, shard), space, header, resume=resume) as writer:
        fill_table(evaluator, own, writer, report)
        writer.finish()
    return merge(archs, out, shard.count, space, header)


def merge(archs: Sequence[Arch], out: Path, count: int, space: Space, header: AccuracyHeader) -> AccuracyTable | None:
    """Put the parts of `count` workers into FILE and remove them; None where some are not finished.

    Raises:
        BadFile: a part is damaged or was made under other conditions.
    """
    paths = [part_path(out, Shard(index, count)) for index in range(count)]
    parts = _finished(paths, space)
    if parts is None:
        return None
    try:
        # Where two came here at once, the second finds every row in FILE already and copies none.
        with AccuracyWriter.open(out, space, header, resume=True) as writer:
            _copy(archs, parts, writer, header)
            writer.finish()
            for path in paths:
                path.unlink(missing_ok=True)
    except LockHeld:
        return None
    return AccuracyTable.read(out, space)


def _finished(paths: Sequence[Path], space: Space) -> list[AccuracyTable] | None:
    """The parts, where all of them have ended."""
    try:
        parts = [AccuracyTable.read(path, space) for path in paths]
    except UsageError:  # not there: not begun, or another worker has just put it into FILE
        return None
    return parts if all(part.complete for part in parts) else None


def _copy(
    archs: Sequence[Arch], parts: Sequence[AccuracyTable], writer: AccuracyWriter, header: AccuracyHeader
) -> None:
    """All rows of the parts, in the order of `archs`, then those that an earlier run had drawn otherwise."""
    rows: dict[Arch, tuple[int, int]] = {}
    failed: dict[Arch, str] = {}
    for part in parts:
        part.header.require_same(header, "the part of another worker")
        rows |= zip(part.frame["arch"], zip(part.frame["correct"], part.frame["n"], strict=True), strict=True)
        failed |= part.failed
    for arch in dict.fromkeys([*archs, *rows, *failed]):
        if arch in rows and arch not in writer:
            correct, n = rows[arch]
            writer.add(arch, int(correct), int(n))
        elif arch in failed and arch not in writer:
            writer.fail(arch, failed[arch])
