"""`ofa-edge report`: tables, selections and predictors as one page that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, size

if TYPE_CHECKING:
    from ofa_edge.report.page import Page

_START = b"<!doctype html>"


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Latency tables, accuracy tables, selections and predictors, in any order."
        ),
    ],
    out_file: options.Out,
    confidence: options.Confidence = 0.95,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", metavar="BUDGET", help="To compare devices by; repeatable. Five along the fronts if left out."
        ),
    ] = None,
    accept_unknown: options.AcceptUnknown = False,
    as_json: options.Json = False,
) -> None:
    """Write one self-contained HTML page: fronts, the chosen subnets block by block, predicted against measured,
    MACs against latency, and the tables' health. It loads nothing from any network and runs no script.

    What there are no files for is left out, with a line that says what to give. The same files give the same page.
    """
    from ofa_edge.files import require_replaceable, write_result
    from ofa_edge.report import sources
    from ofa_edge.report.page import page
    from ofa_edge.search.budget import Budget

    out = Output(as_json)
    limits = [Budget.parse(text) for text in budget or ()]
    require_replaceable(out_file, lambda start: start.lower().startswith(_START), "page")
    found = page(sources.read(files), confidence=confidence, budgets=limits, accept_unknown=accept_unknown)
    write_result(out_file, found.content)
    value = _value(found, out_file)
    out.result(value, lambda: _text(value))


def _value(found: Page, out_file: Path) -> dict[str, Any]:
    return {
        "page": str(out_file),
        "sha256": found.sha256,
        "bytes": len(found.content),
        "sections": [
            {"name": section.ident, "drawn": section.body is not None, "missing": list(section.missing)}
            for section in found.sections
        ],
    }


def _text(value: dict[str, Any]) -> str:
    sections = value["sections"]
    lines = {
        "page": f"{value['page']} ({size(value['bytes'])})",
        "drawn": ", ".join(section["name"] for section in sections if section["drawn"]),
    }
    for section in sections:
        if section["missing"] and not section["drawn"]:
            lines[f"not {section['name']}"] = " ".join(section["missing"])
    return fields(lines)
