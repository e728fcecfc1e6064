"""`ofa-edge table`: what tables hold, what is wrong with them, how two of them differ, and other programs' files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_edge.cli import options, table_formats, table_texts
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, NotTrustworthy, OfaEdgeError

table = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show, check, compare, merge, import and export tables.",
)
table.command("import")(table_formats.import_)
table.command("export")(table_formats.export)

_SLOWEST = 10

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables.")]


@table.command()
def show(files: Files, as_json: options.Json = False) -> None:
    """What a table was measured on and of what, how well, and its slowest blocks; also of accuracy tables."""
    out = Output(as_json)
    values = [_shown(file) for file in files]
    out.result(_one_or_all(values), lambda: "\n\n".join(map(table_texts.shown, values)))


@table.command()
def check(
    files: Files,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 6 where a table is not trustworthy.")] = False,
    as_json: options.Json = False,
) -> None:
    """What is wrong with tables. Exit 9 where a file is invalid; other problems are told, and are no failure.

    Problems have a level: invalid, doubtful (--strict refuses these) or note, and a code that stays the same.
    """
    out = Output(as_json)
    values, errors = [], []
    for file in files:
        value, error = _checked(file, strict)
        values.append(value)
        errors += [error] if error else []
    out.result(_one_or_all(values), lambda: "\n\n".join(map(table_texts.checked, values)))
    if errors:
        raise next((error for error in errors if isinstance(error, BadFile)), errors[0])


@table.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A latency table.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every block that both measured.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """How two latency tables differ: conditions, a common factor, and the blocks that differ beyond both intervals.

    Two blocks differ where their intervals do not overlap.
    """
    from ofa_edge.latency.exchange import diff as diffs
    from ofa_edge.latency.table import LatencyTable

    out = Output(as_json)
    found = diffs.diff(LatencyTable.read(a), LatencyTable.read(b))
    value = {"a": str(a), "b": str(b), **found.as_json()}
    if csv is not None:
        diffs.write_csv(found, csv)
    out.result(value, lambda: table_texts.differing(value))


@table.command()
def merge(
    files: Files,
    out_file: options.Out,
    accept_unknown: options.AcceptUnknown = False,
    as_json: options.Json = False,
) -> None:
    """Put latency tables of one device and space together, under equal conditions; every row is kept once."""
    from ofa_edge.latency.exchange import merge as merging
    from ofa_edge.latency.table import LatencyTable

    out = Output(as_json)
    table_formats.require_new(out_file)
    tables = [LatencyTable.read(file) for file in files]
    for found in tables:
        if not found.complete:
            out.notice(f"{found.path} is not finished; what it holds is merged")
    found = merging.merge(tables, out_file, accept_unknown=accept_unknown)
    value = {
        "table": found.path,
        "sha256": found.sha256,
        "rows": len(found.contents.rows),
        "blocks": len(found.blocks),
        "networks": len(found.networks),
        "space": found.header.space,
        "resolutions": found.header.resolutions,
        "conditions": found.conditions.model_dump(mode="json"),
    }
    out.result(value, lambda: table_texts.made(value))


# -- one file -------------------------------------------------------------------------------------
def _shown(file: Path) -> dict[str, Any]:
    from ofa_edge.latency.judging import health
    from ofa_edge.latency.table import LatencyTable

    if _is_accuracies(file):
        return _accuracies(file)
    found = LatencyTable.read(file)
    report = health.check(found)
    slowest = found.blocks.sort_values("median", ascending=False).head(_SLOWEST)
    roles = found.networks["role"].tolist()
    return {
        **_identity("latency-table", found.path, found.sha256, found.complete),
        "rows": len(found.contents.rows),
        "conditions": found.conditions.model_dump(mode="json"),
        "provenance": found.header.provenance.model_dump(mode="json"),
        "space": found.header.space,
        "resolutions": found.header.resolutions,
        "blocks": {
            "measured": len(found.blocks),
            "predicted": len(found.predicted),
            "failed": len(found.failed_blocks),
            **health.precision(found),
        },
        "networks": {role: roles.count(role) for role in ("calibration", "holdout")},
        "fit": None if report.model is None else report.model.fit.as_json(),
        "held_out": None if report.held_out is None else report.held_out.as_json(),
        "verdict": None if report.verdict is None else str(report.verdict),
        "problems": [problem.as_json() for problem in report.problems],
        "slowest": [
            {"key": key, "ms": row["median"], "low": _number(row["low"]), "high": _number(row["high"])}
            for key, row in slowest.iterrows()
        ],
    }


def _checked(file: Path, strict: bool) -> tuple[dict[str, Any], OfaEdgeError | None]:
    """What `check` says of a file, and the error it ends in. A file that cannot be read is one problem."""
    from ofa_edge.latency.judging import health
    from ofa_edge.latency.table import LatencyTable

    try:
        if _is_accuracies(file):
            value = _accuracies(file)
            unfinished = [problem for problem in value["problems"] if problem["level"] == "doubtful"]
            error = NotTrustworthy(f"{file} is not finished", hint=unfinished[0]["hint"]) if unfinished else None
            return value, error if strict else None
        found = LatencyTable.read(file)
    except BadFile as error:
        problem = {"level": "invalid", "code": "unreadable", "text": error.message, "value": None, "hint": error.hint}
        return {"table": str(file), "rows": 0, "conditions": None, "problems": [problem]}, error
    report = health.check(found)
    value = {
        **_identity("latency-table", found.path, found.sha256, found.complete),
        "rows": len(found.contents.rows),
        "conditions": found.conditions.model_dump(mode="json"),
        "verdict": None if report.verdict is None else str(report.verdict),
        "fit": None if report.model is None else report.model.fit.as_json(),
        "held_out": None if report.held_out is None else report.held_out.as_json(),
        "problems": [problem.as_json() for problem in report.problems],
    }
    try:
        report.require_valid()
        if strict:
            report.require_trustworthy()
    except OfaEdgeError as error:
        return value, error
    return value, None


def _accuracies(file: Path) -> dict[str, Any]:
    from ofa_edge.accuracy.table import AccuracyTable

    found = AccuracyTable.read(file)
    hint = "`ofa-edge evaluate --resume` goes on"
    problems = [("doubtful", "unfinished", "the campaign did not end", hint)] if not found.complete else []
    problems += [("note", "failed", f"{arch}: {reason}", hint) for arch, reason in found.failed.items()]
    top1 = found.frame["top1"]
    header = found.header
    return {
        **_identity("accuracy-table", str(file), found.sha256, found.complete),
        "rows": len(found.frame),
        "conditions": header.conditions,
        "space": header.space,
        "resolutions": sorted(set(found.frame["resolution"].tolist())),
        "top1": None if top1.empty else {"least": float(top1.min()), "greatest": float(top1.max())},
        "problems": [
            {"level": level, "code": code, "text": text, "value": None, "hint": hint}
            for level, code, text, hint in problems
        ],
    }


def _identity(kind: str, path: str, sha256: str, complete: bool) -> dict[str, Any]:
    return {"table": path, "kind": kind, "sha256": sha256, "complete": complete}


def _is_accuracies(file: Path) -> bool:
    from ofa_edge import journal

    return journal.schema(file) == "accuracy-table"


def _one_or_all(values: Sequence[dict[str, Any]]) -> Any:
    """One file gives a value, several a list."""
    return values[0] if len(values) == 1 else list(values)


def _number(value: float) -> float | None:
    return None if value != value else float(value)
