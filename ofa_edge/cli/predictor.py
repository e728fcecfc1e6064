"""`ofa-edge predictor`: predict top-1 from an accuracy table, and say how well that works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields
from ofa_edge.errors import UsageError
from ofa_edge.files import require_replaceable

predictor = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Predict top-1 from an accuracy table, and say how well.",
)

Table = Annotated[Path, typer.Argument(metavar="TABLE", help="An accuracy table.")]


@predictor.command()
def fit(
    table: Table,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="additive: a sum over choices, what select searches; pairwise: also all pairs of choices; mlp: "
            "Once-for-All's network (trains in torch).",
        ),
    ] = "additive",
    space: options.SpaceName = None,
    seed: options.Seed = 0,
    out_file: options.MaybeOut = None,
    as_json: options.Json = False,
) -> None:
    """Fit a predictor, cross-validate it on subnets left out of the fit, and keep it in --out."""
    from ofa_edge.accuracy import family

    out = Output(as_json)
    if out_file is not None:
        require_replaceable(out_file, family.is_one, "predictor")
    value = _fitted(table, space, kind, seed, out_file, out)
    out.result(value, lambda: _as_text(value))
    if out_file is None:
        out.say(f"not kept; --out FILE keeps it for `ofa-edge predictor predict` ({family.SCHEMA})")


@predictor.command()
def compare(
    table: Table, space: options.SpaceName = None, seed: options.Seed = 0, as_json: options.Json = False
) -> None:
    """Fit every kind of predictor and print what each reaches on subnets left out of its fit.

    A kind that cannot be fitted on this table, or needs torch where that is not installed, is left out with a warning.
    """
    from ofa_edge.accuracy import family

    out = Output(as_json)
    found = []
    for kind in family.KINDS:
        try:
            found.append(_fitted(table, space, kind, seed, None, out))
        except ModuleNotFoundError as error:
            out.warning(f"{kind} needs {error.name}: pip install 'ofa-edge[train]'")
        except UsageError as error:
            if not found:  # the first kind takes every table that can be fitted at all
                raise
            out.warning(f"{kind}: {error.message}")
    out.result(found, lambda: "\n\n".join(map(_as_text, found)))


@predictor.command()
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A predictor that `fit --out` wrote.")],
    arch: options.ArchFile,
    space: options.SpaceName = None,
    confidence: options.Confidence = 0.95,
    as_json: options.Json = False,
) -> None:
    """Predict top-1 of archs on the images of the predictor's table.

    Between measured input sizes it is interpolated in FLOPs, as Once-for-All does; the interval likewise, so it does
    not count the error of the interpolation itself.
    """
    from ofa_edge.accuracy import family
    from ofa_edge.space import codecs, spaces

    fitted = family.load(file, spaces.get_space(space) if space else None)
    own = fitted.predictor.space
    archs = codecs.read_archs(own, arch)
    value = {
        "prediction": fitted.predictor.describe(),
        "images": fitted.data,
        "table": fitted.table,
        "subnets": [
            {
                "arch": codecs.encode(own, one),
                "top1": top1.as_json(),
                "interpolated": one.resolution not in fitted.predictor.resolutions,
            }
            for one, top1 in zip(archs, fitted.estimates(archs, confidence), strict=True)
        ],
    }
    Output(as_json).result(value, lambda: _predictions(value))


def _fitted(path: Path, space: str | None, kind: str, seed: int, out_file: Path | None, out: Output) -> dict[str, Any]:
    """Fit one kind: what is printed of it."""
    from ofa_edge.accuracy import family
    from ofa_edge.accuracy.table import AccuracyTable
    from ofa_edge.accuracy.validation import VALIDATION_FOLDS
    from ofa_edge.space import spaces

    table = AccuracyTable.read(path, spaces.get_space(space) if space else None)
    with out.progress(f"fit {kind}", VALIDATION_FOLDS + 1) as bar:
        fitted = family.fit(kind, table.space, table, seed=seed, report=lambda: bar.advance())
    if out_file is not None:
        family.save(fitted, out_file)
    return {
        "kind": kind,
        "rows": fitted.rows,
        "subnets": fitted.subnets,
        "cv": fitted.validation.as_json(),
        "model": fitted.predictor.describe(),
        "file": str(out_file) if out_file else None,
    }


def _as_text(value: dict[str, Any]) -> str:
    cv = value["cv"]
    return fields(
        {
            "predictor": value["kind"],
            "fitted on": f"{value['rows']} rows of {value['subnets']} subnets",
            "left out": f"RMSE {cv['rmse_points']:.3f} points, Spearman {cv['spearman']:.4f}, {cv['folds']}-fold",
            "model": value["model"],
            **({"file": value["file"]} if value["file"] else {}),
        }
    )


def _predictions(value: dict[str, Any]) -> str:
    lines = [f"predicted, on {value['images']}: {value['prediction']}"]
    for one in value["subnets"]:
        top1 = one["top1"]
        between = ", between measured input sizes" if one["interpolated"] else ""
        lines.append(
            f"{one['arch']['r']} px  {100 * top1['value']:.2f} % ({100 * top1['low']:.2f} to {100 * top1['high']:.2f})"
            f", predicted{between}"
        )
    return "\n".join(lines)
