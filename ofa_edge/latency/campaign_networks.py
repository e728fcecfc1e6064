"""Whole networks of a campaign: each in a fresh worker, interleaved with the anchor.

In: a Bench and the networks that the table has. Out: rows. Rules kept: each round of blocks is followed by its share of
them; a disturbed one is measured again at once, at most three times and each time when the device is quiet again; on a
device that stays disturbed the others are measured once; what crashes is a failed row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from device_agents import wire
from ofa_edge.latency.campaign_bench import Bench
from ofa_edge.latency.plan import PlannedNetwork, network_key
from ofa_edge.latency.table import LatencyTable
from ofa_edge.latency.trials import network_job, repeated
from ofa_edge.space.codecs import encode

# After so many networks that stayed disturbed the others are measured once.
_STUBBORN = 4
# Starting a fresh worker and loading two networks, on top of the time a network is measured for.
_START_SECONDS = 1.5
# Networks that come to the device together: of ofa-mbv3-w1.0 some 80 MB.
_TOGETHER = 4


class Networks:
    """Those of one session.

    Args:
        before: the table so far.
        on_result: called with each network's key and last result.
    """

    def __init__(
        self, bench: Bench, before: LatencyTable, on_result: Callable[[str, wire.Measured | wire.Failed], None]
    ):
        self._bench = bench
        self._on_result = on_result
        measured = set(zip(before.networks["key"], before.networks["role"], strict=True))
        self._left = [n for n in bench.plan.networks if (self._key(n), n.role) not in measured]
        self._stubborn = 0  # networks that no repeat made undisturbed

    @property
    def remaining(self) -> int:
        """Networks that have neither a result nor, in this session, a failure."""
        return len(self._left)

    @property
    def seconds(self) -> float:
        """What those that remain will take."""
        return len(self._left) * (self._bench.plan.effort.network_seconds + _START_SECONDS)

    def bring_all(self) -> None:
        """Models to the device at once, where nothing may come between the measurements. Raises NoRoom."""
        self._bench.models.bring_networks({self._key(n): n.arch for n in self._left})

    def measure(self, deadline: float | None, share: float) -> None:
        """What is left of the first `share` of the plan's networks."""
        bench = self._bench
        first = set(bench.plan.networks[: math.ceil(share * len(bench.plan.networks))])
        todo = [network for network in self._left if network in first]
        for i, network in enumerate(todo):
            if bench.late(deadline):
                return
            if i % _TOGETHER == 0:
                bench.models.bring_networks({self._key(n): n.arch for n in todo[i : i + _TOGETHER]})
            if bench.plan.sentinel and not bench.plan.blocks:
                bench.measure_sentinel()
            self._measure(network, deadline)

    def _measure(self, network: PlannedNetwork, deadline: float | None) -> None:
        bench, key = self._bench, self._key(network)
        runs_on, effort = bench.task.runs_on, bench.plan.effort
        job = network_job(key, bench.models[key], bench.models.anchor, runs_on, effort)
        arch = encode(bench.task.space, network.arch)
        attempts = effort.attempts if self._stubborn < _STUBBORN else 1
        wait = partial(bench.wait, deadline)
        for trial in repeated(bench.device, job, attempts=attempts, before_repeat=wait):
            if isinstance(trial.result, wire.Failed):
                bench.rows.failed(trial.result)
            else:
                self._saw(trial.result)
                bench.rows.network(trial.result, role=network.role, arch=arch, attempt=trial.attempt)
        self._stubborn += trial.disturbed
        self._left.remove(network)
        bench.models.used(key)
        self._on_result(key, trial.result)

    def _saw(self, result: wire.Measured) -> None:
        """Without a sentinel the anchor tells how quiet it is."""
        if self._bench.plan.sentinel is None and result.anchor is not None:
            self._bench.quiet.saw(replace(result, figures=result.anchor), sentinel=True)
        else:
            self._bench.quiet.saw(result, sentinel=False)

    def _key(self, network: PlannedNetwork) -> str:
        return network_key(self._bench.task.space, network.arch)
