"""A device whose latencies are known: the double of a session with an agent.

In: a law for the time of blocks and networks, noise, drift, and things that go wrong. Out: what a real session gives
to a campaign, at once, with its own clock. Used where the statistics, the resuming and the error handling are shown;
it says nothing about any real device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from device_agents import wire
from ofa_edge.errors import DeviceLost, NoRoom
from ofa_edge.latency import workload
from ofa_edge.latency.plan import network_key
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, block_ops, block_weight_bytes
from tests.boards import BOARD

FACTS = BOARD


@dataclass(frozen=True)
class Law:
    """True times: a block alone takes `per_block` + MACs / `macs_per_ms` (times a fixed quirk of +-`quirk`); a network
    takes offset + scale x sum + rate x weight bytes in millions + `per_op` an operator. All in ms."""

    per_block: float = 0.005
    macs_per_ms: float = 2e7
    quirk: float = 0.3
    offset: float = 0.02
    scale: float = 1.1
    rate: float = 0.02
    per_op: float = 0.0

    def block(self, block: Block) -> float:
        digest = hashlib.sha256(block.weights_key.encode()).digest()
        quirk = 1 + self.quirk * (2 * int.from_bytes(digest[:4], "big") / 2**32 - 1)
        return self.per_block + quirk * block_macs(block) / self.macs_per_ms

    def network(self, blocks: Iterable[Block]) -> float:
        blocks = list(blocks)
        weights = sum(map(block_weight_bytes, blocks)) / 1e6
        launches = self.per_op * sum(map(block_ops, blocks))
        return self.offset + self.scale * sum(map(self.block, blocks)) + self.rate * weights + launches


@dataclass
class SimulatedDevice:
    """Implements workload.Device.

    Attributes:
        archs: networks it may be asked for; a job's key is plan.network_key's, or any key in `named`.
        anchor: the arch of every anchor.
        named: further keys of networks.
        noise: relative standard deviation of each median.
        speed: time in s -> factor on all times (drift).
        crashes: keys that fail.
        flags: (key, how often it was asked before) -> flags.
        slow: (key, how often it was asked before) -> factor on its time, the anchor beside it untouched.
        lose_after: results after which the link is cut, once.
        noise_at: time in s -> what its results say went on beside them.
        facts_at: time in s -> what it is then; None: always `facts`.
        now: its clock in s; every result takes `seconds`.
        pauses: how long it was left alone, in s.
        peak: arch -> bytes that loading and running it takes, None where it does not tell.
        idle_w, extra_w: power at rest, and how much more while something runs.
        disk_bytes: that blobs may take.
        blobs: their sizes, by hash.
        width: key of a block -> relative half-width of the interval of its median.
        asked: keys in the order they were measured, and whether in a fresh worker.
        jobs: the same, as they were asked for.
    """

    space: Space
    archs: Iterable[Arch] = ()
    anchor: Arch | None = None
    named: Mapping[str, Arch] = field(default_factory=dict)
    law: Law = field(default_factory=Law)
    noise: float = 0.0
    seed: int = 0
    speed: Callable[[float], float] = lambda now: 1.0
    crashes: frozenset[str] = frozenset()
    flags: Callable[[str, int], tuple[str, ...]] = lambda key, before: ()
    slow: Callable[[str, int], float] = lambda key, before: 1.0
    width: Callable[[str], float] = lambda key: 0.01
    idle_w: float = 2.0
    extra_w: float = 3.0
    peak: Callable[[Arch], int | None] = lambda arch: None
    lose_after: int | None = None
    seconds: float = 0.25
    facts: wire.Facts = FACTS
    noise_at: Callable[[float], wire.Noise] = lambda now: wire.Noise()
    facts_at: Callable[[float], wire.Facts] | None = None
    disk_bytes: float = math.inf

    def __post_init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, bool]] = []
        self.jobs: list[wire.MeasureJob] = []
        self.pauses: list[float] = []
        self.blobs: dict[str, int] = {}
        self._rng = np.random.default_rng(self.seed)
        archs = [*self.archs, *([self.anchor] if self.anchor else [])]
        self._networks = {network_key(self.space, arch): arch for arch in archs} | dict(self.named)

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def ask_facts(self) -> wire.Facts:
        return self.facts if self.facts_at is None else self.facts_at(self.now)

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        return [sha256 for sha256 in sha256s if sha256 not in self.blobs]

    def discard(self, sha256s: Sequence[str]) -> int:
        gone = [sha256 for sha256 in sha256s if self.blobs.pop(sha256, None) is not None]
        return len(gone)

    def push(self, blobs: Mapping[str, bytes]) -> int:
        if sum(self.blobs.values()) + sum(map(len, blobs.values())) > self.disk_bytes:
            raise NoRoom("simulated: the disk is full")
        for sha256, data in blobs.items():
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("a blob under a wrong name")
        self.blobs |= {sha256: len(data) for sha256, data in blobs.items()}
        return sum(map(len, blobs.values()))

    def measure(self, jobs: Sequence[wire.MeasureJob], *, fresh: bool) -> Iterator[wire.Measured | wire.Failed]:
        for job in jobs:
            if self.lose_after is not None and len(self.asked) >= self.lose_after:
                self.lose_after = None
                raise DeviceLost("simulated: the link was cut")
            if lacking := {job.model, job.anchor} - self.blobs.keys() - {None}:
                raise ValueError(f"{job.key} was asked for before its model {lacking} was there")
            before = sum(key == job.key for key, _ in self.asked)
            self.asked.append((job.key, fresh))
            self.jobs.append(job)
            self.now += self.seconds
            if job.key in self.crashes:
                yield wire.Failed(job.key, "simulated: the worker was killed by signal 11")
            else:
                yield self._measured(job, self.flags(job.key, before), self.slow(job.key, before))

    def energy(self, jobs: Sequence[wire.EnergyJob]) -> Iterator[wire.Energy | wire.Failed]:
        """`idle_w` always, and `extra_w` more while something runs."""
        for job in jobs:
            if job.model not in self.blobs:
                raise ValueError(f"{job.key} was asked for before its model was there")
            self.asked.append((job.key, False))
            self.now += job.limit_seconds
            if job.key in self.crashes:
                yield wire.Failed(job.key, "simulated: the worker was killed by signal 11")
                continue
            true = self._true(job.key)
            mj = self.extra_w * true * self._factor()
            runs = max(1, int(1000 * job.seconds / true)) * job.windows
            low, high = 0.98 * mj, 1.02 * mj
            busy = self.idle_w + self.extra_w
            yield wire.Energy(job.key, job.sensor, self.idle_w, busy, mj, low, high, runs, job.windows)

    def _true(self, key: str) -> float:
        arch = self._networks.get(key)
        return self.law.block(Block.from_key(key)) if arch is None else self.law.network(self.space.blocks(arch))

    def _measured(self, job: wire.MeasureJob, flags: tuple[str, ...], slow: float) -> wire.Measured:
        speed = self.speed(self.now)
        arch = self._networks.get(job.key)
        if arch is None:
            block = Block.from_key(job.key)
            if job.shape != workload.block_shape(block):
                raise ValueError(f"{job.key} was asked for with the sizes {dict(job.shape)}")
            true = self.law.block(block)
        else:
            true = self.law.network(self.space.blocks(arch))
        target = true * speed * slow * self._factor()
        anchor = ratio = None
        if job.anchor is not None and self.anchor is not None:
            beside = self.law.network(self.space.blocks(self.anchor)) * speed
            anchor, ratio = figures(beside), figures(target / beside)
        timed = 0.04 * (target + (0.0 if anchor is None else anchor.median))  # s: 40 runs of each lie in what was spent
        return wire.Measured(
            job.key,
            figures(target, half=self.width(job.key)),
            anchor,
            ratio,
            1,
            max(self.seconds, timed),
            1.0,
            0,
            flags,
            self.noise_at(self.now),
            None if arch is None else self.peak(arch),
        )

    def _factor(self) -> float:
        return float(1 + self.noise * self._rng.standard_normal())


def figures(median: float, n: int = 40, half: float = 0.01) -> wire.Figures:
    """Figures around a median, +- `half` of it."""
    low, high = (1 - half) * median, (1 + half) * median
    return wire.Figures(n, low, low, median, high, low, high, median, 0.01 * median)
