"""Bundles without a device: what was selected, its conditions by the tables at hand, compiled and put together.

In: a selection's or a family's file, a budget, or an arch of which nothing is promised. Out: a Bundle. Rules kept: a
selection whose table is at hand brings that table's conditions, so that a device which is not as it was is refused when
the bundle gets there; where it is not at hand that is said; a family's modes become one release, in its order.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from ofa_edge import settings
from ofa_edge.cli.making import Making
from ofa_edge.deploy.assemble import Choice
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.manifest import DEFAULT_MODE
from ofa_edge.errors import UsageError
from ofa_edge.latency.conditions import Conditions
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search import families
from ofa_edge.search.families import Family
from ofa_edge.search.selection import Selection
from ofa_edge.space import codecs


def _made(making: Making, chosen: Mapping[str, tuple[Selection, Conditions | None]], machine: str | None) -> Bundle:
    """A bundle of these modes, the default first. Raises as Making.bundle."""
    choices = [Choice(one, making.asked.of(one), at, name) for name, (one, at) in chosen.items()]
    return making.bundle(choices, machine or platform.machine(), making.out)


def of_selection(
    file: Path,
    modes: Sequence[str],
    device: str | None,
    table_file: Path | None,
    making: Making,
    machine: str | None,
) -> Bundle:
    """What a selection's or a family's file says.

    Args:
        modes: of a family, the default first; () for all of them.
        device: model of one of a family's devices.
        table_file: a latency table that (a member of) it was made with.
        machine: processor of the devices it is for; this machine's where left out.

    Raises:
        UsageError: a file cannot be opened; a family has no such mode or device, or several and none is named.
        BadFile: it is no selection, or was made for another checkpoint or with another table.
    """
    from ofa_edge.cli import unchanged

    found = families.read(file, making.checkpoint.space)
    if isinstance(found, Family):
        chosen = _members(found, modes, device, table_file, str(file))
        making.require_selected([one for one, _ in chosen.values()], file)
        return _made(making, chosen, machine)
    for name, given in (("mode", modes), ("device", device)):
        if given:
            raise UsageError(f"{file} is one selection and has no {name}s", hint=f"leave --{name} out")
    table = _table_at_hand(found) if table_file is None else unchanged.table_of_one([found], table_file)
    if table is None:
        making.out.warning(
            f"the latency table of {file} is not at hand, so the bundle does not say under which conditions its "
            "latency was predicted; name the table with --table"
        )
    making.require_selected([found], file)
    return _made(making, {DEFAULT_MODE: (found, None if table is None else table.conditions)}, machine)


def of_arch(file: str, making: Making, machine: str | None) -> Bundle:
    """A subnet as it is: nothing is promised of it, and its manifest has neither budget nor prediction.

    Raises:
        UsageError: the file has not one arch of the checkpoint's space; as Making.require.
    """
    archs = codecs.read_archs(making.checkpoint.space, file)
    if len(archs) != 1:
        raise UsageError(f"{file} has {len(archs)} archs, and a bundle is made of one", hint="give one arch")
    making.require([making.asked.runs_on])
    making.out.notice("nothing is promised of its latency or accuracy, so a device checks its outputs alone")
    return making.bundle([Choice(archs[0], making.asked.runs_on)], machine or platform.machine(), making.out)


def of_budget(
    budget: str,
    table_file: Path | None,
    accuracy_table: Path | None,
    making: Making,
    machine: str | None,
    confidence: float,
    seed: int,
) -> Bundle:
    """The best subnet within a budget by a table, the newest where none is named. Raises as `select` does."""
    from ofa_edge.cli import choosing, inputs
    from ofa_edge.search.budget import Budget

    limits, checkpoint, out = Budget.parse(budget), making.checkpoint, making.out
    table = inputs.named_latency_table(table_file, checkpoint.space.name, out)
    accuracy = inputs.accuracy_table(accuracy_table, checkpoint.sha256, out)
    models = inputs.Models(table, accuracy, seed, half=making.asked.precision == "fp16")
    for notice in models.notices:
        out.notice(notice)
    chosen = choosing.choose_exact(models, limits, confidence=confidence).selection
    making.require([making.asked.of(chosen)])
    return _made(making, {DEFAULT_MODE: (chosen, table.conditions)}, machine)


def _members(
    family: Family, modes: Sequence[str], device: str | None, table_file: Path | None, name: str
) -> dict[str, tuple[Selection, Conditions]]:
    """For each mode its selection, all for one device."""
    sha256 = None if table_file is None else LatencyTable.read(table_file).sha256
    found: dict[str, tuple[Selection, Conditions]] = {}
    wanted: list[str | None] = [*(modes or family.modes)]
    for mode in wanted or [None]:
        if sha256 is not None:
            member = family.member_of_table(mode, sha256, name)
        else:
            alike = family.of_mode(mode, name)
            there = families.labels([one.conditions for one in alike])
            fitting = [
                one
                for one, label in zip(alike, there, strict=True)
                if device in (None, label, one.conditions.device_model)
            ]
            if len(fitting) != 1:
                said = f"has {'several' if fitting else 'none'} for {device}" if device else "is for several devices"
                raise UsageError(f"{name} {said}", hint=f"choose with --device, or by its --table: {'; '.join(there)}")
            member = fitting[0]
        found[mode or DEFAULT_MODE] = (member.selection, member.conditions)
    return found


def _table_at_hand(chosen: Selection) -> LatencyTable | None:
    """The latency table it was made with, by its hash among those measured from here."""
    wanted = chosen.inputs.get("latency-table")
    for file in sorted((settings.home() / "tables").glob("*/*.jsonl")):
        if hashlib.sha256(file.read_bytes()).hexdigest() == wanted:
            return LatencyTable.read(file)
    return None
