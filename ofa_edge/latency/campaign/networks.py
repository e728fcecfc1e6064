"""Whole networks of a campaign: each in a fresh worker, interleaved with the anchor.

In: a Bench and the networks that the table has. Out: rows. Rules kept: each round of blocks is followed by one process
of every network, because one process' ratio to the anchor is off by several per cent now and then; one that was
disturbed in every round is measured a few more times at the end, each time when the device is quiet again; on a device
that stays disturbed the others are left as they are. What crashes is a failed row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from device_agents import wire
from ofa_edge.latency.campaign.bench import Bench
from ofa_edge.latency.plan import PlannedNetwork, network_key
from ofa_edge.latency.table import DISTURBING, LatencyTable
from ofa_edge.latency.trials import network_job
from ofa_edge.space.codecs import encode

# After so many networks that stayed disturbed the others are not measured again.
_STUBBORN = 4
# Starting a fresh worker and loading two networks, on top of the time a network is measured for.
_START_SECONDS = 1.5
# Networks that come to the device together: of ofa-mbv3-w1.0 some 80 MB.
_TOGETHER = 4


class Networks:
    """Those of one session.

    Args:
        before: the table so far.
        on_result: called with each network's last result.
    """

    def __init__(self, bench: Bench, before: LatencyTable, on_result: Callable[[wire.Measured | wire.Failed], None]):
        self._bench = bench
        self._on_result = on_result
        measured = {(row["key"], row["role"], row.get("round", 0)) for row in before.contents.of("network")}
        self._todo = [
            [n for n in bench.plan.networks if (self._key(n), n.role, number) not in measured]
            for number in range(bench.plan.effort.rounds)
        ]
        self._quiet = set(before.networks["key"][~before.networks["disturbed"]])
        self._crashed: set[str] = set()

    @property
    def remaining(self) -> int:
        """Measurements that have neither a result nor, in this session, a failure."""
        return sum(map(len, self._todo))

    @property
    def seconds(self) -> float:
        """What those that remain will take."""
        return self.remaining * (self._bench.plan.effort.network_seconds + _START_SECONDS)

    def bring_all(self) -> None:
        """Models to the device at once, where nothing may come between the measurements. Raises NoRoom."""
        self._bench.models.bring_networks({self._key(n): n.arch for todo in self._todo for n in todo})

    def measure_round(self, number: int, deadline: float | None) -> None:
        """What is left of a round."""
        bench = self._bench
        bench.rows.round = number
        todo = list(self._todo[number])
        for i, network in enumerate(todo):
            if bench.late(deadline):
                return
            if i % _TOGETHER == 0:
                bench.models.bring_networks({self._key(n): n.arch for n in todo[i : i + _TOGETHER]})
            if bench.plan.sentinel and not bench.plan.blocks:
                bench.measure_sentinel()
            result = self._measure(network)
            bench.models.used(self._key(network))
            self._done(network, number)
            self._on_result(result)

    def measure_again(self, deadline: float | None) -> None:
        """Those that were disturbed in every round."""
        bench, effort = self._bench, self._bench.plan.effort
        bench.rows.round = effort.rounds
        stubborn = 0
        for network in bench.plan.networks:
            key = self._key(network)
            tries = effort.network_tries
            while tries > 0 and key not in self._quiet | self._crashed and stubborn < _STUBBORN:
                if bench.late(deadline):
                    return
                bench.wait(deadline)
                bench.models.bring_networks({key: network.arch})
                self._measure(network)
                tries -= 1
            stubborn += key not in self._quiet

    def _measure(self, network: PlannedNetwork) -> wire.Measured | wire.Failed:
        bench, key = self._bench, self._key(network)
        job = network_job(key, bench.models[key], bench.models.anchor, bench.task.runs_on, bench.plan.effort)
        (result,) = bench.device.measure([job], fresh=True)
        if isinstance(result, wire.Failed):
            bench.rows.failed(result)
            self._crashed.add(key)
        else:
            self._saw(result)
            if DISTURBING.isdisjoint(result.flags):
                self._quiet.add(key)
            bench.rows.network(result, role=network.role, arch=encode(bench.task.space, network.arch))
        return result

    def _done(self, network: PlannedNetwork, number: int) -> None:
        """One round less; none is left for a network that crashes."""
        for todo in self._todo if self._key(network) in self._crashed else [self._todo[number]]:
            if network in todo:
                todo.remove(network)

    def _saw(self, result: wire.Measured) -> None:
        """Without a sentinel the anchor tells how quiet it is."""
        if self._bench.plan.sentinel is None and result.anchor is not None:
            self._bench.quiet.saw(replace(result, figures=result.anchor), sentinel=True)
        else:
            self._bench.quiet.saw(result, sentinel=False)

    def _key(self, network: PlannedNetwork) -> str:
        return network_key(self._bench.task.space, network.arch)
