"""`ofa-edge select`: the best subnet that a device can run inside a budget; or one for each mode and device."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.cli.selection_texts import describe, describe_family
from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from ofa_edge.cli.members import Then
    from ofa_edge.device import ConnectOptions

_ALTERNATIVES = 5


@reaches
def select(
    reach: Reach,
    budget: options.BudgetText = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode", metavar="NAME:BUDGET", help="In place of --budget: a subnet for each of several; repeatable."
        ),
    ] = None,
    latency_table: Annotated[
        list[Path] | None,
        typer.Option(
            "--latency-table",
            metavar="FILE",
            help="The newest measured from here if left out; several give a subnet for each device, and of one device, "
            "with other runtimes or precisions, the best of all of them.",
        ),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="One subnet for all modes and devices: the best that keeps every budget.")
    ] = False,
    accuracy_table: options.AccuracyTableFile = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            "--predictor", metavar="FILE", help="Of `ofa-edge predictor fit`, in place of a model fitted here."
        ),
    ] = None,
    supernet: options.Supernet = "embedded",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="exact: the optimum over the whole space, with the proof or a bound; evolution: the published search, "
            "for comparison; random: the best predicted of --samples subnets, a baseline; table: the best that was "
            "measured.",
        ),
    ] = "exact",
    evolution: Annotated[
        str | None,
        typer.Option(
            "--evolution", metavar="ofa|spos", help="Whose --strategy evolution: Once-for-All's, if left out, or SPOS'."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Subnets that --strategy random draws; 1000 if left out.")
    ] = None,
    confidence: options.Confidence = 0.95,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=0, help="Alternatives to list, 5 if left out; or with --data or --host to measure, 20."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Evaluate the best subnets on these images, and choose by that."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="fp16",
            help="Weights in half precision, by tables of fp32: limits on size count their bytes. Else as tables say.",
        ),
    ] = None,
    int8_drop: Annotated[
        float | None,
        typer.Option(
            "--int8-drop",
            metavar="POINTS",
            min=0,
            max=100,
            help="Points of top-1 that int8 loses, for int8 tables without --data, which measures it.",
        ),
    ] = None,
    bn: Annotated[
        str | None,
        typer.Option(
            "--bn", metavar="HOW", help="Of --data: recalibrated (in torch, if left out), bank or running, as deployed."
        ),
    ] = None,
    measured_on: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST", help="Measure the best subnets on this device, and choose by that."),
    ] = None,
    seed: options.Seed = 0,
    accept_unknown: options.AcceptUnknown = False,
    out_file: options.MaybeOut = None,
) -> None:
    """Choose the subnet with the best predicted accuracy whose latency's upper bound fits the budget.

    An infeasible budget is answered at once (exit 3): which limits are in the way, the nearest subnet, a budget that it
    fits. A latency budget needs a table that says what it was measured on, or --accept-unknown. With several --mode or
    --latency-table the result is a family, one subnet for each mode on each device; `deploy --selection FILE --mode
    NAME` takes its members. Tables of one device that differ in runtime, precision, threads or cores are ways to run
    on it: the best of all is chosen, and the selection says which it runs.
    """
    from ofa_edge.cli import choosing, ways
    from ofa_edge.cli import members as families
    from ofa_edge.files import require_replaceable
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.families import Mode, is_one, parse_modes

    out = reach.out
    options.exactly_one(budget=budget, mode=mode or None)
    tables = latency_table or []
    _require_together(
        strategy=strategy,
        samples=samples,
        evolution=evolution,
        predictor=predictor,
        common=common,
        members=max(len(tables), 1) * max(len(mode or []), 1),
        data=data,
        bn=bn,
        int8_drop=int8_drop,
        host=measured_on,
        precision=precision,
    )
    if out_file is not None:
        require_replaceable(out_file, is_one, "selection")
    modes = parse_modes(mode or []) or (Mode(None, Budget.parse(budget or "")),)
    measures = data is not None or measured_on is not None
    named = tables, accuracy_table, predictor, supernet, seed
    models = choosing.load_models(*named, out, find_table=measures, half=precision is not None)
    gc.freeze()  # what was read stays to the end: looking for garbage in it takes longer than choosing
    if not accept_unknown:
        for one in models:
            for wanted in modes:
                one.require_known(wanted.budget)
    notices = [notice for one in models for notice in one.notices]
    for notice in notices:
        out.notice(notice)
    drop = None if int8_drop is None else int8_drop / 100
    devices = ways.devices_of(models, drop, measured=data is not None, out=out)
    if measured_on is not None and len(devices) > 1:
        raise UsageError(
            f"--host measures on one device, and the latency tables are of {len(devices)}",
            hint="give the --latency-table of that device alone",
        )
    check, alternatives = None, _ALTERNATIVES
    if measures:
        from ofa_edge.search.truth.shortlist import TOP

        alternatives = TOP  # strategy table has no others to measure
        check = _truth(data, bn, supernet, measured_on, reach.connecting, accept_unknown, top, out)
    how = choosing.How(
        strategy,
        samples=samples or choosing.RANDOM_SAMPLES,
        evolution=evolution or "ofa",
        confidence=confidence,
        top=top if top is not None else alternatives,
    )
    members = families.purposes(devices, modes)
    if mode is None and len(devices) == 1 and not common:
        (chosen,) = families.choose_each(members, how, check)
        if out_file is not None:
            chosen.selection.write(out_file)
        value = chosen.as_json() | {"notices": notices}
        out.result(value, lambda: describe(value, out_file))
        return
    each = families.choose_common(members, how) if common else families.choose_each(members, how, check)
    family = families.family_of(members, each, common)
    if out_file is not None:
        family.write(out_file)
    value = family.as_json([one.as_json() for one in each]) | {"notices": notices}
    out.result(value, lambda: describe_family(members, each, common, out_file))


def _require_together(
    *,
    strategy: str,
    samples: int | None,
    evolution: str | None,
    predictor: Path | None,
    common: bool,
    members: int,
    data: Path | None,
    bn: str | None,
    int8_drop: float | None,
    host: str | None,
    precision: str | None,
) -> None:
    """Raises UsageError where options contradict each other, saying which to leave out."""
    from ofa_edge.search.selection import STRATEGIES

    if strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy {strategy!r}", hint=f"use one of: {', '.join(STRATEGIES)}")
    if evolution is not None:
        from ofa_edge.search.sampled.breeding import PRESETS

        if evolution not in PRESETS:
            raise UsageError(f"there is no --evolution {evolution!r}", hint=f"use {' or '.join(PRESETS)}")
    choose_it = "leave it out, or choose that strategy"
    wrong = [
        (samples is not None and strategy != "random", "--samples is of --strategy random", choose_it),
        (evolution is not None and strategy != "evolution", "--evolution is of --strategy evolution", choose_it),
        (
            predictor is not None and strategy == "table",
            "--strategy table chooses by what was measured, and takes no --predictor",
            "leave --predictor out, or use --strategy exact",
        ),
        (common and strategy != "exact", "--common is of --strategy exact", "leave --strategy out, or --common"),
        (
            common and members < 2,
            "--common is for several modes or devices, and there is one",
            "give several --mode or --latency-table, or leave --common out",
        ),
        (
            common and (data is not None or host is not None),
            "--data and --host choose a subnet for each device, and --common one for all",
            "leave --data and --host out, or --common; `ofa-edge measure --arch` measures one subnet",
        ),
        (
            int8_drop is not None and data is not None,
            "--int8-drop tells what --data measures",
            "leave one of them out",
        ),
        (bn is not None and data is None, "--bn is of --data", "leave it out, or give images"),
        (
            precision not in (None, "fp16"),
            f"a subnet is chosen for the precision of its latency table, not for --precision {precision}",
            "leave it out, and name a table of that precision: `ofa-edge profile --precision int8` makes one",
        ),
    ]
    for contradicts, message, hint in wrong:
        if contradicts:
            raise UsageError(message, hint=hint)


def _truth(
    data: Path | None,
    bn: str | None,
    supernet: str,
    host: str | None,
    connecting: ConnectOptions,
    accept_unknown: bool,
    top: int | None,
    out: Output,
) -> Then:
    """Measures the best subnets of a choice, and chooses by that."""
    from ofa_edge.cli import truth_measuring, truth_ways
    from ofa_edge.search.truth import shortlist

    to_do = truth_measuring.Asked(
        data=data,
        supernet=supernet,
        bn=bn or truth_measuring.BN[0],
        host=host,
        connecting=connecting,
        accept_unknown=accept_unknown,
        top=shortlist.TOP if top is None else max(top, 1),
    )

    return lambda device, found, chosen: truth_ways.check(device, found, chosen, to_do, out)
