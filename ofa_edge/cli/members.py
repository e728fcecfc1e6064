"""Families in the making: one subnet for each mode on each device, or one for all of them.

In: devices by the ways to run subnets on them, modes, how to choose. Out: a Chosen for each mode on each device, and
the Family of them. Rules kept: a budget that cannot be kept is named by its mode and device, with what to type instead,
and does not hide what was chosen for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ofa_edge.cli import ways
from ofa_edge.cli.choosing import How
from ofa_edge.cli.inputs import Models
from ofa_edge.cli.ways import Device, Run
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.latency.conditions import DEVICE, Conditions
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen, shared_resolutions
from ofa_edge.search.families import Family, Member, Mode, labels
from ofa_edge.search.ways import Found

if TYPE_CHECKING:
    from ofa_edge.search.common.ways import Option

# What is done with a choice over the ways of a device, such as measuring it.
Then = Callable[[Device, Sequence[Found], Chosen], Chosen]


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a member of a family is for, and what it is chosen from.

    Attributes:
        label: of the device; '' where there is one only.
    """

    mode: Mode
    label: str
    device: Device

    @property
    def models(self) -> Models:
        """For what is alike for all ways."""
        return self.device.models

    @property
    def model_name(self) -> str:
        """What its device is."""
        return self.device.conditions.device_model

    @property
    def name(self) -> str:
        """What messages call it; '' where there is nothing to tell apart."""
        mode = "" if self.mode.name is None else f"mode {self.mode.name}"
        return f"{mode} on {self.label}" if mode and self.label else mode or self.label

    @property
    def keys(self) -> dict[str, str | None]:
        """The same for scripts."""
        return {"mode": self.mode.name, "device": self.model_name}


def purposes(devices: Sequence[Device], modes: Sequence[Mode]) -> list[Purpose]:
    """Every mode on every device."""
    names = labels([_label_of(one, devices) for one in devices]) if len(devices) > 1 else [""]
    if len(set(names)) < len(names):  # of imported tables nobody may know what tells them apart
        tables = (one.models.latency_table.sha256[:8] for one in devices)
        names = [f"{name} (table {table})" for name, table in zip(names, tables, strict=True)]
    return [Purpose(mode, name, one) for mode in modes for name, one in zip(names, devices, strict=True)]


def _label_of(device: Device, devices: Sequence[Device]) -> Conditions:
    """What a device is told apart by: where some have several ways to run, only what is the device's own."""
    if all(len(one.runs) == 1 for one in devices):
        return device.conditions
    own = {key: getattr(device.conditions, key) for key in DEVICE}
    return devices[0].conditions.model_copy(update=own)


def family_of(members: Sequence[Purpose], chosen: Sequence[Chosen], common: bool) -> Family:
    """The family of what was chosen."""
    return Family(tuple(_member(*pair) for pair in zip(members, chosen, strict=True)), common)


def _member(member: Purpose, chosen: Chosen) -> Member:
    return Member(member.mode.name, member.device.run_of(chosen).conditions, chosen.selection)


# -- one for each ---------------------------------------------------------------------------------
def choose_each(members: Sequence[Purpose], how: How, then: Then | None = None) -> list[Chosen]:
    """One subnet for each member.

    Raises:
        InfeasibleBudget: for a member there is none; details hold those, and what was chosen for the others.
    """
    found: list[tuple[Purpose, Chosen]] = []
    failed: list[tuple[Purpose, InfeasibleBudget]] = []
    for member in members:
        try:
            each = ways.each_way(member.device, member.mode.budget, how)
            chosen = ways.choose(each, how)
            found.append((member, then(member.device, each, chosen) if then else chosen))
        except InfeasibleBudget as error:
            if not member.name:
                raise
            failed.append((member, error))
    if failed:
        raise InfeasibleBudget(
            "; ".join(f"{member.name}: {error.message}" for member, error in failed),
            hint=_hint([(member, error.details.get("needed")) for member, error in failed]) or failed[0][1].hint,
            details={
                "infeasible": [member.keys | error.details for member, error in failed],
                "members": [_member(member, chosen).as_json(chosen.as_json()) for member, chosen in found],
            },
        )
    return [chosen for _, chosen in found]


# -- one for all ----------------------------------------------------------------------------------
def choose_common(members: Sequence[Purpose], how: How) -> list[Chosen]:
    """The one subnet that is best for all members, as chosen for each.

    Raises:
        InfeasibleBudget: no subnet keeps all budgets.
        UsageError: the predictor is not an additive one, or no resolution is shared.
    """
    from ofa_edge.search.common.ways import choose_together_of  # it loads a solver, which nothing else here needs

    if len(members) < 2:
        raise UsageError(
            "--common is for several modes or devices, and the latency tables are of one device",
            hint="give several --mode, or leave --common out",
        )
    for member in members:
        for run in member.device.runs:
            run.models.require_real(member.mode.budget)
    models = members[0].models

    def shared(resolutions: Sequence[int]) -> tuple[int, ...]:
        if not resolutions:
            raise UsageError(
                "the latency tables share no resolution", hint="profile the devices at the same --resolutions"
            )
        return shared_resolutions(resolutions, models.accuracy)

    try:
        found, numbers = choose_together_of(
            [[_option(member, run, how) for run in member.device.runs] for member in members],
            models.accuracy,
            resolutions=shared,
            seed=models.seed,
            top=how.top,
        )
    except InfeasibleBudget as error:
        raise _named(error, members) from error
    return [
        replace(
            one,
            selection=replace(one.selection, headers={**member.device.runs[i].models.headers, **one.selection.headers}),
        )
        for member, one, i in zip(members, found, numbers, strict=True)
    ]


def _option(member: Purpose, run: Run, how: How) -> Option:
    from ofa_edge.search.common.together import Wanted
    from ofa_edge.search.common.ways import Option

    models, budget = run.models, member.mode.budget
    costs = models.costs(budget, models.latency.resolutions, how.confidence)
    return Option(run.way, Wanted(member.name, costs, budget, models.inputs))


def _named(error: InfeasibleBudget, members: Sequence[Purpose]) -> InfeasibleBudget:
    """The refusal with modes and devices in place of names, and options to type."""
    by_name = {member.name: member for member in members}
    found = [(by_name[one["member"]], one) for one in error.details["infeasible"]]
    hint = _hint([(member, one["needed"]) for member, one in found])
    each = "leave --common out for a subnet each, or " if "factor" in error.details else ""
    details = [member.keys | {key: v for key, v in one.items() if key != "member"} for member, one in found]
    return InfeasibleBudget(error.message, hint=each + hint, details=error.details | {"infeasible": details})


def _hint(needed: Sequence[tuple[Purpose, Mapping[str, Any] | None]]) -> str:
    """The options by which these members would have a subnet: each mode is asked of all devices, so it gets the
    greatest of what they need. '' where it is not known of one."""
    greatest: dict[str | None, dict[str, Any]] = {}
    for member, limits in needed:
        if limits is None:
            return ""
        known = greatest.setdefault(member.mode.name, {})
        known |= {name: max(limit, known.get(name, limit)) for name, limit in limits.items()}
    options = (
        f"--budget {Budget(**limits)}" if name is None else f"--mode {name}:{Budget(**limits)}"
        for name, limits in greatest.items()
    )
    return f"try {' '.join(options)}"
