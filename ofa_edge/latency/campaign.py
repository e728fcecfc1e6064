"""Profiling: plan + device -> latency table, row by row.

In: a session with an agent, a Task, the path of the table. Out: the table on disk and an Outcome. Rules kept: every
result is in the file before the next is waited for, so Ctrl-C, a lost device or a killed host keep all of them and
`resume` goes on; a resumed campaign measures what is missing or failed, under the same conditions and plan or not at
all; blocks are measured in rounds, each in a fresh worker and an order of its own and followed by its share of the
networks; a block that crashes is a failed row and is not tried again in this session; disturbed and wide blocks are
measured once more at the end, a disturbed network next, at most three times and each time when the device is quiet
again (quiet.py); where the device became another one on the way (governor, runtime), the campaign stops and says so;
the file gets its `end` record only when nothing of the plan is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from device_agents import wire
from ofa_edge import __version__, journal, strict_json
from ofa_edge.device import identity
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency import rounds, sustained, workload
from ofa_edge.latency.conditions import (
    SUSTAINED,
    Header,
    PlanSettings,
    Provenance,
    RunsOn,
    conditions,
    mismatches,
    require_match,
)
from ofa_edge.latency.outcome import Outcome, conclude
from ofa_edge.latency.plan import Plan, PlannedNetwork, make_plan, network_key
from ofa_edge.latency.plausible import CheckedDevice
from ofa_edge.latency.predicting import predicted_rows
from ofa_edge.latency.quiet import MOST_TOGETHER, Quiet
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.latency.transfer import Start
from ofa_edge.latency.trials import network_job, repeated
from ofa_edge.latency.workload import Device, Model
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import encode
from ofa_edge.space.cost import block_macs, cost
from ofa_edge.space.spaces import own_definition

# After so many networks that stayed disturbed the others are measured once.
_STUBBORN = 4
# Starting a fresh worker and loading two networks, on top of the time a network is measured for.
_NETWORK_START_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Task:
    """What to profile: the subnets of `space` at `resolutions`, run as `runs_on` says, planned from `settings`; where
    these name a prior, `start` is what is taken over from it."""

    space: Space
    resolutions: tuple[int, ...]
    runs_on: RunsOn
    settings: PlanSettings
    start: Start | None = None

    def plan(self) -> Plan:
        """Raises as make_plan."""
        plan = make_plan(self.space, self.resolutions, self.settings)
        return plan if self.start is None else replace(plan, sentinel=self.start.sentinel)


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `done` of `total` measurements; `kind` is upload, block, network, or wait where a disturbed device is
    given time.

    `ms` is the median that was measured, None for an upload or a failure.
    """

    kind: str
    key: str
    done: int
    total: int
    ms: float | None = None


def run(
    device: Device,
    path: Path | str,
    task: Task,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Measure a latency table.

    Args:
        path: of the table; its folder is made.
        resume: continue `path`; where it does not exist it is started.
        max_minutes: stop then, networks having their share; the table is left without its `end`.
        on_step: called before the first and after every measurement.
        clock: monotonic seconds.
        pause: leaves the device alone for so many of them.

    Raises:
        UsageError: the file exists and `resume` is not set, or its plan is another one; no such runtime or cores.
        BadFile: the file was measured under other conditions, or is damaged; the conditions changed on the way.
        DeviceLost: the device went away; what was measured is in the file.
        OfaEdgeError: not one block could be measured.
    """
    path = Path(path)
    plan = task.plan()
    header = _header(device.facts, task)
    began = clock()

    def accept(found: journal.Contents) -> None:
        _require_same(LatencyTable.from_contents(found, str(path)).header, header, Path(path))
        _require_same_unit(found, device.facts, Path(path))

    if resume:
        contents, writer = journal.Writer.resume(path, FORMAT, header.as_json(), accept)
    else:
        writer = journal.Writer.create(path, FORMAT, header.as_json())
        contents = journal.read(path, FORMAT)
    with writer:
        before = LatencyTable.from_contents(contents, str(path))
        campaign = _Campaign(device, writer, plan, task, before, on_step or (lambda step: None), clock, pause)
        if campaign.remaining:
            campaign.measure(None if max_minutes is None else began + 60 * max_minutes)
        if plan.predicted and not campaign.remaining:
            for row in predicted_rows(LatencyTable.read(path), plan.predicted):
                writer.append("predicted", row)
        return conclude(
            path, writer, plan, finished=not campaign.remaining, seconds=clock() - began, bytes_pushed=campaign.pushed
        )


class _Campaign:
    """The measuring of one session: what is left, what was disturbed, and the rows written for it."""

    def __init__(
        self,
        device: Device,
        writer: journal.Writer,
        plan: Plan,
        task: Task,
        before: LatencyTable,
        on_step: Callable[[Step], None],
        clock: Callable[[], float],
        pause: Callable[[float], None],
    ):
        self._bare = device
        self._warm = task.runs_on.thermal == SUSTAINED
        self._device: Device = CheckedDevice(
            sustained.Warm(device) if self._warm else device,
            task.runs_on,
            _macs(plan, task.space),
            cost(task.space.blocks(plan.anchor)).macs,
        )
        self._writer = writer
        self._plan = plan
        self._task = task
        self._on_step = on_step
        self._clock = clock
        self._session = len(before.contents.of("session"))
        self._began = clock()
        self._models: dict[str, Model] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {r: before.contents.of(r) for r in ("block", "sentinel")}
        self._round = 0
        self._stubborn = 0  # networks that no repeat made undisturbed
        self._facts = device.facts
        self._quiet = Quiet(self._look, clock, pause, together=0.0 if self._warm else MOST_TOGETHER)
        self.pushed = 0
        done = {(row["key"], row.get("round", 0)) for row in self._rows["block"]}
        self._blocks = [
            {block.key: block for block in plan.order(r) if (block.key, r) not in done}
            for r in range(plan.effort.rounds)
        ]
        self._taken_over = {*before.predicted.index, *before.failed.index}
        measured = set(zip(before.networks["key"], before.networks["role"], strict=True))
        self._networks = [n for n in plan.networks if (self._key(n), n.role) not in measured]
        self._total = self.remaining

    @property
    def remaining(self) -> int:
        """Measurements of the plan that have neither a result nor, in this session, a failure."""
        return sum(map(len, self._blocks)) + len(self._networks)

    def measure(self, deadline: float | None) -> None:
        """Everything that is left, until the deadline (on the campaign's clock)."""
        self._begin_session()
        self._take_over()
        self._upload()
        if self._warm:
            self._heat(deadline)
        began = any(self._blocks)
        for number, todo in enumerate(self._blocks):
            self._measure_round(number, list(todo.values()), self._before_networks(deadline))
            self._measure_networks(deadline, share=(number + 1) / len(self._blocks))
            self._require_same_device()
        if began and not any(self._blocks):
            self._measure_round(len(self._blocks), self._again(deadline), deadline)
            self._require_same_device()

    # -- identity ---------------------------------------------------------------------------------
    def _begin_session(self) -> None:
        start = datetime.now(UTC).isoformat(timespec="seconds")
        self._writer.append("session", {"start": start, "facts": wire.to_wire(self._facts)})

    def _require_same_device(self) -> None:
        """Ask what the device is by now: after a new boot a new session begins, other conditions end the campaign."""
        now = self._device.ask_facts()
        before, after = (conditions(facts, self._task.runs_on) for facts in (self._facts, now))
        if found := mismatches(before, after):
            raise BadFile(
                f"the device changed while it was measured: {'; '.join(map(str, found))}; the rows so far are kept",
                hint="set it back and go on with --resume, or measure a new table",
                details={"mismatches": [m._asdict() for m in found]},
            )
        if now.boot_id != self._facts.boot_id:
            self._facts = now
            self._session += 1
            self._began = self._clock()
            self._begin_session()

    def _take_over(self) -> None:
        """The prior's blocks, so that the table can do without it."""
        if (start := self._task.start) is None:
            return
        for key, (ms, error) in start.blocks.items():
            if key not in self._taken_over:
                self._writer.append("predicted", {"key": key, "median": ms, "error": error, "source": "prior"})
        for key, reason in start.failed.items():
            if key not in self._taken_over:
                self._failed(wire.Failed(key, reason))

    # -- models -----------------------------------------------------------------------------------
    def _upload(self) -> None:
        self._step("upload", "models")
        blocks = [
            *([self._plan.sentinel] if self._plan.sentinel else []),
            *(self._plan.blocks if any(self._blocks) else ()),
        ]
        files: dict[str, Callable[[], bytes]] = {b.weights_key: self._maker(b) for b in blocks}
        archs = {self._key(network): network.arch for network in self._networks}
        if archs:
            archs["anchor"] = self._plan.anchor
        for name, arch in archs.items():
            files[name] = workload.network_source(self._task.space, arch, self._task.runs_on).make
        hashes, self.pushed = workload.upload(self._device, files)
        for block in blocks:
            self._models[block.key] = Model(hashes[block.weights_key], workload.block_shape(block))
        for name in archs:
            self._models[name] = Model(hashes[name], {})

    def _maker(self, block: Block) -> Callable[[], bytes]:
        return lambda: workload.block_file(block, self._task.runs_on)

    def _heat(self, deadline: float | None) -> None:
        """Keep the device busy with the anchor until it is steady; half of the time there is at most."""
        source = workload.network_source(self._task.space, self._plan.anchor, self._task.runs_on)
        hashes, _ = workload.upload(self._bare, {"anchor": source.make})
        anchor = Model(hashes["anchor"], dict(source.shape))
        end = None if deadline is None else (self._clock() + deadline) / 2
        first: float | None = None
        for sample in sustained.heat(self._bare, anchor, self._task.runs_on, self._clock, end):
            first = first or sample.median
            self._writer.append("sustained", {"session": self._session, **(_rounded(sample.row(first)) or {})})

    # -- blocks -----------------------------------------------------------------------------------
    def _measure_round(self, number: int, todo: Sequence[Block], deadline: float | None) -> None:
        """A sentinel before every few blocks, the first one in a new worker, and one at the end."""
        if not todo or self._late(deadline):
            return
        self._round = number
        seconds = rounds.seconds(self._rows["block"], number, self._plan.effort)
        every = self._plan.effort.sentinel_every
        for start in range(0, len(todo), every):
            self._measure_sentinel(fresh=start == 0)
            if not self._chunk(todo[start : start + every], seconds, deadline):
                return
        self._measure_sentinel()

    def _again(self, deadline: float | None) -> list[Block]:
        """Blocks to measure once more, disturbed ones when it is quiet again."""
        keys, disturbed = rounds.again(self._rows["block"], self._rows["sentinel"], self._plan.effort)
        if disturbed:
            self._wait(deadline)
        return [block for block in self._plan.order(self._plan.effort.rounds) if block.key in keys]

    def _wait(self, deadline: float | None) -> bool:
        """Until the device is quiet, as long as the plan has patience."""
        self._step("wait", "")
        patience = self._clock() + max(0.0, self._plan.effort.patience - self._quiet.waited)
        return self._quiet.wait(patience if deadline is None else min(deadline, patience))

    def _measure_sentinel(self, *, fresh: bool = False) -> None:
        result = self._look(fresh=fresh)
        if isinstance(result, wire.Measured):
            self._quiet.saw(result, sentinel=True)
            self._append("sentinel", self._row(result))
            if result.noise.governor not in (wire.Noise.governor, self._facts.governor):
                self._require_same_device()

    def _look(self, *, fresh: bool = False) -> wire.Measured | wire.Failed:
        """The sentinel, or where there is none the anchor, without a row."""
        job = (
            self._block_job(self._plan.sentinel, self._plan.effort.block_seconds)
            if self._plan.sentinel
            else self._anchor_job()
        )
        (result,) = self._device.measure([job], fresh=fresh)
        return result

    def _chunk(self, blocks: Sequence[Block], seconds: Mapping[str, float], deadline: float | None) -> bool:
        """Measure in the round's worker; False when the time is over."""
        jobs = [self._block_job(b, seconds.get(b.key, self._plan.effort.block_seconds)) for b in blocks]
        with closing(_iterator(self._device.measure(jobs, fresh=False))) as results:
            for block, result in zip(blocks, results, strict=True):
                self._take_block(block, result)
                if self._late(deadline):
                    return False
        return True

    def _take_block(self, block: Block, result: wire.Measured | wire.Failed) -> None:
        if isinstance(result, wire.Measured):
            self._quiet.saw(result, sentinel=False)
            row = self._row(result)
            if not result.flags:
                del row["noise"]
            self._append("block", row)
            if self._round < len(self._blocks):
                del self._blocks[self._round][block.key]
        else:
            if any(block.key in todo for todo in self._blocks):
                self._failed(result)
            for todo in self._blocks:
                todo.pop(block.key, None)
        self._step("block", block.key, result)

    def _append(self, record: str, row: dict[str, Any]) -> None:
        row["round"] = self._round
        self._writer.append(record, row)
        self._rows[record].append(row)

    def _block_job(self, block: Block, seconds: float) -> wire.MeasureJob:
        model, runs_on = self._models[block.key], self._task.runs_on
        return wire.MeasureJob(
            key=block.key,
            model=model.sha256,
            shape=model.shape,
            runtime=runs_on.runtime,
            threads=runs_on.threads,
            cores=runs_on.cores,
            target_rel=self._plan.effort.block_rel,
            max_seconds=seconds,
        )

    # -- networks ---------------------------------------------------------------------------------
    def _measure_networks(self, deadline: float | None, share: float) -> None:
        """Those among the first `share` of the plan's that are left."""
        first = self._plan.networks[: math.ceil(share * len(self._plan.networks))]
        for network in [network for network in self._networks if network in first]:
            if self._late(deadline):
                return
            if self._plan.sentinel and not self._plan.blocks:
                self._measure_sentinel()
            self._measure_network(network, deadline)

    def _measure_network(self, network: PlannedNetwork, deadline: float | None) -> None:
        key = self._key(network)
        job = network_job(key, self._models[key], self._models["anchor"], self._task.runs_on, self._plan.effort)
        arch = encode(self._task.space, network.arch)
        attempts = self._plan.effort.attempts if self._stubborn < _STUBBORN else 1
        wait = partial(self._wait, deadline)
        for trial in repeated(self._device, job, attempts=attempts, before_repeat=wait):
            if isinstance(trial.result, wire.Failed):
                self._failed(trial.result)
            else:
                self._saw_network(trial.result)
                row = {"role": network.role, "arch": arch, "attempt": trial.attempt}
                self._writer.append("network", {**self._row(trial.result, nested=True), **row})
        self._stubborn += trial.disturbed
        self._networks.remove(network)
        self._step("network", key, trial.result)

    def _anchor_job(self) -> wire.MeasureJob:
        key, model = network_key(self._task.space, self._plan.anchor), self._models["anchor"]
        return network_job(key, model, None, self._task.runs_on, self._plan.effort)

    def _saw_network(self, result: wire.Measured) -> None:
        """Without a sentinel the anchor tells how quiet it is."""
        if self._plan.sentinel is None and result.anchor is not None:
            self._quiet.saw(replace(result, figures=result.anchor), sentinel=True)
        else:
            self._quiet.saw(result, sentinel=False)

    def _before_networks(self, deadline: float | None) -> float | None:
        """When blocks must end so that the networks that are left have what they will take, at most half of the time
        there is."""
        if deadline is None:
            return None
        need = len(self._networks) * (self._plan.effort.network_seconds + _NETWORK_START_SECONDS)
        return deadline - min(need, max(0.0, deadline - self._clock()) / 2)

    def _key(self, network: PlannedNetwork) -> str:
        return network_key(self._task.space, network.arch)

    # -- rows -------------------------------------------------------------------------------------
    def _row(self, measured: wire.Measured, *, nested: bool = False) -> dict[str, Any]:
        """A row without key of the record. Blocks keep what went on beside them only where that raised a flag: there
        are thousands of them, and the sentinels between them tell the rest."""
        fields = wire.to_wire(measured)
        fields["noise"] = _rounded(fields["noise"])
        if not nested:
            del fields["peak_bytes"]
        figures = _rounded(fields.pop("figures"))
        anchor, ratio = fields.pop("anchor"), fields.pop("ratio")
        row: dict[str, Any] = {"key": fields.pop("key"), **self._when()}
        if nested:
            row |= {"figures": figures, "anchor": _rounded(anchor), "ratio": _rounded(ratio)}
        else:
            row |= figures or {}
        return row | (_rounded(fields) or {})

    def _failed(self, failed: wire.Failed) -> None:
        self._writer.append("failed", {"key": failed.key, **self._when(), "reason": failed.reason})

    def _when(self) -> dict[str, Any]:
        return {"session": self._session, "at": round(self._clock() - self._began, 3)}

    def _late(self, deadline: float | None) -> bool:
        return deadline is not None and self._clock() >= deadline

    def _step(self, kind: str, key: str, result: wire.Measured | wire.Failed | None = None) -> None:
        ms = result.figures.median if isinstance(result, wire.Measured) else None
        self._on_step(Step(kind, key, self._total - self.remaining, self._total, ms))


def _macs(plan: Plan, space: Space) -> dict[str, int]:
    """What each job of a plan computes, by its key."""
    blocks = (*([plan.sentinel] if plan.sentinel else []), *plan.blocks)
    archs = (plan.anchor, *(network.arch for network in plan.networks))
    networks = {network_key(space, arch): cost(space.blocks(arch)).macs for arch in archs}
    return networks | {block.key: block_macs(block) for block in blocks}


def _iterator(results: Iterator[wire.Measured | wire.Failed]) -> Any:
    """As a generator, which can be closed early."""
    yield from results


def _rounded(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Floats to a tenth of a nanosecond (rounding keeps their order): the file is a third smaller."""
    if value is None:
        return None
    return {key: round(item, 7) if isinstance(item, float) else item for key, item in value.items()}


def _header(facts: wire.Facts, task: Task) -> Header:
    provenance = Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=f"ofa-edge {__version__}",
        serial=facts.serial,
        boot_id=facts.boot_id,
        kernel=facts.kernel,
        machine=facts.machine,
        python=facts.python,
        agent=facts.agent,
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


def _space(header: Header) -> str:
    """Its name; of a space of one's own with a mark that tells it from others of that name."""
    own = header.definition
    return header.space if own is None else f"{header.space} (definition {strict_json.sha256(own)[:8]})"


def _require_same_unit(found: journal.Contents, facts: wire.Facts, path: Path) -> None:
    """Raises where another unit, of the same model even, would go on with what one began."""
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


def _require_same(old: Header, new: Header, path: Path) -> None:
    """Raises where a campaign would go on under other conditions or with another plan."""
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
