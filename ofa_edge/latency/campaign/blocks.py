"""Blocks of a campaign: measured in rounds, each in a fresh worker and an order of its own.

In: a Bench and what the table has of them. Out: rows. Rules kept: a sentinel comes before every few blocks, the first
one in a new worker, and one at the end of a round; a block that crashes is a failed row and is not tried again in this
session; disturbed and wide blocks are measured once more at the end (rounds.py), when the device is quiet again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from device_agents import wire
from ofa_edge.latency.campaign import rounds
from ofa_edge.latency.campaign.bench import Bench
from ofa_edge.latency.workload import leaving
from ofa_edge.space.block import Block

Result = wire.Measured | wire.Failed


class Blocks:
    """The rounds of one session.

    Args:
        on_result: called with each result.
    """

    def __init__(self, bench: Bench, on_result: Callable[[Result], None]):
        self._bench = bench
        self._on_result = on_result
        done = {(row["key"], row.get("round", 0)) for row in bench.rows.blocks}
        plan = bench.plan
        self._todo = [
            {block.key: block for block in plan.order(number) if (block.key, number) not in done}
            for number in range(plan.effort.rounds)
        ]
        self.begun = any(self._todo)
        """Whether this session has blocks to measure."""

    @property
    def remaining(self) -> int:
        """Measurements that have neither a result nor, in this session, a failure."""
        return sum(map(len, self._todo))

    def measure_round(self, number: int, deadline: float | None) -> None:
        """What is left of a round."""
        self._measure(number, list(self._todo[number].values()), deadline)

    def measure_again(self, deadline: float | None) -> None:
        """Disturbed and wide blocks once more, as a round after the last."""
        bench, effort = self._bench, self._bench.plan.effort
        keys, disturbed = rounds.again(bench.rows.blocks, bench.rows.sentinels, effort)
        if disturbed:
            bench.wait(deadline)
        todo = [block for block in bench.plan.order(effort.rounds) if block.key in keys]
        self._measure(effort.rounds, todo, deadline)

    def _measure(self, number: int, todo: Sequence[Block], deadline: float | None) -> None:
        bench, effort = self._bench, self._bench.plan.effort
        if not todo or bench.late(deadline):
            return
        bench.rows.round = number
        seconds = rounds.seconds(bench.rows.blocks, number, effort)
        for start in range(0, len(todo), effort.sentinel_every):
            bench.measure_sentinel(fresh=start == 0)
            if not self._chunk(todo[start : start + effort.sentinel_every], seconds, deadline):
                return
        bench.measure_sentinel()

    def _chunk(self, blocks: Sequence[Block], seconds: Mapping[str, float], deadline: float | None) -> bool:
        """Measure in the round's worker; False when the time is over."""
        usual = self._bench.plan.effort.block_seconds
        jobs = [self._bench.block_job(block, seconds.get(block.key, usual)) for block in blocks]
        with leaving(self._bench.device.measure(jobs, fresh=False)) as results:
            for block, result in zip(blocks, results, strict=True):
                self._take(block, result)
                if self._bench.late(deadline):
                    return False
        return True

    def _take(self, block: Block, result: Result) -> None:
        rows = self._bench.rows
        if isinstance(result, wire.Measured):
            self._bench.quiet.saw(result, sentinel=False)
            rows.block(result)
            if rows.round < len(self._todo):
                del self._todo[rows.round][block.key]
        else:
            if any(block.key in todo for todo in self._todo):
                rows.failed(result)
            for todo in self._todo:
                todo.pop(block.key, None)
        self._on_result(result)
