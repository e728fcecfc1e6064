"""Families in the making: one subnet for each mode on each device, or one for all of them.

In: Models of each device, modes, how to choose. Out: a Chosen for each mode on each device, and the Family of them.
Rules kept: a budget that cannot be kept is named by its mode and device, with what to type instead, and does not hide
what was chosen for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ofa_edge.cli import choosing
from ofa_edge.cli.choosing import How
from ofa_edge.cli.inputs import Models
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen, shared_resolutions
from ofa_edge.search.families import Family, Member, Mode, labels

if TYPE_CHECKING:
    from ofa_edge.search.common.together import Wanted

# What is done with a choice and its models, such as measuring it.
Then = Callable[[Chosen, Models], Chosen]


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a member of a family is for, and what it is chosen from.

    Attributes:
        device: label of the device; '' where there is one only.
    """

    mode: Mode
    device: str
    models: Models

    @property
    def name(self) -> str:
        """What messages call it; '' where there is nothing to tell apart."""
        mode = "" if self.mode.name is None else f"mode {self.mode.name}"
        return f"{mode} on {self.device}" if mode and self.device else mode or self.device

    @property
    def keys(self) -> dict[str, str | None]:
        """The same for scripts."""
        return {"mode": self.mode.name, "device": self.models.latency_table.conditions.device_model}


def purposes(models: Sequence[Models], modes: Sequence[Mode]) -> list[Purpose]:
    """Every mode on every device."""
    devices = labels([one.latency_table.conditions for one in models]) if len(models) > 1 else [""]
    if len(set(devices)) < len(devices):  # of imported tables nobody may know what tells them apart
        devices = [f"{name} (table {m.latency_table.sha256[:8]})" for name, m in zip(devices, models, strict=True)]
    return [Purpose(mode, device, one) for mode in modes for device, one in zip(devices, models, strict=True)]


def family_of(members: Sequence[Purpose], chosen: Sequence[Chosen], common: bool) -> Family:
    """The family of what was chosen."""
    return Family(tuple(_member(*pair) for pair in zip(members, chosen, strict=True)), common)


def _member(member: Purpose, chosen: Chosen) -> Member:
    return Member(member.mode.name, member.models.latency_table.conditions, chosen.selection)


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
            chosen = choosing.choose(member.models, member.mode.budget, how)
            found.append((member, then(chosen, member.models) if then else chosen))
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
    from ofa_edge.search.common.together import choose_together  # it loads a solver, which nothing else here needs

    for member in members:
        member.models.require_real(member.mode.budget)
    models = members[0].models
    resolutions = set.intersection(*(set(member.models.latency.resolutions) for member in members))
    if not resolutions:
        raise UsageError("the latency tables share no resolution", hint="profile the devices at the same --resolutions")
    try:
        found = choose_together(
            models.space,
            [_wanted(member) for member in members],
            models.accuracy,
            resolutions=shared_resolutions(sorted(resolutions), models.accuracy),
            confidence=how.confidence,
            seed=models.seed,
            top=how.top,
        )
    except InfeasibleBudget as error:
        raise _named(error, members) from error
    return [
        replace(one, selection=replace(one.selection, headers=member.models.headers))
        for member, one in zip(members, found, strict=True)
    ]


def _wanted(member: Purpose) -> Wanted:
    from ofa_edge.search.common.together import Wanted

    models, budget = member.models, member.mode.budget
    return Wanted(member.name, models.latency, budget, models.inputs, models.energy(budget))


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
