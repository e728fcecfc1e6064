"""`ofa-edge table import` and `export`: other programs' files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge import journal
from ofa_edge.cli import options, table_texts
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import read_bytes

if TYPE_CHECKING:
    from ofa_edge.latency.exchange.formats import Imported
    from ofa_edge.space.arch import Space

ACCURACY_CSV = "accuracy-csv"
FORMATS = ("ofa-yaml", "proxyless-yaml", "csv", "parquet", ACCURACY_CSV)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A table.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of one table.")]


def import_(
    files: Files,
    out_file: options.Out,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"{', '.join(FORMATS)}; told from the files where left out. ofa-yaml and proxyless-yaml take one file"
            " a resolution; accuracy-csv has columns 'Sub-network' (OFA's dict), 'Top-1 Acc (%)' and, if there, 'MACs',"
            " which are checked.",
        ),
    ] = None,
    space: options.ImportedSpace = None,
    device_model: Annotated[
        str | None, typer.Option("--device-model", metavar="NAME", help="What was measured; unknown if left out.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="KEY=VALUE",
            help="Another condition that is known, such as runtime=litert or threads=1; repeatable.",
        ),
    ] = None,
    resolutions: Annotated[
        str | None,
        typer.Option("--resolutions", metavar="A,B,...", help="Of the files in order, where they do not tell."),
    ] = None,
    images: Annotated[
        int, typer.Option("--n", min=1, help="Of accuracies: how many images each top-1 was measured on.")
    ] = 50_000,
    data: Annotated[
        str | None, typer.Option("--images", metavar="TEXT", help="Of accuracies: these images, in words.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Read tables that others measured: block latencies, or accuracies of subnets.

    A latency table's conditions are unknown but for those that are named; its statistic is what the files have, a
    mean. Repeated accuracies of a subnet become their mean.
    """
    from ofa_edge.latency.exchange import columns, formats
    from ofa_edge.space.spaces import get_space

    out = Output(as_json)
    target = None if space is None else get_space(space)
    format = format or _guess(files)
    if format not in (*FORMATS, "yaml"):
        raise UsageError(f"there is no format {format!r}", hint=f"use one of: {', '.join(FORMATS)}")
    if format == ACCURACY_CSV:
        _import_accuracies(files, target, images, data, out_file, out)
        return
    require_new(out_file)
    said = _said(device_model, condition or [])
    if format in (columns.CSV, columns.PARQUET):
        if len(files) > 1:
            raise UsageError(
                f"{format} tables are imported one by one", hint="`ofa-edge table merge` puts them together"
            )
        found = columns.import_columns(files[0], format, out_file, space=target, said=said)
    else:
        found = formats.import_yaml(
            files,
            out_file,
            format=None if format == "yaml" else format,
            space=target,
            resolutions=_in_order(resolutions),
            said=said,
        )
    _say_imported(found, out)


def _say_imported(found: Imported, out: Output) -> None:
    from ofa_edge.latency.exchange import formats

    if found.left_out:
        out.notice(f"{formats.some(found.left_out)} not in the space and left out")
    if found.missing:
        out.notice(f"{found.missing} blocks of the space are missing and are estimated when they are needed")
    if found.ignored:
        out.notice(f"the files' fields {', '.join(found.ignored)} are not kept")
    table = found.table
    value = {
        "table": table.path,
        "rows": found.rows,
        "blocks": len(table.blocks),
        "space": table.header.space,
        "resolutions": table.header.resolutions,
        "missing": found.missing,
        "left_out": list(found.left_out),
        "conditions": table.conditions.model_dump(mode="json"),
    }
    out.result(value, lambda: table_texts.made(value))


def _import_accuracies(
    files: Sequence[Path], space: Space | None, images: int, data: str | None, out_file: Path, out: Output
) -> None:
    from ofa_edge.accuracy.importing import import_csv

    if space is None:
        raise UsageError(
            "accuracies do not tell their space", hint="name it with --space; `ofa-edge spaces` lists them"
        )
    words = data or f"imported from {', '.join(sorted(file.name for file in files))}, {images} images"
    found = import_csv(files, space, images, out_file, data=words[:2000])
    if found.rows > found.subnets:
        out.say(
            f"{found.rows} measurements of {found.subnets} subnets: those of one subnet, which differ by up to "
            f"{100 * found.spread:.3f} points, become their mean"
        )
    out.result(
        {
            "table": str(out_file),
            "rows": found.rows,
            "subnets": found.subnets,
            "spread_points": 100 * found.spread,
        }
    )


def export(
    file: File,
    out_file: options.Out,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="ofa-yaml or proxyless-yaml (a folder with one file a resolution), csv or parquet; told from --out"
            " where left out.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write the blocks of a latency table for other programs. Networks and what calibrates them stay behind."""
    from ofa_edge.latency.exchange import columns, exports
    from ofa_edge.latency.table import LatencyTable

    out = Output(as_json)
    _require_no_table(out_file)
    found = LatencyTable.read(file)
    format = format or exports.guess(found, out_file)
    if format not in FORMATS or format == ACCURACY_CSV:
        raise UsageError(f"there is no format {format!r}", hint="use ofa-yaml, proxyless-yaml, csv or parquet")
    if format in (columns.CSV, columns.PARQUET):
        columns.write(found, format, out_file)
        written = [out_file]
    else:
        written = exports.write_yaml(found, format, out_file)
    value = {
        "files": [str(path) for path in written],
        "format": format,
        "rows": len(found.blocks),
        "conditions": found.conditions.model_dump(mode="json"),
    }
    out.result(value, lambda: table_texts.made(value))


# -- what was typed -------------------------------------------------------------------------------
def _guess(files: Sequence[Path]) -> str:
    """The format of files: of a csv by its first line, else by the name."""
    from ofa_edge.latency.exchange import formats

    kind = formats.guess(files)
    if kind != "csv":
        return kind
    first = read_bytes(files[0], 1 << 16).partition(b"\n")[0]
    if b"Sub-network" in first:
        return ACCURACY_CSV
    if b"record" in first and b"key" in first:
        return "csv"
    raise BadFile(
        f"the columns of {files[0]} are those of no table",
        hint=f"`ofa-edge table export` writes csv; --format {ACCURACY_CSV} takes 'Sub-network', 'Top-1 Acc (%)'",
    )


def _said(device_model: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """Conditions that a person named, as text or number as the condition needs.

    Raises:
        UsageError: not KEY=VALUE, no such condition, or one is named twice.
    """
    from ofa_edge.latency.conditions import Conditions
    from ofa_edge.latency.exchange import columns

    texts = {} if device_model is None else {"device_model": device_model}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not text.strip() or key not in Conditions.model_fields or key in texts:
            raise UsageError(
                f"--condition {pair!r} names no condition" if key not in texts else f"{key} was named twice",
                hint=f"write KEY=VALUE with one of: {', '.join(Conditions.model_fields)}",
            )
        texts[key] = text.strip()
    return {key: columns.condition(key, text) for key, text in texts.items()}


def _in_order(text: str | None) -> list[int]:
    """One resolution a file, so repeats and the order stay as they are."""
    return [] if text is None else [size for part in text.split(",") for size in options.resolutions(part, ())]


def _require_no_table(path: Path) -> None:
    """An export may be written again; what was measured is never written over."""
    try:
        schema = journal.schema(path)
    except OfaEdgeError:
        return
    raise UsageError(f"{path} is a {schema}, which an export does not replace", hint="choose another file with --out")


def require_new(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} exists already", hint="choose another file with --out")
