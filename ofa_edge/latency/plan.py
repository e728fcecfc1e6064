"""What a campaign measures and in which order: pure, drawn from a seed.

In: a space, resolutions and PlanSettings (which a table's header keeps). Out: a Plan. Rules kept: the same settings
draw the same plan, so a resumed campaign goes on with the one it began; every different block is measured or, of more
than informative.MOST in a quick plan, predicted; the order is random, so that no drift of the machine looks like an
effect of size; the calibration networks spread over the whole range of MACs and over the resolutions; hold-out
networks are drawn as OFA draws archs and are none of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ofa_edge import strict_json
from ofa_edge.errors import UsageError
from ofa_edge.latency import informative
from ofa_edge.latency.conditions import PlanSettings
from ofa_edge.space.arch import Arch, BlockChoice, Space, Stage, StageChoice
from ofa_edge.space.block import Block
from ofa_edge.space.codecs import encode
from ofa_edge.space.cost import block_macs

_N = TypeVar("_N", int, float)

# Blocks between two measurements of the sentinel: with .1-.3 s a block, one every 2-6 s. A trend needs six of them.
SENTINEL_EVERY = 20
# Archs that the calibration networks are chosen from, over all resolutions.
_POOL = 400
# Draws that each network of `nested` is chosen from. More would favour odd archs, in which all rare values meet.
_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class Effort:
    """When a measurement stops: interval of the median within +- `rel`, or after the seconds given; and how often.

    Attributes:
        block_seconds: of a block in the first round.
        rounds: how often each block and each network is measured, each time in another worker process.
        narrow_seconds, wide_seconds: of a block in later rounds, where its last interval was within `block_rel` and
            where it was not (or it was disturbed).
        again: share of the blocks, disturbed ones and then the widest, that are measured once more at the end.
        attempts: how often a disturbed process is repeated in a trial (trials.py).
        network_tries: further measurements, at the end of a campaign, of a network that was disturbed in every round.
        sentinel_every: blocks between two sentinels.
        patience: seconds that a campaign waits altogether for a disturbed device to become quiet.
    """

    block_rel: float
    block_seconds: float
    network_rel: float
    network_seconds: float
    attempts: int = 3
    network_tries: int = 2
    rounds: int = 1
    narrow_seconds: float = 0.06
    wide_seconds: float = 0.3
    sentinel_every: int = SENTINEL_EVERY
    patience: float = 120.0
    again: float = 0.1


# A block's first figures settle within .1 s; one process' value is off by 1-3 % however long it is timed, so a second
# process is worth more than a second tenth of a second. A network needs at least 10 interleaved batches of 130 ms
# (docs/how-the-numbers-are-made.md).
FULL = Effort(block_rel=0.02, block_seconds=0.12, network_rel=0.02, network_seconds=4.0, rounds=3)
QUICK = Effort(
    block_rel=0.03,
    block_seconds=0.2,
    network_rel=0.03,
    network_seconds=2.0,
    attempts=2,
    network_tries=1,
    sentinel_every=10,
    patience=10.0,
)


@dataclass(frozen=True, slots=True)
class PlannedNetwork:
    """A whole network to measure; role is calibration or holdout."""

    role: str
    arch: Arch


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        blocks: in the order of measuring, of the first round.
        sentinel: the block that is measured before the first and after every few of them; where there are no blocks,
            before every network. None where the runtime cannot run a block alone.
        anchor: the network interleaved with every whole-network measurement.
        networks: in the order of measuring, each once after every round.
        predicted: the space's other blocks, which are predicted from those that are measured.
        seed: of the orders of later rounds.
    """

    blocks: tuple[Block, ...]
    sentinel: Block | None
    anchor: Arch
    networks: tuple[PlannedNetwork, ...]
    effort: Effort
    predicted: tuple[Block, ...] = ()
    seed: int = 0

    def order(self, number: int) -> tuple[Block, ...]:
        """The blocks as round `number` (from 0) measures them."""
        if number == 0:
            return self.blocks
        order = np.random.default_rng((self.seed, number)).permutation(len(self.blocks))
        return tuple(self.blocks[int(i)] for i in order)


def make_plan(space: Space, resolutions: Sequence[int], settings: PlanSettings) -> Plan:
    """Draw the plan.

    Raises:
        UsageError: no resolutions, or one that is not in the space.
    """
    if not resolutions:
        raise UsageError("there is nothing to profile without resolutions", hint="for instance --resolutions 96:160:16")
    if absent := [r for r in resolutions if r not in space.resolutions]:
        raise UsageError(
            f"resolution {absent[0]} is not in space {space.name}",
            hint=f"use some of {', '.join(map(str, space.resolutions))}",
        )
    resolutions = sorted(set(resolutions))
    if settings.predictor == "network":
        return _plan_of_networks(space, resolutions, settings)
    distinct = space.distinct_blocks(resolutions)
    sentinel = sorted(distinct, key=lambda block: (block_macs(block), block.key))[len(distinct) // 2]
    chosen = informative.choose(distinct, given=[sentinel]) if settings.quick else tuple(distinct)
    measured = set(chosen)
    order, draw, shuffle = np.random.default_rng(settings.seed).spawn(3)
    blocks = tuple(chosen[int(i)] for i in order.permutation(len(chosen)))
    networks = _calibration(space, resolutions, settings.networks, draw)
    networks += _holdout(space, resolutions, settings.holdout, networks, draw)
    return Plan(
        blocks=blocks,
        sentinel=sentinel,
        anchor=middle(space, resolutions),
        networks=tuple(networks[int(i)] for i in shuffle.permutation(len(networks))),
        effort=QUICK if settings.quick else FULL,
        predicted=tuple(block for block in distinct if block not in measured),
        seed=settings.seed,
    )


def _plan_of_networks(space: Space, resolutions: Sequence[int], settings: PlanSettings) -> Plan:
    """No blocks: a nested design in its own order, or the few networks that a prior is brought to a device by."""
    draw, other, places = np.random.default_rng(settings.seed).spawn(3)
    if settings.prior is None:
        archs = nested(space, resolutions, settings.networks, draw)
        networks = [PlannedNetwork("calibration", arch) for arch in archs]
    else:
        networks = _calibration(space, resolutions, settings.networks, draw)
    for network in _holdout(space, resolutions, settings.holdout, networks, other):
        networks.insert(int(places.integers(len(networks) + 1)), network)
    return Plan(
        blocks=(),
        sentinel=None,
        anchor=middle(space, resolutions),
        networks=tuple(networks),
        effort=replace(FULL, rounds=1),  # another network tells more than another process of the same
        seed=settings.seed,
    )


def network_key(space: Space, arch: Arch) -> str:
    """The name of a whole network in a table."""
    return f"network:{strict_json.sha256(encode(space, arch))[:16]}"


def middle(space: Space, resolutions: Sequence[int]) -> Arch:
    """The arch with the middle value of every axis: the anchor. It depends on no seed, so tables can share it."""
    stages = tuple(
        (BlockChoice(_middle(stage.kernels), _middle(stage.expands)),) * _middle(stage.depths) for stage in space.stages
    )
    widths = tuple(map(_middle, space.width_choices))
    return Arch(_middle(resolutions), stages, widths, _middle(space.stem.depths))


def spread_sample(space: Space, resolutions: Sequence[int], count: int, rng: np.random.Generator) -> Iterator[Arch]:
    """Archs of all sizes, evenly over the resolutions.

    Drawing every axis by itself gives archs of nearly one size. Here a bias between 0 and 1 is drawn for the arch,
    and each axis takes its value as that many successes in len(axis) - 1 trials.
    """
    for i in range(count):
        bias = rng.uniform()
        stages = tuple(_biased(stage, bias, rng) for stage in space.stages)
        widths = tuple(_pick(choices, bias, rng) for choices in space.width_choices)
        stem_depth = _pick(space.stem.depths, bias, rng)
        yield Arch(resolutions[i % len(resolutions)], stages, widths, stem_depth)


def _biased(stage: Stage, bias: float, rng: np.random.Generator) -> StageChoice:
    depth = _pick(stage.depths, bias, rng)
    return tuple(BlockChoice(_pick(stage.kernels, bias, rng), _pick(stage.expands, bias, rng)) for _ in range(depth))


def _pick(values: Sequence[_N], bias: float, rng: np.random.Generator) -> _N:
    return sorted(values)[int(rng.binomial(len(values) - 1, bias))]


def nested(space: Space, resolutions: Sequence[int], count: int, rng: np.random.Generator) -> tuple[Arch, ...]:
    """The networks that a network-wise predictor is fitted on, in the order of measuring: fewer of them are the
    beginning of more, so that an interrupted campaign has measured the best it could. The largest and the smallest
    arch, then, of each few that are drawn, the one whose choices were seen least.

    Returns:
        different archs; fewer than `count` only where the space has no more.
    """
    seen: Counter[Hashable] = Counter()
    chosen: dict[Arch, None] = {}
    for arch in (space.largest(max(resolutions)), space.smallest(min(resolutions)))[:count]:
        chosen[arch] = None
        seen.update(_choices(arch))
    turn = _in_turn(resolutions, rng)
    tries = 0
    while len(chosen) < count and tries < 20 * count:
        tries += 1
        candidates = [arch for arch in spread_sample(space, [next(turn)], _CANDIDATES, rng) if arch not in chosen]
        if candidates:
            best = max(candidates, key=lambda arch: float(np.mean([1 / (1 + seen[c]) for c in _choices(arch)])))
            chosen[best] = None
            seen.update(_choices(best))
    return tuple(chosen)


def _in_turn(resolutions: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    """Every resolution once in random order, and again."""
    while True:
        yield from rng.permutation(sorted(resolutions)).tolist()


def _choices(arch: Arch) -> list[Hashable]:
    """What an arch has chosen, place by place. The third block of a stage is as the second: they cost the same."""
    found: list[Hashable] = [("widths", place, width) for place, width in enumerate(arch.widths)]
    found += [("stem depth", arch.stem_depth), ("resolution", arch.resolution)]
    for s, stage in enumerate(arch.stages):
        found.append(("depth", s, len(stage)))
        found += dict.fromkeys((s, min(i, 1), *choice) for i, choice in enumerate(stage))
    return found


def _calibration(
    space: Space, resolutions: Sequence[int], count: int, rng: np.random.Generator
) -> list[PlannedNetwork]:
    """The smallest, the largest, and between them a Latin square of resolutions (in turn) and sizes: evenly spaced
    shares of the range of log MACs that a resolution has, so that size and resolution stay uncorrelated."""
    if count <= 2:
        archs = [middle(space, resolutions), space.smallest(resolutions[0]), space.largest(resolutions[-1])]
        return [PlannedNetwork("calibration", arch) for arch in (archs[1:] if count == 2 else archs[:count])]
    pool: dict[int, list[tuple[float, Arch]]] = {r: [] for r in resolutions}
    for arch in spread_sample(space, resolutions, max(_POOL, 4 * count), rng):
        pool[arch.resolution].append((_log_macs(space, arch), arch))
    chosen = [space.smallest(resolutions[0]), space.largest(resolutions[-1])]
    turns = -(-count // len(resolutions))
    order = [r for _ in range(turns) for r in rng.permutation(resolutions).tolist()]
    shares = rng.permutation((np.arange(count - 2) + 0.5) / (count - 2))
    for share, resolution in zip(shares, order, strict=False):
        low, high = (_log_macs(space, arch) for arch in (space.smallest(resolution), space.largest(resolution)))
        target = low + share * (high - low)
        near = sorted(pool[resolution], key=lambda item: abs(item[0] - target))
        chosen.append(next((arch for _, arch in near if arch not in chosen), near[0][1]))
    return [PlannedNetwork("calibration", arch) for arch in dict.fromkeys(chosen)]


def _holdout(
    space: Space, resolutions: Sequence[int], count: int, taken: Sequence[PlannedNetwork], rng: np.random.Generator
) -> list[PlannedNetwork]:
    used = {network.arch for network in taken}
    drawn: dict[Arch, None] = {}
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        arch = space.sample(rng, int(rng.choice(resolutions)))
        if arch not in used:
            drawn[arch] = None
    return [PlannedNetwork("holdout", arch) for arch in drawn]


def _log_macs(space: Space, arch: Arch) -> float:
    return math.log(sum(map(block_macs, space.blocks(arch))))


def _middle(values: Sequence[_N]) -> _N:
    return sorted(values)[len(values) // 2]
