"""What each device gets: a bundle as it is, what was selected for it, or the best within a budget by its own table.

In: what a person named. Out: a Maker, called once for each device. Rules kept: everything that does not depend on the
device is read at once, so that a mistyped file ends a command before any device is asked; a selection that is no longer
what it was made with is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ofa_edge import settings
from ofa_edge.cli import unchanged
from ofa_edge.cli.making import Making
from ofa_edge.cli.output import Output
from ofa_edge.deploy import assemble
from ofa_edge.deploy.assemble import Choice
from ofa_edge.deploy.bundle import Bundle
from ofa_edge.deploy.manifest import DEFAULT_MODE, MAX_MODES, MODE_NAME, measured_as
from ofa_edge.deploy.plan import as_it_is
from ofa_edge.errors import UsageError
from ofa_edge.latency.conditions import Conditions, RunsOn, conditions
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import LatencyTable, newest_match
from ofa_edge.search import families
from ofa_edge.search.families import Family, Member
from ofa_edge.search.selection import Selection

if TYPE_CHECKING:
    from device_agents.wire import Facts
    from ofa_edge.cli.signing import Signing
    from ofa_edge.device.session import Session
    from ofa_edge.search.budget import Budget


class Ready(NamedTuple):
    """A bundle, and by mode the latency model it was chosen with, None where its table is not at hand."""

    bundle: Bundle
    models: Mapping[str, LatencyModel | None]


Maker = Callable[["Session", Output], Ready]
"""What a device gets; talks about it through the Output."""

# What was selected for a device, and the conditions it was selected under where they are known.
_Pick = Callable[["Facts"], tuple[Selection, Conditions | None]]


class Named(NamedTuple):
    """Files that a selection was made with, where a person named them."""

    latency_table: Path | None = None
    accuracy_table: Path | None = None
    predictor: Path | None = None


def from_bundle(path: Path, app: str | None, signing: Signing) -> Maker:
    """Every device gets this bundle, as it is.

    Raises:
        UsageError: there is none, or it is of another app; as assemble.require_deployable.
        BadFile: the bundle is damaged, or not signed by a trusted key.
    """
    ready = signing.read_bundle(path)
    for mode in ready.manifest.modes:
        assemble.require_deployable(mode.runs.runs_on(), mode.conditions)
    if app not in (None, ready.manifest.app):
        raise UsageError(f"{path} is a bundle of app {ready.manifest.app}, not of {app}", hint="leave --app out")
    return lambda session, said: Ready(ready, {})


def from_selection(file: Path, mode: str | None, named: Named, making: Making) -> Maker:
    """Every device gets the selected subnet; of a family those that were chosen for it, one for each mode.

    Args:
        mode: of a family, the only one.

    Raises:
        UsageError: a file cannot be opened, a family has no such mode or one that no release can have; as
            Making.require.
        BadFile: it is no selection, was made for another checkpoint, or a file it was made with is another or changed.
    """
    found = families.read(file, making.checkpoint.space)
    if isinstance(found, Selection):
        if mode is not None:
            raise UsageError(f"{file} is one selection and has no modes", hint="leave --mode out")
        only = found
        picks: dict[str, _Pick] = {DEFAULT_MODE: lambda facts: (only, None)}
        each = [found]
    else:
        names = _modes(found, mode, file)
        picks = {name or DEFAULT_MODE: _member_for(found, name, named.latency_table, file, making) for name in names}
        each = [member.selection for name in names for member in found.of_mode(name, str(file))]
    for chosen in each:
        assemble.require_checkpoint(chosen, making.checkpoint)
        unchanged.require_accuracies_unchanged(chosen, named.accuracy_table, named.predictor)
    making.require_selected(each, file)
    table = None
    if named.latency_table is not None:
        table = unchanged.table_of_one(each, named.latency_table)
        for chosen in each:
            if chosen.inputs.get("latency-table") in (None, table.sha256):
                assemble.require_deployable(making.asked.of(chosen), table.conditions)

    def make(session: Session, said: Output) -> Ready:
        choices, models = [], dict[str, LatencyModel | None]()
        for name, pick in picks.items():
            chosen, at = pick(session.facts)
            made_with = table or unchanged.find_selections_table(chosen, session.facts)
            if made_with is not None:
                at = made_with.conditions
            choices.append(Choice(chosen, _on_its_cores(making.asked.of(chosen), session.facts, said), at, name))
            models[name] = None if made_with is None else model_of(made_with)
        if any(choice.conditions is None for choice in choices):
            unchanged.warn_unchecked(session.facts, said)
        return Ready(making.bundle(choices, session.facts.machine, said), models)

    return make


def _on_its_cores(runs_on: RunsOn, facts: Facts, said: Output) -> RunsOn:
    """Where a selection is of a board with other cores, all that this one gives; its table, if it is at hand, tells."""
    if runs_on.cores is None or set(runs_on.cores) <= set(facts.core_mask):
        return runs_on
    said.notice(
        f"selected for cores {list(runs_on.cores)}, this device gives {list(facts.core_mask)}: it runs on these"
    )
    return replace(runs_on, cores=None)


def _modes(family: Family, mode: str | None, file: Path) -> list[str | None]:
    """The modes to install, the default first; None for the only one of a family without modes.

    Raises:
        UsageError: there is no such mode, or a release cannot hold them.
    """
    names: list[str | None] = [mode] if mode is not None else [*family.modes] or [None]
    family.of_mode(names[0], str(file))
    if len(names) > MAX_MODES:
        raise UsageError(
            f"{file} has {len(names)} modes, a release holds {MAX_MODES} at most", hint="choose one with --mode NAME"
        )
    for name in names:
        if name is not None and not re.fullmatch(MODE_NAME, name):
            raise UsageError(
                f"{name!r} cannot be the name of a mode on a device",
                hint="select again with a name of lower-case letters, digits and -, such as low",
            )
    return names


def _member_for(family: Family, mode: str | None, table_file: Path | None, file: Path, making: Making) -> _Pick:
    """The member for a device, or the one made with the table at `table_file`."""
    if table_file is not None:
        named = family.member_of_table(mode, LatencyTable.read(table_file).sha256, str(file))
        return lambda facts: (named.selection, named.conditions)

    def pick(facts: Facts) -> tuple[Selection, Conditions | None]:
        runs = [measured_as(making.asked.of(member.selection)) for member in family.of_mode(mode, str(file))]
        member: Member = family.member(mode, _with_a_runtime(facts, runs), str(file))
        return member.selection, member.conditions

    return pick


def _with_a_runtime(facts: Facts, runs: Sequence[RunsOn]) -> Conditions:
    """The device's conditions now, for the first of these ways to run that it has a runtime for."""
    for runs_on in runs:
        with contextlib.suppress(UsageError):
            return as_it_is(facts, runs_on)
    return as_it_is(facts, runs[0])


def _table(
    named: LatencyTable | None, facts: Facts, runs_on: RunsOn, space: str, said: Output, *, accept_stale: bool
) -> LatencyTable:
    """The table of a device that runs so. Int8 tables are of the type of activations that the device was faster with,
    which is not asked for here: the named table's, or the newest's. Raises as inputs.device_latency_table."""
    from ofa_edge.cli import inputs

    way = measured_as(runs_on)
    if (runs_on.runtime, runs_on.precision) == ("onnxruntime", "int8"):
        measured = named or _newest(facts, [replace(way, activations="int8"), replace(way, activations="uint8")], space)
        if measured is not None and measured.conditions.runs_on is not None:
            way = replace(way, activations=measured.conditions.runs_on.activations)
    return inputs.device_latency_table(named, facts, way, space, said, accept_stale=accept_stale)


def _newest(facts: Facts, ways: Sequence[RunsOn], space: str) -> LatencyTable | None:
    """Of the device's tables that were measured in one of these ways; a finished one first."""
    files = list(settings.tables_dir(facts.device_model).glob("*.jsonl"))
    found = [newest_match(files, space, conditions(facts, way)) for way in ways]
    return max(filter(None, found), key=lambda table: (table.complete, Path(table.path).stat().st_mtime), default=None)


def from_budget(
    budget: Budget,
    table_file: Path | None,
    accuracy_table: Path | None,
    making: Making,
    *,
    confidence: float,
    seed: int,
    accept_stale: bool,
) -> Maker:
    """Every device gets the best subnet within the budget by its own table, or by the one at `table_file`.

    Raises:
        UsageError: a file cannot be opened; as Making.require.
        BadFile: a table is damaged, or the accuracy table is of another checkpoint.
    """
    from ofa_edge.cli import choosing, inputs

    runs_on, checkpoint = making.asked.runs_on, making.checkpoint
    making.require([runs_on])
    named = None if table_file is None else LatencyTable.read(table_file)
    assemble.require_deployable(runs_on, None if named is None else named.conditions)
    accuracy = inputs.accuracy_table(accuracy_table, checkpoint.sha256, making.out)

    def make(session: Session, said: Output) -> Ready:
        found = _table(named, session.facts, runs_on, checkpoint.space.name, said, accept_stale=accept_stale)
        models = inputs.Models(found, accuracy, seed, half=runs_on.precision == "fp16")
        for notice in models.notices:
            said.notice(notice)
        chosen = choosing.choose_exact(models, budget, confidence=confidence).selection
        if found.conditions.lossy:
            said.notice("top-1 is predicted for fp32, and int8 loses some: `select --data` measures how much")
        choice = Choice(chosen, runs_on, found.conditions)
        return Ready(making.bundle([choice], session.facts.machine, said), {DEFAULT_MODE: models.latency})

    return make
