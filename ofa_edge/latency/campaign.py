"""Profiling: plan + device -> latency table, row by row.

In: a session with an agent, a Task, the path of the table. Out: the table on disk and an Outcome. Rules kept: every
result is in the file before the next is waited for, so Ctrl-C, a lost device or a killed host keep all of them and
`resume` goes on; a resumed campaign measures what is missing or failed, under the same conditions and plan or not at
all; a block that crashes is a failed row; a disturbed block is tried again at the end, a disturbed network at once, at
most three times; the file gets its `end` record only when nothing of the plan is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_agents import wire
from ofa_edge import __version__, journal, strict_json
from ofa_edge.errors import UsageError
from ofa_edge.latency import workload
from ofa_edge.latency.conditions import Header, PlanSettings, Provenance, RunsOn, conditions, require_match
from ofa_edge.latency.outcome import Outcome, conclude
from ofa_edge.latency.plan import SENTINEL_EVERY, Plan, PlannedNetwork, make_plan, network_key
from ofa_edge.latency.table import DISTURBING, FORMAT, LatencyTable
from ofa_edge.latency.trials import network_job, repeated
from ofa_edge.latency.workload import Device, Model
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import encode
from ofa_edge.space.spaces import own_definition

# Where more blocks than this share were disturbed the machine is busy, and measuring them again changes nothing.
_BUSY_SHARE = 0.3
# Starting a fresh worker and loading two networks, on top of the time a network is measured for.
_NETWORK_START_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Task:
    """What to profile: the subnets of `space` at `resolutions`, run as `runs_on` says, planned from `settings`."""

    space: Space
    resolutions: tuple[int, ...]
    runs_on: RunsOn
    settings: PlanSettings


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `done` of `total` measurements; `kind` is upload, block or network.

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
) -> Outcome:
    """Measure a latency table.

    Args:
        path: of the table; its folder is made.
        resume: continue `path`; where it does not exist it is started.
        max_minutes: stop then, networks having their share; the table is left without its `end`.
        on_step: called before the first and after every measurement.
        clock: monotonic seconds.

    Raises:
        UsageError: the file exists and `resume` is not set, or its plan is another one; no such runtime or cores.
        BadFile: the file was measured under other conditions, or is damaged.
        DeviceLost: the device went away; what was measured is in the file.
        OfaEdgeError: not one block could be measured.
    """
    path = Path(path)
    plan = make_plan(task.space, task.resolutions, task.settings)
    header = _header(device.facts, task)
    began = clock()

    def accept(found: journal.Contents) -> None:
        _require_same(LatencyTable.from_contents(found, str(path)).header, header, Path(path))

    if resume:
        contents, writer = journal.Writer.resume(path, FORMAT, header.as_json(), accept)
    else:
        writer = journal.Writer.create(path, FORMAT, header.as_json())
        contents = journal.read(path, FORMAT)
    with writer:
        before = LatencyTable.from_contents(contents, str(path))
        campaign = _Campaign(device, writer, plan, task, before, on_step or (lambda step: None), clock)
        if campaign.remaining:
            campaign.measure(None if max_minutes is None else began + 60 * max_minutes)
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
    ):
        self._device = device
        self._writer = writer
        self._plan = plan
        self._task = task
        self._on_step = on_step
        self._clock = clock
        self._session = len(before.contents.of("session"))
        self._began = clock()
        self._models: dict[str, Model] = {}
        self._tries: dict[str, int] = {}
        self._disturbed: set[str] = set()
        self._done = 0
        self.pushed = 0
        self._blocks = {block.key: block for block in plan.blocks if block.key not in before.blocks.index}
        measured = set(zip(before.networks["key"], before.networks["role"], strict=True))
        self._networks = [n for n in plan.networks if (self._key(n), n.role) not in measured]
        self._total = len(self._blocks) + len(self._networks)

    @property
    def remaining(self) -> int:
        """Measurements of the plan that have neither a result nor, in this session, a failure."""
        return len(self._blocks) + len(self._networks)

    def measure(self, deadline: float | None) -> None:
        """Everything that is left, until the deadline (on the campaign's clock)."""
        start = datetime.now(UTC).isoformat(timespec="seconds")
        self._writer.append("session", {"start": start, "facts": wire.to_wire(self._device.facts)})
        self._upload()
        self._measure_blocks(None if deadline is None else deadline - self._networks_need(deadline))
        self._measure_networks(deadline)

    # -- models -----------------------------------------------------------------------------------
    def _upload(self) -> None:
        self._step("upload", "models")
        blocks = [self._plan.sentinel, *self._blocks.values()]
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

    # -- blocks -----------------------------------------------------------------------------------
    def _measure_blocks(self, deadline: float | None) -> None:
        for attempt in range(self._plan.effort.attempts):
            todo = list(self._blocks.values()) if attempt == 0 else self._again()
            for start in range(0, len(todo), SENTINEL_EVERY):
                if not self._chunk([self._plan.sentinel, *todo[start : start + SENTINEL_EVERY]], deadline):
                    return
            if todo:
                self._chunk([self._plan.sentinel], deadline)

    def _again(self) -> list[Block]:
        """Disturbed blocks to try once more: none where the machine is simply busy."""
        if len(self._disturbed) > _BUSY_SHARE * len(self._plan.blocks):
            return []
        return [block for block in self._plan.blocks if block.key in self._disturbed]

    def _chunk(self, blocks: Sequence[Block], deadline: float | None) -> bool:
        """Measure in one worker, the sentinel first; False when the time is over."""
        if self._late(deadline):
            return False
        jobs = [self._block_job(block) for block in blocks]
        with closing(_iterator(self._device.measure(jobs, fresh=False))) as results:
            for place, (block, result) in enumerate(zip(blocks, results, strict=True)):
                self._take_block(block, result, sentinel=place == 0)
                if self._late(deadline):
                    return False
        return True

    def _take_block(self, block: Block, result: wire.Measured | wire.Failed, *, sentinel: bool) -> None:
        if sentinel:
            if isinstance(result, wire.Measured):
                self._writer.append("sentinel", self._row(result))
            return
        first = self._blocks.pop(block.key, None) is not None
        if isinstance(result, wire.Failed):
            if first:
                self._failed(result)
        else:
            row = self._row(result)
            if not result.flags:
                del row["noise"]
            self._writer.append("block", row)
            busy = not DISTURBING.isdisjoint(result.flags)
            (self._disturbed.add if busy else self._disturbed.discard)(block.key)
        self._done += first
        self._step("block", block.key, result)

    def _block_job(self, block: Block) -> wire.MeasureJob:
        model, runs_on, effort = self._models[block.key], self._task.runs_on, self._plan.effort
        return wire.MeasureJob(
            key=block.key,
            model=model.sha256,
            shape=model.shape,
            runtime=runs_on.runtime,
            threads=runs_on.threads,
            cores=runs_on.cores,
            target_rel=effort.block_rel,
            max_seconds=effort.block_seconds,
        )

    # -- networks ---------------------------------------------------------------------------------
    def _measure_networks(self, deadline: float | None) -> None:
        for network in list(self._networks):
            if self._late(deadline):
                return
            self._measure_network(network)

    def _measure_network(self, network: PlannedNetwork) -> None:
        key = self._key(network)
        job = network_job(key, self._models[key], self._models["anchor"], self._task.runs_on, self._plan.effort)
        arch = encode(self._task.space, network.arch)
        for trial in repeated(self._device, job, attempts=self._plan.effort.attempts):
            if isinstance(trial.result, wire.Failed):
                self._failed(trial.result)
            else:
                row = {"role": network.role, "arch": arch, "attempt": trial.attempt}
                self._writer.append("network", {**self._row(trial.result, nested=True), **row})
        self._networks.remove(network)
        self._done += 1
        self._step("network", key, trial.result)

    def _networks_need(self, deadline: float) -> float:
        """Seconds kept for the networks: what they will take, at most half of what there is."""
        need = len(self._networks) * (self._plan.effort.network_seconds + _NETWORK_START_SECONDS)
        return min(need, max(0.0, deadline - self._clock()) / 2)

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
        self._on_step(Step(kind, key, self._done, self._total, ms))


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
    )


def _space(header: Header) -> str:
    """Its name; of a space of one's own with a mark that tells it from others of that name."""
    own = header.definition
    return header.space if own is None else f"{header.space} (definition {strict_json.sha256(own)[:8]})"


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
