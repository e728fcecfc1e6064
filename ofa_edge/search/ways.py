"""The best of several ways to run a subnet on one device: other runtimes, precisions, threads, cores.

In: what was chosen for each way alone (its own latency table, its own drop of accuracy), or why nothing was. Out: one
Chosen, the best over the union, or InfeasibleBudget where no way has a subnet. Rules kept: exact where the parts are:
the best of all optima is the optimum of all, what bounds every part bounds the union, and it is proven where no part
may hold a better one; of equals the faster. A lossy precision competes with its drop subtracted, never as if it were
free. The selection names every table that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate
from ofa_edge.search.choose import Chosen
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Arch

LATENCY_TABLE = "latency-table"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run subnets on a device.

    Attributes:
        name: what people call it: 'litert, fp32, 1 thread'.
        table: of its latencies, as errors call it.
        runs_on: None where its table does not say.
        drop: share of top-1 that is lost by running so, against what accuracies were measured in.
        sha256, header: of its table, as a selection's `inputs` and `headers` have them.
    """

    name: str
    table: str
    runs_on: RunsOn | None
    drop: float = 0.0
    sha256: str = ""
    header: str = ""


class Found(NamedTuple):
    """What a way alone gives: its best subnet, accuracies as in float; or why there is none."""

    way: Way
    result: Chosen | InfeasibleBudget


def best_of(found: Sequence[Found], *, top: int) -> Chosen:
    """The best over all ways, said as one choice.

    Args:
        found: one a way, of one space and one budget; the first of equals counts.
        top: how many alternatives.

    Raises:
        InfeasibleBudget: no way has a subnet.
    """
    ways = [(one.way, run_so(one.result, one.way)) for one in found if isinstance(one.result, Chosen)]
    if not ways:
        raise refused(found)
    order = sorted(range(len(ways)), key=lambda i: (*_rank(_first(ways[i][1].selection)), i))
    way, best = ways[order[0]]
    selection = best.selection
    inputs, headers = with_tables([one.way for one in found], selection)
    empty = all(_proven_empty(one.result) for one in found if isinstance(one.result, InfeasibleBudget))
    merged = replace(
        selection,
        # Of other strategies every bound is one for the whole space, whatever the way.
        bound=_greatest([chosen for _, chosen in ways]) if empty or selection.strategy != "exact" else None,
        proven_optimal=selection.proven_optimal
        and empty
        and all(_no_better(chosen.selection, selection.top1.value) for _, chosen in ways),
        model=f"{selection.model}; the best of {len(found)} ways to run it: {_said(found, way)}",
        inputs=inputs,
        headers=headers,
    )
    seconds = sum(chosen.seconds for _, chosen in ways)
    return Chosen(merged, tuple(_others([chosen for _, chosen in ways], selection.arch, top)), seconds)


def _greatest(ways: Sequence[Chosen]) -> float | None:
    """What bounds all of them; None where one has no bound."""
    bounds = [chosen.selection.bound for chosen in ways]
    return None if None in bounds else max(bound for bound in bounds if bound is not None)


def _no_better(selection: Selection, top1: float) -> bool:
    """Whether it is certain that a way whose best was looked at holds no subnet above this."""
    return selection.proven_optimal or (selection.bound is not None and selection.bound <= top1)


def _proven_empty(refusal: InfeasibleBudget) -> bool:
    """Whether it is certain that a way has no subnet: some limits contradict each other. Else all that were looked at
    broke the budget with their own intervals, or none was drawn."""
    return any(limit.get("conflicts") for limit in refusal.details.get("limits", ()))


def run_so(chosen: Chosen, way: Way) -> Chosen:
    """A choice as it is run: top-1 and its bound with the drop subtracted, everything with how it is run."""
    drop, runs_on = way.drop, way.runs_on
    selection = replace(
        chosen.selection,
        top1=lowered(chosen.selection.top1, drop),
        bound=None if chosen.selection.bound is None else _less(chosen.selection.bound, drop),
        runs_on=runs_on,
    )
    if drop:
        said = f"{100 * drop:.3g} points of top-1 subtracted for {way.name}"
        selection = replace(selection, model=f"{selection.model}; {said}")
    others = (replace(one, top1=lowered(one.top1, drop), runs_on=runs_on) for one in chosen.alternatives)
    return Chosen(selection, tuple(others), chosen.seconds)


def lowered(top1: Top1, drop: float) -> Top1:
    """With a drop subtracted from value and interval."""
    return top1 if not drop else Top1(*(_less(share, drop) for share in (top1.value, top1.low, top1.high)))


def _less(share: float, drop: float) -> float:
    return share if not drop else round(max(share - drop, 0.0), DIGITS)


def with_tables(ways: Sequence[Way], selection: Selection) -> tuple[dict[str, str], dict[str, str]]:
    """A selection's `inputs` and `headers` with the tables of the ways that were not chosen, in their order."""
    inputs, headers = dict(selection.inputs), dict(selection.headers)
    others = [way for way in ways if way.sha256 not in ("", inputs.get(LATENCY_TABLE))]
    for number, way in enumerate(others, 2):
        inputs[f"{LATENCY_TABLE}-{number}"] = way.sha256
        if way.header:
            headers[f"{LATENCY_TABLE}-{number}"] = way.header
    return inputs, headers


def _first(selection: Selection) -> Candidate:
    return Candidate(
        selection.arch, selection.top1, selection.latency_ms, selection.cost, selection.energy_mj, selection.runs_on
    )


def _rank(one: Candidate) -> tuple[float, float]:
    """Of equally good ones the faster is first."""
    return -one.top1.value, one.upper_ms


def _others(ways: Sequence[Chosen], arch: Arch, top: int) -> list[Candidate]:
    """The next best of all ways; of a subnet that several can run only the best way."""
    every = [one for chosen in ways for one in (_first(chosen.selection), *chosen.alternatives)]
    known = {arch}
    others = []
    for one in sorted(every, key=_rank):
        if one.arch not in known:
            known.add(one.arch)
            others.append(one)
    return others[:top]


def _said(found: Sequence[Found], chosen: Way) -> str:
    """What each way gives, for people."""
    said = []
    for one in found:
        if isinstance(one.result, Chosen):
            best = run_so(one.result, one.way).selection
            what = f"{100 * best.top1.value:.2f} %"
            if not best.proven_optimal and best.bound is not None:
                what += f", bound {100 * best.bound:.2f} %"
        else:
            what = "no subnet"
        said.append(f"{one.way.name} ({what}{', chosen' if one.way == chosen else ''})")
    return "; ".join(said)


# -- refusal --------------------------------------------------------------------------------------
def refused(found: Sequence[Found]) -> InfeasibleBudget:
    """The refusal of a budget that no way keeps; the hint, and the details as those of one table, are of the way that
    needs the least more; `ways` has each one's, with its table."""
    errors = [(one.way, one.result) for one in found if isinstance(one.result, InfeasibleBudget)]
    _, nearest = min(errors, key=lambda pair: growth(pair[1].details))
    each = [
        {
            "way": way.name,
            "table": way.table,
            **({} if way.runs_on is None else {"runs": way.runs_on.as_json()}),
            **error.details,
        }
        for way, error in errors
    ]
    return InfeasibleBudget(
        "; ".join(f"{way.name} ({way.table}): {error.message}" for way, error in errors),
        hint=nearest.hint,
        details=nearest.details | {"ways": each},
    )


def growth(details: dict[str, Any]) -> float:
    """By what factor the budget of a refusal would have to grow; infinite where it does not say."""
    try:
        budget, needed = Budget(**details["budget"]).as_json(), Budget(**details["needed"]).as_json()
        return max(needed[name] / limit for name, limit in budget.items())
    except (KeyError, TypeError):
        return float("inf")
