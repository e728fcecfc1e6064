"""The ways to run a subnet on one device, one a latency table, and the choice over them.

In: Models of several latency tables, how to choose. Out: `Device`s, and a Chosen over all ways of one. Rules kept:
tables are of one device where they agree in everything that is the device's own (latency.conditions.DEVICE), and then
each must be of a way of its own; a lossy precision (int8) competes where its drop of accuracy is measured (--data) or
told (--int8-drop), else it is left out, and the command says what to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa_edge.cli import choosing
from ofa_edge.cli.choosing import How
from ofa_edge.cli.inputs import Models
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.latency.conditions import Conditions, RunsOn, same_device
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen
from ofa_edge.search.ways import LATENCY_TABLE, Found, Way, best_of, run_so


@dataclass(frozen=True, slots=True)
class Run:
    """A way to run subnets on a device, and what is selected from for it."""

    way: Way
    models: Models

    @property
    def conditions(self) -> Conditions:
        return self.models.latency_table.conditions

    @property
    def lossy(self) -> bool:
        return self.conditions.lossy


@dataclass(frozen=True, slots=True)
class Device:
    """A device by the ways to run subnets on it; at least one."""

    runs: tuple[Run, ...]

    @property
    def models(self) -> Models:
        """Of the first way, for what is alike for all."""
        return self.runs[0].models

    @property
    def conditions(self) -> Conditions:
        return self.runs[0].conditions

    def run_of(self, chosen: Chosen) -> Run:
        """The way that a choice is run."""
        table = chosen.selection.inputs[LATENCY_TABLE]
        return next(run for run in self.runs if run.way.sha256 == table)


def devices_of(models: Sequence[Models], drop: float | None, *, measured: bool, out: Output) -> list[Device]:
    """The devices that latency tables are of, in their order.

    Args:
        drop: share of top-1 that lossy precisions lose; None: not told.
        measured: the drop is going to be measured.

    Raises:
        UsageError: two tables are of one way to run on one device; a drop is told and no table is of a lossy precision.
    """
    if drop is not None and not any(one.latency_table.conditions.lossy for one in models):
        raise UsageError("--int8-drop is of int8 latency tables, and none of these is one", hint="leave it out")
    groups: list[list[Models]] = []
    for one in models:
        mine = one.latency_table.conditions
        alike = (group for group in groups if same_device(group[0].latency_table.conditions, mine))
        group = next(alike, None)
        if group is None:
            groups.append([one])
        else:
            _require_another_way(group, one)
            group.append(one)
    return [_device(group, drop, measured, out) for group in groups]


def _require_another_way(group: Sequence[Models], one: Models) -> None:
    """Raises UsageError for a way that is there already, in another version of the runtime: a device has one."""
    mine = one.latency_table.conditions
    for other in (models.latency_table for models in group):
        theirs = other.conditions
        if mine.runs_on == theirs.runs_on:
            raise UsageError(
                f"{other.path} and {one.latency_table.path} are of one device and one way to run on it, measured with"
                f" {mine.runtime} {theirs.runtime_version} and {mine.runtime_version}",
                hint="give the table of the version that the device has",
            )


def _device(group: Sequence[Models], drop: float | None, measured: bool, out: Output) -> Device:
    lossy = [one for one in group if one.latency_table.conditions.lossy]
    kept = list(group)
    if lossy and drop is None and not measured:
        if len(lossy) < len(group):
            kept = [one for one in group if not one.latency_table.conditions.lossy]
            for one in lossy:
                found = one.latency_table
                out.notice(
                    f"{found.path} is left out: what {found.conditions.precision} loses in accuracy is not known;"
                    " measure it with --data PATH, or tell it with --int8-drop POINTS"
                )
        else:
            precision = lossy[0].latency_table.conditions.precision
            out.warning(
                f"top-1 is predicted as in float: what {precision} loses is not known; measure it with --data PATH, or"
                " tell it with --int8-drop POINTS"
            )
    names = _names(kept)
    return Device(tuple(_run(one, name, drop) for one, name in zip(kept, names, strict=True)))


def _run(models: Models, name: str, drop: float | None) -> Run:
    table = models.latency_table
    way = Way(
        name,
        str(table.path),
        models.runs_on,
        (drop or 0.0) if table.conditions.lossy else 0.0,
        table.sha256,
        models.headers[LATENCY_TABLE],
    )
    return Run(way, models)


def _names(models: Sequence[Models]) -> list[str]:
    """What each way is called; with its cores where that alone tells it from another."""
    found = [one.latency_table.conditions for one in models]
    names = [
        str(one.runs_on or RunsOn(at.runtime, precision="fp16" if one.half else at.precision))
        for one, at in zip(models, found, strict=True)
    ]
    told = []
    for name, one in zip(names, found, strict=True):
        cores = f", cores {one.cores}" if isinstance(one.cores, str) else f", cores {' '.join(map(str, one.cores))}"
        told.append(name + (cores if names.count(name) > 1 else ""))
    return told


# -- choosing ---------------------------------------------------------------------------------------
def each_way(device: Device, budget: Budget, how: How) -> list[Found]:
    """What each way gives alone. Raises as choosing.choose, naming the table of several, but for InfeasibleBudget."""
    found = []
    for run in device.runs:
        try:
            found.append(Found(run.way, choosing.choose(run.models, budget, how)))
        except InfeasibleBudget as error:
            found.append(Found(run.way, error))
        except BadFile as error:
            if len(device.runs) > 1:
                message = f"{run.way.name} ({run.way.table}): {error.message}"
                hint = f"{error.hint}; or leave this table out" if error.hint else "leave this table out"
                raise BadFile(message, hint=hint, details=error.details) from error
            raise
    return found


def choose(found: Sequence[Found], how: How) -> Chosen:
    """The best of what the ways of a device gave.

    Raises:
        InfeasibleBudget: none gave anything; naming each table where there are several.
    """
    if len(found) > 1:
        return best_of(found, top=how.top)
    way, result = found[0]
    if isinstance(result, InfeasibleBudget):
        raise result
    return run_so(result, way)
