"""Profiling: plan + device -> latency table, row by row.

In: a session with an agent, a Task, the path of the table. Out: the table on disk and an Outcome. The pipeline:

    identity   is the file, if there is one, of this plan on this device?           identity.py
    bring      the models of blocks and the anchor; of networks when they are due   bench.py
    heat       of a sustained table: until the speed is steady                      sustained.py
    measure    rounds of blocks, each followed by its share of the networks         blocks.py, networks.py
    again      disturbed and wide blocks once more
    predict    of a quick plan: the blocks that were not measured                   predicting.py
    conclude   fit and judge                                                        outcome.py

Rules kept: every result is in the file before the next is waited for (rows.py), so Ctrl-C, a lost device or a
killed host keep all of them and `resume` goes on with what is missing or failed; after every step the device is asked
whether it is still what it was; the file gets its `end` record only when nothing of the plan is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_agents import wire
from ofa_edge import journal
from ofa_edge.latency.campaign import sustained
from ofa_edge.latency.campaign.bench import Bench
from ofa_edge.latency.campaign.blocks import Blocks
from ofa_edge.latency.campaign.identity import Task as Task
from ofa_edge.latency.campaign.identity import header_of, require_same_task, require_same_unit
from ofa_edge.latency.campaign.networks import Networks
from ofa_edge.latency.campaign.outcome import Outcome, conclude
from ofa_edge.latency.campaign.predicting import predicted_rows
from ofa_edge.latency.campaign.quiet import MOST_TOGETHER
from ofa_edge.latency.campaign.rows import Rows
from ofa_edge.latency.conditions import SUSTAINED
from ofa_edge.latency.judging.plausible import CheckedDevice
from ofa_edge.latency.models.transfer import Start
from ofa_edge.latency.plan import Plan, network_key
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.latency.workload import Device
from ofa_edge.space.arch import Space
from ofa_edge.space.cost import block_macs, cost


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `done` of `total` measurements; `kind` is upload, block, network, or wait where a disturbed device is
    given time.

    `ms` is the median that was measured, None for an upload or a failure.
    """

    kind: str
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
        NoRoom: the device has too little of it for the models.
        DeviceLost: the device went away; what was measured is in the file.
        OfaEdgeError: not one block could be measured.
    """
    path = Path(path)
    plan = task.plan()
    header = header_of(device.facts, task)
    began = clock()

    def accept(found: journal.Contents) -> None:
        require_same_task(LatencyTable.from_contents(found, str(path)).header, header, Path(path))
        require_same_unit(found, device.facts, Path(path))

    if resume:
        contents, writer = journal.Writer.resume(path, FORMAT, header.as_json(), accept)
    else:
        writer = journal.Writer.create(path, FORMAT, header.as_json())
        contents = journal.read(path, FORMAT)
    with writer:
        before = LatencyTable.from_contents(contents, str(path))
        rows = Rows(writer, contents, clock)
        campaign = _Campaign(device, plan, task, before, rows, on_step or (lambda step: None), clock, pause)
        if campaign.remaining:
            campaign.measure(None if max_minutes is None else began + 60 * max_minutes)
        if plan.predicted and not campaign.remaining:
            rows.predicted(predicted_rows(LatencyTable.read(path), plan.predicted))
        return conclude(
            path, writer, plan, finished=not campaign.remaining, seconds=clock() - began, bytes_pushed=campaign.pushed
        )


class _Campaign:
    """The measuring of one session."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        task: Task,
        before: LatencyTable,
        rows: Rows,
        on_step: Callable[[Step], None],
        clock: Callable[[], float],
        pause: Callable[[float], None],
    ):
        self._bare = device
        self._warm = task.runs_on.thermal == SUSTAINED
        checked = CheckedDevice(
            sustained.Warm(device) if self._warm else device,
            task.runs_on,
            _macs(plan, task.space),
            cost(task.space.blocks(plan.anchor)).macs,
        )
        patience = 0.0 if self._warm else MOST_TOGETHER
        self._pause = pause
        self._bench = Bench(checked, task, plan, rows, clock=clock, pause=self._rest, patience=patience)
        self._blocks = Blocks(self._bench, lambda result: self._step("block", result))
        self._networks = Networks(self._bench, before, lambda result: self._step("network", result))
        self._taken_over = {*before.predicted.index, *before.failed.index}
        self._on_step = on_step
        self._total = self.remaining

    @property
    def remaining(self) -> int:
        """Measurements of the plan that have neither a result nor, in this session, a failure."""
        return self._blocks.remaining + self._networks.remaining

    @property
    def pushed(self) -> int:
        return self._bench.models.pushed

    def measure(self, deadline: float | None) -> None:
        """Everything that is left, until the deadline (on the campaign's clock)."""
        bench, plan = self._bench, self._bench.plan
        bench.rows.begin_session(bench.identity.facts)
        if self._bench.task.start is not None:
            self._take_over(self._bench.task.start)
        self._bring()
        if self._warm:
            self._heat(deadline)
        for number in range(plan.effort.rounds):
            self._blocks.measure_round(number, self._before_networks(deadline))
            self._networks.measure_round(number, deadline)
            bench.identity.require_same()
        if self._blocks.begun and not self._blocks.remaining:
            self._blocks.measure_again(deadline)
            bench.identity.require_same()
        if not self._networks.remaining:
            self._networks.measure_again(deadline)

    def _take_over(self, start: Start) -> None:
        """The prior's blocks, so that the table can do without it."""
        rows = self._bench.rows
        rows.predicted(
            {"key": key, "median": ms, "error": error, "source": "prior"}
            for key, (ms, error) in start.blocks.items()
            if key not in self._taken_over
        )
        for key, reason in start.failed.items():
            if key not in self._taken_over:
                rows.failed(wire.Failed(key, reason))

    def _bring(self) -> None:
        """The models that are needed from the start."""
        self._step("upload")
        plan, models = self._bench.plan, self._bench.models
        sentinel = () if plan.sentinel is None else (plan.sentinel,)
        models.bring_blocks([*sentinel, *(plan.blocks if self._blocks.begun else ())])
        if plan.networks or self._warm:
            models.bring_anchor(plan.anchor)
        if self._warm:
            self._networks.bring_all()

    def _heat(self, deadline: float | None) -> None:
        """Keep the device busy with the anchor until it is steady; half of the time there is at most."""
        bench = self._bench
        end = None if deadline is None else (bench.clock() + deadline) / 2
        first: float | None = None
        for sample in sustained.heat(self._bare, bench.models.anchor, bench.task.runs_on, bench.clock, end):
            first = first or sample.median
            bench.rows.sustained(sample.row(first))

    def _before_networks(self, deadline: float | None) -> float | None:
        """When blocks must end so that the networks that are left have what they will take, at most half of the time
        there is."""
        if deadline is None:
            return None
        return deadline - min(self._networks.seconds, max(0.0, deadline - self._bench.clock()) / 2)

    def _rest(self, seconds: float) -> None:
        self._step("wait")
        self._pause(seconds)

    def _step(self, kind: str, result: wire.Measured | wire.Failed | None = None) -> None:
        ms = result.figures.median if isinstance(result, wire.Measured) else None
        self._on_step(Step(kind, self._total - self.remaining, self._total, ms))


def _macs(plan: Plan, space: Space) -> dict[str, int]:
    """What each job of a plan computes, by its key."""
    blocks = (*([plan.sentinel] if plan.sentinel else []), *plan.blocks)
    archs = (plan.anchor, *(network.arch for network in plan.networks))
    networks = {network_key(space, arch): cost(space.blocks(arch)).macs for arch in archs}
    return networks | {block.key: block_macs(block) for block in blocks}
