"""`ofa-edge select`: the best subnet that a device can run inside a budget, from tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, milliseconds, size
from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from ofa_edge.cli.inputs import Models
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.choose import Chosen

# As many subnets as SPOS's evolution evaluates: 50 in each of 20 generations.
RANDOM_SAMPLES = 1000

STRATEGIES = ("exact", "random", "table")

_AXES = {"d": "depth", "ks": "kernel", "e": "expand", "w": "width"}


def select(
    budget: Annotated[
        str, typer.Option("--budget", metavar="BUDGET", help="20ms, or latency=20ms,memory=8MB,size=5MB,macs=300M.")
    ],
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", metavar="FILE", help="The newest measured from here if left out.")
    ] = None,
    accuracy_table: options.AccuracyTableFile = None,
    supernet: options.Supernet = "embedded",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="exact: the optimum over the whole space of an additive accuracy model; random: the best predicted of "
            "--samples subnets drawn within the budget, a baseline; table: the best subnet that was measured.",
        ),
    ] = "exact",
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Subnets that --strategy random draws; 1000 if left out.")
    ] = None,
    confidence: options.Confidence = 0.95,
    top: Annotated[int, typer.Option("--top", min=0, help="How many alternatives to list.")] = 5,
    seed: options.Seed = 0,
    accept_unknown: options.AcceptUnknown = False,
    out_file: options.MaybeOut = None,
    as_json: options.Json = False,
) -> None:
    """Choose the subnet with the best predicted accuracy whose latency's upper bound fits the budget.

    An infeasible budget is answered at once (exit 3) with the nearest subnet and a budget that it fits. A latency
    budget needs a table that says what it was measured on, or --accept-unknown.
    """
    from ofa_edge.cli import inputs
    from ofa_edge.search import choose
    from ofa_edge.search.budget import Budget
    from ofa_edge.weights import checkpoint as checkpoints

    out = Output(as_json)
    if strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy {strategy!r}", hint=f"use one of: {', '.join(STRATEGIES)}")
    if samples is not None and strategy != "random":
        raise UsageError("--samples is of --strategy random", hint="leave it out, or choose that strategy")
    limits = Budget.parse(budget)
    # With both tables named no weights are needed; deploy holds the selection against its checkpoint.
    needed = accuracy_table is None or supernet != checkpoints.EMBEDDED
    checkpoint = checkpoints.load(supernet).sha256 if needed else None
    accuracy = inputs.accuracy_table(accuracy_table, checkpoint, out)
    latency = inputs.named_latency_table(latency_table, accuracy.header.space, out)
    models = inputs.Models(latency, accuracy, seed)
    if not accept_unknown:
        models.require_known(limits)
    if strategy == "exact":
        chosen = choose_exact(models, limits, confidence=confidence, top=top)
    elif strategy == "random":
        chosen = choose_random(models, limits, samples or RANDOM_SAMPLES, confidence=confidence, top=top)
    else:
        models.require_real(limits)
        chosen = choose.choose_measured(
            models.space, models.latency, accuracy, limits, inputs=models.inputs, confidence=confidence, top=top
        )
    if out_file is not None:
        chosen.selection.write(out_file)
    value = chosen.as_json()
    out.result(value, lambda: describe(value, out_file))


def choose_exact(models: Models, budget: Budget, *, confidence: float = 0.95, top: int = 5) -> Chosen:
    """Strategy exact. Raises as Models.require_real, search.choose.choose and shared_resolutions."""
    from ofa_edge.search import choose

    models.require_real(budget)
    return choose.choose(
        models.space,
        models.latency,
        models.accuracy,
        budget,
        resolutions=choose.shared_resolutions(models.latency.resolutions, models.accuracy),
        inputs=models.inputs,
        confidence=confidence,
        seed=models.seed,
        top=top,
    )


def choose_random(models: Models, budget: Budget, samples: int, *, confidence: float = 0.95, top: int = 5) -> Chosen:
    """Strategy random. Raises as Models.require_real, search.within.choose_random and shared_resolutions."""
    from ofa_edge.search import choose, within

    models.require_real(budget)
    return within.choose_random(
        models.space,
        models.latency,
        models.accuracy,
        budget,
        resolutions=choose.shared_resolutions(models.latency.resolutions, models.accuracy),
        inputs=models.inputs,
        samples=samples,
        confidence=confidence,
        seed=models.seed,
        top=top,
    )


def describe(value: dict[str, Any], file: Path | None = None) -> str:
    """A selection for people."""
    arch, predicted = value["arch"], value["predicted"]
    top1 = predicted["top1"]
    lines = {
        "resolution": str(arch["r"]),
        **{name: " ".join(map(str, arch[key])) for key, name in _AXES.items() if key in arch},
        "latency": milliseconds(**predicted["latency_ms"]),
        "top-1": f"{100 * top1['value']:.1f} % ({100 * top1['low']:.1f} to {100 * top1['high']:.1f}), "
        + ("measured on the table's images" if value["strategy"] == "table" else "predicted"),
        "MACs": f"{predicted['macs'] / 1e6:.1f} M",
        "weights": size(predicted["weight_bytes"]),
        "optimal": ("proven" if value["proven_optimal"] else f"bound {100 * value['bound']:.2f} %")
        + f", {value['seconds']:.2f} s",
        "model": value["model"],
    }
    for index, other in enumerate(value["alternatives"], 1):
        theirs = other["predicted"]
        lines[f"next {index}"] = f"{100 * theirs['top1']['value']:.1f} %, {milliseconds(**theirs['latency_ms'])}"
    if file is not None:
        lines["selection"] = str(file)
    return fields(lines)
