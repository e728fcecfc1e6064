"""Energy of whole networks and of some blocks, after their latencies: a run of its own, appended to the table.

In: a session with an agent, the table, the plan it was measured from. Out: `energy` rows in the table and a Report.
Rules kept: what is measured is the difference between running and idling (device_agents/power.py); all networks are
measured, of the blocks only some, spread over their latencies, because one takes a quarter of a minute; a device
without a counter is 'unknown', which is no error; what is in the table already is not measured again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_agents import wire
from ofa_edge import journal
from ofa_edge.latency import workload
from ofa_edge.latency.campaign.rows import begin_session
from ofa_edge.latency.conditions import UNKNOWN, RunsOn
from ofa_edge.latency.plan import Plan, network_key
from ofa_edge.latency.stats import Notice
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.latency.workload import Device
from ofa_edge.space.block import Block

# A job of six windows of a second takes 16 s: 12 networks and 12 blocks are 6 minutes, all blocks would be hours.
WINDOW_SECONDS = 1.0
WINDOWS = 6
BLOCKS = 12
BLOCK = "block"  # value of `role`; a network's is its role in the plan


@dataclass(frozen=True, slots=True)
class Report:
    """What the energy run gave.

    Attributes:
        sensor: what was read; UNKNOWN where the device has no counter that can be read.
        rows: the table's `energy` rows of that sensor.
        failed: key -> reason of what could not be measured.
        left: how many of the plan the time was over for.
    """

    sensor: str
    rows: tuple[dict[str, Any], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    left: int = 0

    @property
    def idle_w(self) -> float | None:
        """Median power of the idle windows."""
        return float(np.median([row["idle_w"] for row in self.rows])) if self.rows else None

    def as_json(self) -> dict[str, Any]:
        """The value of `energy` in `ofa-edge profile --json`."""
        if self.sensor == UNKNOWN:
            return {"sensor": UNKNOWN}
        names = ("key", "role", "mj", "low", "high", "busy_w")
        return {
            "sensor": self.sensor,
            "idle_w": self.idle_w,
            "rows": [{name: row[name] for name in names} for row in self.rows],
            "failed": [{"key": key, "reason": reason} for key, reason in self.failed],
        }

    def notices(self) -> tuple[Notice, ...]:
        """What a user should know."""
        if self.sensor == UNKNOWN:
            return (
                Notice(
                    "no-energy-sensor",
                    "the device has no counter of energy that can be read",
                    UNKNOWN,
                    "on a PC RAPL's files need root (`sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`); "
                    "a board needs a monitor such as an INA219 at its supply",
                ),
            )
        found = []
        if self.failed:
            text = f"the energy of {len(self.failed)} blocks or networks could not be measured"
            found.append(Notice("energy-failed", text, len(self.failed), self.failed[0][1]))
        if self.left:
            text = f"the time was over before the energy of {self.left} blocks or networks was measured"
            found.append(Notice("energy-unfinished", text, self.left, "the same command with --resume goes on"))
        return tuple(found)


def measure(
    device: Device,
    table: LatencyTable,
    plan: Plan,
    runs_on: RunsOn,
    on_step: Callable[[str], None] | None = None,
    *,
    max_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Measure energy and append it to the table's file, which keeps its `end`.

    Args:
        table: as it was read after the latencies.
        on_step: called with the key of what has just been measured.
        max_seconds: stop then; what is being measured is finished.
        clock: monotonic seconds.

    Raises:
        UsageError, DeviceLost: as Session.measure; what was measured is in the file.
    """
    if not device.facts.sensors:
        return Report(UNKNOWN)
    sensor = device.facts.sensors[0]
    done = {(row.get("key"), row.get("role")) for row in _known(table.contents, sensor)}
    space = table.space
    roles = {network_key(space, network.arch): network for network in plan.networks}
    wanted: dict[str, tuple[str, workload.Source]] = {
        key: (network.role, workload.network_source(space, network.arch, runs_on)) for key, network in roles.items()
    }
    wanted |= {block.key: (BLOCK, _source(block, runs_on)) for block in spread(table, plan.blocks)}
    wanted = {key: (role, source) for key, (role, source) in wanted.items() if (key, role) not in done}
    failed, ended = [], 0
    end = clock() + max_seconds
    if wanted and max_seconds > 0:
        hashes, _ = workload.upload(device, {key: source.make for key, (_, source) in wanted.items()})
        jobs = [
            wire.EnergyJob(
                key=key,
                model=hashes[key],
                sensor=sensor,
                shape=dict(source.shape),
                runtime=runs_on.runtime,
                threads=runs_on.threads,
                cores=runs_on.cores,
                seconds=WINDOW_SECONDS,
                windows=WINDOWS,
            )
            for key, (_, source) in wanted.items()
        ]
        contents, writer = journal.Writer.resume(table.path, FORMAT, table.contents.header)
        with writer:
            begin_session(writer, device.ask_facts())
            session = len(contents.of("session"))
            with workload.leaving(device.energy(jobs)) as results:
                for result in results:
                    if isinstance(result, wire.Failed):
                        failed.append((result.key, result.reason))
                    else:
                        row = {"session": session, "role": wanted[result.key][0], **wire.to_wire(result)}
                        writer.append("energy", row)
                    ended += 1
                    if on_step is not None:
                        on_step(result.key)
                    if clock() >= end:
                        break
            if contents.complete:
                writer.finish()
    rows = _known(journal.read(table.path, FORMAT), sensor)
    return Report(sensor, tuple(rows), tuple(failed), len(wanted) - ended)


def spread(table: LatencyTable, blocks: Sequence[Block], count: int = BLOCKS) -> list[Block]:
    """At most `count` of the measured blocks, evenly over the order of their latencies, the extremes among them."""
    by_key = {block.key: block for block in blocks}
    ordered = [key for key in table.blocks["median"].sort_values().index if key in by_key]
    if not ordered:
        return []
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [by_key[ordered[place]] for place in places]


def _source(block: Block, runs_on: RunsOn) -> workload.Source:
    return workload.Source(lambda: workload.block_file(block, runs_on), workload.block_shape(block))


def _known(contents: journal.Contents, sensor: str) -> list[dict[str, Any]]:
    return [row for row in contents.of("energy") if row.get("sensor") == sensor]
