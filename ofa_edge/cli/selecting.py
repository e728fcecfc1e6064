"""`ofa-edge select`: the best subnet that a device can run inside a budget; or one for each mode and device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, milliseconds, size, table
from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ofa_edge.cli.choosing import Asked
    from ofa_edge.cli.inputs import Models
    from ofa_edge.search.choose import Chosen

    Check = Callable[[Chosen, Models], Chosen]

_AXES = {"d": "depth", "ks": "kernel", "e": "expand", "w": "width"}
_ALTERNATIVES = 5


def select(
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
            help="The newest measured from here if left out; several give a subnet for each device.",
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
    python: options.RemotePython = None,
    root: options.Root = None,
    accept_new: options.AcceptNew = False,
    identity: options.Identity = None,
    seed: options.Seed = 0,
    accept_unknown: options.AcceptUnknown = False,
    out_file: options.MaybeOut = None,
    as_json: options.Json = False,
) -> None:
    """Choose the subnet with the best predicted accuracy whose latency's upper bound fits the budget.

    An infeasible budget is answered at once (exit 3): which limits are in the way, the nearest subnet, a budget that it
    fits. A latency budget needs a table that says what it was measured on, or --accept-unknown. With several --mode or
    --latency-table the result is a family, one subnet for each mode on each device; `deploy --selection FILE --mode
    NAME` takes its members.
    """
    from ofa_edge.cli import choosing
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.families import Mode, parse_modes

    out = Output(as_json)
    options.exactly_one(budget=budget, mode=mode or None)
    tables = latency_table or []
    _require_together(
        strategy=strategy,
        samples=samples,
        evolution=evolution,
        predictor=predictor,
        common=common,
        members=max(len(tables), 1) * max(len(mode or []), 1),
        devices=len(tables),
        data=data,
        bn=bn,
        host=measured_on,
    )
    modes = parse_modes(mode or []) or (Mode(None, Budget.parse(budget or "")),)
    models = choosing.load_models(tables, accuracy_table, predictor, supernet, seed, out)
    if not accept_unknown:
        for one in models:
            for wanted in modes:
                one.require_known(wanted.budget)
    check = None
    if data is not None or measured_on is not None:
        connecting = options.connecting(out, python=python, root=root, accept_new=accept_new, identity=identity)
        check = _truth(data, bn, supernet, measured_on, connecting, accept_unknown, top, out)
    how = choosing.How(
        strategy,
        samples=samples or choosing.RANDOM_SAMPLES,
        evolution=evolution or "ofa",
        confidence=confidence,
        top=top if top is not None else _ALTERNATIVES,
    )
    members = choosing.asked(models, modes)
    if mode is None and len(models) == 1:
        (chosen,) = choosing.choose_each(members, how, check)
        if out_file is not None:
            chosen.selection.write(out_file)
        value = chosen.as_json()
        out.result(value, lambda: describe(value, out_file))
        return
    each = choosing.choose_common(members, how) if common else choosing.choose_each(members, how, check)
    family = choosing.family_of(members, each, common)
    if out_file is not None:
        family.write(out_file)
    out.result(
        family.as_json([one.as_json() for one in each]), lambda: describe_family(members, each, common, out_file)
    )


def _require_together(
    *,
    strategy: str,
    samples: int | None,
    evolution: str | None,
    predictor: Path | None,
    common: bool,
    members: int,
    devices: int,
    data: Path | None,
    bn: str | None,
    host: str | None,
) -> None:
    """Raises UsageError where options contradict each other, saying which to leave out."""
    from ofa_edge.search.evolution import PRESETS
    from ofa_edge.search.selection import STRATEGIES

    if strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy {strategy!r}", hint=f"use one of: {', '.join(STRATEGIES)}")
    if evolution is not None and evolution not in PRESETS:
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
            host is not None and devices > 1,
            f"--host measures on one device, and there are {devices} latency tables",
            "give the --latency-table of that device alone",
        ),
        (bn is not None and data is None, "--bn is of --data", "leave it out, or give images"),
    ]
    for contradicts, message, hint in wrong:
        if contradicts:
            raise UsageError(message, hint=hint)


def _truth(
    data: Path | None,
    bn: str | None,
    supernet: str,
    host: str | None,
    connecting: Any,
    accept_unknown: bool,
    top: int | None,
    out: Output,
) -> Check:
    """Measures the best subnets of a choice, and chooses by that."""
    from ofa_edge.cli import truth
    from ofa_edge.search import shortlist

    to_do = truth.Asked(
        data=data,
        supernet=supernet,
        bn=bn or truth.BN[0],
        host=host,
        connecting=connecting,
        accept_unknown=accept_unknown,
        top=shortlist.TOP if top is None else max(top, 1),
    )

    def check(chosen: Chosen, models: Models) -> Chosen:
        return truth.check(chosen, models, to_do, out)

    return check


# -- for people -----------------------------------------------------------------------------------
def describe(value: dict[str, Any], file: Path | None = None) -> str:
    """A selection for people."""
    arch, predicted = value["arch"], value["predicted"]
    lines = {
        "resolution": str(arch["r"]),
        **{name: " ".join(map(str, arch[key])) for key, name in _AXES.items() if key in arch},
        "latency": milliseconds(**predicted["latency_ms"]),
        "top-1": _top1(predicted["top1"])
        + (", measured on the table's images" if value["strategy"] == "table" else ", predicted"),
        **_measured(value.get("measured") or {}),
        "MACs": f"{predicted['macs'] / 1e6:.1f} M",
        "weights": size(predicted["weight_bytes"]),
        **({"energy": _millijoules(predicted["energy_mj"])} if "energy_mj" in predicted else {}),
        "optimal": _optimal(value) + f", {value['seconds']:.2f} s",
        "model": value["model"],
    }
    for index, other in enumerate(value["alternatives"], 1):
        theirs = other["predicted"]
        lines[f"next {index}"] = f"{100 * theirs['top1']['value']:.1f} %, {milliseconds(**theirs['latency_ms'])}"
    if file is not None:
        lines["selection"] = str(file)
    return fields(lines)


def _top1(top1: dict[str, float]) -> str:
    return f"{100 * top1['value']:.1f} % ({100 * top1['low']:.1f} to {100 * top1['high']:.1f})"


def _measured(value: dict[str, Any]) -> dict[str, str]:
    """What the truth step measured of the chosen subnet."""
    lines = {}
    if value.get("latency_ms"):
        lines["  measured"] = milliseconds(**value["latency_ms"])
    if value.get("top1"):
        expected = f"; to expect: {100 * value['corrected_top1']:.1f} %" if value.get("corrected_top1") else ""
        lines["  on images"] = f"{_top1(value['top1'])}, {value['n']} images{expected}"
    return lines


def _millijoules(energy: dict[str, float | None]) -> str:
    known = "" if energy["high"] is None else f" ({energy['low']:.2f} to {energy['high']:.2f})"
    return f"{energy['value']:.2f} mJ{known}, predicted"


def _optimal(value: dict[str, Any]) -> str:
    return "proven" if value["proven_optimal"] else f"bound {100 * value['bound']:.2f} %"


def describe_family(members: Sequence[Asked], each: Sequence[Chosen], common: bool, file: Path | None = None) -> str:
    """A family for people: a row a member; of a common one the subnet once."""
    rows = []
    for member, chosen in zip(members, each, strict=True):
        value = chosen.as_json()
        predicted = value["predicted"]
        rows.append(
            [
                member.mode.name or "-",
                member.models.latency_table.conditions.device_model if not member.device else member.device,
                str(member.mode.budget),
                str(value["arch"]["r"]),
                _top1((value.get("measured") or {}).get("top1") or predicted["top1"]),
                milliseconds(**((value.get("measured") or {}).get("latency_ms") or predicted["latency_ms"])),
                f"{predicted['macs'] / 1e6:.1f} M",
                size(predicted["weight_bytes"]),
                _optimal(value),
            ]
        )
    heads = ["mode", "device", "budget", "px", "top-1", "latency", "MACs", "weights", "optimal"]
    lines = [table(heads, rows, right=("px", "MACs", "weights"))]
    if common:
        arch = each[0].as_json()["arch"]
        axes = {name: " ".join(map(str, arch[key])) for key, name in _AXES.items() if key in arch}
        lines.append(fields({"for all": "one subnet", "resolution": str(arch["r"]), **axes}))
    if file is not None:
        lines.append(fields({"family": str(file)}))
    return "\n\n".join(lines)
