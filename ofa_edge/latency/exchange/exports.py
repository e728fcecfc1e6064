"""Our latency tables as files that others read: Once-for-All's and ProxylessNAS's yaml (csv and parquet: columns.py).

In: a LatencyTable. Out: one yaml file a resolution. Rules kept: `mean` is a mean, not our median; a key whose block was
not measured is not made up; what was imported is written as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import write_result
from ofa_edge.latency.exchange import foreign_keys, yaml_tables
from ofa_edge.latency.exchange.foreign_keys import OFA, PROXYLESS
from ofa_edge.latency.exchange.yaml_tables import Entry
from ofa_edge.latency.table import LatencyTable

_SHOWN = 3  # keys named in a message


def yaml_files(table: LatencyTable, format: str) -> dict[int, str]:
    """Resolution -> text of its file. An imported table gives what was imported; one of ours the mean, the standard
    deviation and the number of timed batches of its blocks.

    Raises:
        BadFile: a block was not measured; the message names it.
        UsageError: the format has no keys for these blocks.
    """
    space = table.space
    measured = {key: _entry(n, mean, std) for key, n, mean, std in table.blocks[["n", "mean", "std"]].itertuples()}
    said: dict[tuple[int, str], Entry] = {
        (row["resolution"], row["key"]): Entry(row["mean"], row.get("n"), row.get("std"))
        for row in table.contents.of("given")
    }
    found, lacking = {}, []
    for size in table.header.resolutions:
        rows = {}
        for key, meaning in foreign_keys.keys(space, size, format).items():
            parts = [said.get((size, block.key)) or measured.get(block.key) for block, _ in meaning]
            if (entry := _whole(parts)) is None:
                lacking.append(key)
            else:
                rows[key] = entry
        found[size] = yaml_tables.text(rows, variance=format == PROXYLESS)
    if lacking := list(dict.fromkeys(lacking)):
        raise BadFile(
            f"{table.path} has no measurement of {len(lacking)} of the blocks that {format} needs:"
            f" {', '.join(lacking[:_SHOWN])}{', ...' if len(lacking) > _SHOWN else ''}",
            hint="go on with `ofa-edge profile --resume`, without --quick; or export csv, which holds what is there",
            details={"keys": lacking},
        )
    return found


def write_yaml(table: LatencyTable, format: str, out: Path) -> list[Path]:
    """Write `yaml_files`: into the folder `out` as `<resolution>_lookup_table.yaml`, or, for a table of one
    resolution, as the file `out` if it is named .yaml or .yml.

    Raises:
        UsageError: `out` names one file and there are several. Besides as `yaml_files`.
        OfaEdgeError: a file cannot be written.
    """
    files = yaml_files(table, format)
    if out.suffix in (".yaml", ".yml"):
        if len(files) > 1:
            raise UsageError(
                f"{table.path} has {len(files)} resolutions, and {format} has one file for each",
                hint=f"name a folder: --out {out.with_suffix('')}",
            )
        paths = dict.fromkeys(files, out)
    else:
        paths = {size: out / f"{size}_lookup_table.yaml" for size in files}
    for size, path in paths.items():
        write_result(path, files[size].encode())
    return list(paths.values())


def _entry(n: float, mean: float, std: float) -> Entry:
    return Entry(float(mean), None if math.isnan(n) else int(n), None if math.isnan(std) else float(std))


def _whole(parts: Sequence[Entry | None]) -> Entry | None:
    """The entry of a key that stands for several blocks, which run one after the other; None where one is missing."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if len(known) == 1:
        return known[0]
    counts = {part.count for part in known}
    # Parts of one measurement vary together: their deviations add up, as the shares they are do.
    spreads = [part.std for part in known if part.std is not None]
    return Entry(
        math.fsum(part.mean for part in known),
        counts.pop() if len(counts) == 1 else None,
        math.fsum(spreads) if len(spreads) == len(known) else None,
    )


def guess(table: LatencyTable, out: Path) -> str:
    """The format that a name asks for: csv, parquet, or for yaml and folders the one the table was imported from."""
    kind = out.suffix.lower().removeprefix(".")
    if kind in ("csv", "parquet"):
        return kind
    if kind not in ("", "yaml", "yml") and not out.is_dir():
        raise UsageError(
            f"the name of {out} does not tell a format", hint=f"name it with --format: {OFA}, {PROXYLESS}, csv, parquet"
        )
    imported = (table.header.provenance.model_extra or {}).get("imported")
    return PROXYLESS if isinstance(imported, dict) and imported.get("format") == PROXYLESS else OFA
