"""What a campaign is of: a plan on one device under given conditions; and whether it still is.

In: a device's facts, a Task, the table so far. Out: a table's header, or the error that says what became another. Rules
kept: a table is gone on with on the unit it was begun on, under the same conditions and plan, or not at all; a device
that restarted begins a new session, one whose conditions changed ends the campaign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_agents import wire
from ofa_edge import __version__, journal, strict_json
from ofa_edge.device import identity
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.campaign.rows import Rows
from ofa_edge.latency.conditions import (
    Header,
    PlanSettings,
    Provenance,
    RunsOn,
    conditions,
    mismatches,
    require_match,
)
from ofa_edge.latency.models.transfer import Start
from ofa_edge.latency.plan import Plan, make_plan
from ofa_edge.latency.workload import Device
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import own_definition


@dataclass(frozen=True, slots=True)
class Task:
    """What to profile: the subnets of `space` at `resolutions`, run as `runs_on` says, planned from `settings`; where
    these name a prior, `start` is what is taken over from it. `notes` go into the provenance of a new table."""

    space: Space
    resolutions: tuple[int, ...]
    runs_on: RunsOn
    settings: PlanSettings
    start: Start | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        """Raises as make_plan."""
        plan = make_plan(self.space, self.resolutions, self.settings)
        return plan if self.start is None else replace(plan, sentinel=self.start.sentinel)


class Identity:
    """What the device is while it is measured.

    Attributes:
        facts: as they were last asked for.
    """

    def __init__(self, device: Device, runs_on: RunsOn, rows: Rows):
        self.facts = device.facts
        self._device = device
        self._runs_on = runs_on
        self._rows = rows

    def require_same(self) -> None:
        """Ask what the device is by now; after a new boot a new session begins.

        Raises:
            BadFile: its conditions are others.
        """
        now = self._device.ask_facts()
        before, after = (conditions(facts, self._runs_on) for facts in (self.facts, now))
        if found := mismatches(before, after):
            raise BadFile(
                f"the device changed while it was measured: {'; '.join(map(str, found))}; the rows so far are kept",
                hint="set it back and go on with --resume, or measure a new table",
                details={"mismatches": [m._asdict() for m in found]},
            )
        if now.boot_id != self.facts.boot_id:
            self.facts = now
            self._rows.begin_session(now)


def header_of(facts: wire.Facts, task: Task) -> Header:
    """The header of a table of a task on a device."""
    provenance = Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=f"ofa-edge {__version__}",
        serial=facts.serial,
        boot_id=facts.boot_id,
        kernel=facts.kernel,
        machine=facts.machine,
        python=facts.python,
        agent=facts.agent,
        **task.notes,
    )
    return Header(
        conditions=conditions(facts, task.runs_on),
        provenance=provenance,
        space=task.space.name,
        definition=own_definition(task.space),
        resolutions=sorted(set(task.resolutions)),
        plan=task.settings,
        prior=None if task.start is None else task.start.header,
    )


def require_same_task(old: Header, new: Header, path: Path) -> None:
    """Raises where a campaign would go on under other conditions (BadFile) or with another plan (UsageError)."""
    require_match(old.conditions, new.conditions, names=(str(path), "this device"))
    pairs = {
        "space": (_space(old), _space(new)),
        "resolutions": (old.resolutions, new.resolutions),
        **{key: (getattr(old.plan, key), getattr(new.plan, key)) for key in PlanSettings.model_fields},
    }
    for key, (a, b) in pairs.items():
        if a != b:
            raise UsageError(
                f"{path} was begun with {key} {a}, this run has {key} {b}",
                hint="resume with the options it was begun with, or choose another file with --out",
            )


def require_same_unit(found: journal.Contents, facts: wire.Facts, path: Path) -> None:
    """Raises UsageError where another unit, of the same model even, would go on with what one began."""
    for session in found.of("session")[-1:]:
        try:
            before = wire.Facts.parse(session["facts"])
        except wire.WireError:  # of an agent that told other facts
            return
        if differing := identity.changes(before, facts).machine:
            raise UsageError(
                f"{path} was begun on another device: {identity.shown(differing)}",
                hint="resume on that device, or choose another file with --out for this one",
                details={"differing": {name: list(pair) for name, pair in differing.items()}},
            )


def _space(header: Header) -> str:
    """Its name; of a space of one's own with a mark that tells it from others of that name."""
    own = header.definition
    return header.space if own is None else f"{header.space} (definition {strict_json.sha256(own)[:8]})"
