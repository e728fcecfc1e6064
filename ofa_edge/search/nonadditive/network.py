"""An upper bound on what an MLP predicts of any subnet within a budget, by a linear relaxation of its ReLUs.

In: an MlpAccuracy, a Space, Limits, the best score known. Out: a bound on its score. How: for every ReLU two lines hold
it between them over the range its input can have; followed from the output back to the archs' columns they leave one
linear function that the network never exceeds (CROWN: Zhang et al., NeurIPS 2018), with the ranges of inner inputs
bounded the same way, within the limits by a few prices on them (Lagrange). A linear function of columns is an additive
score, so its greatest value within the limits is exact (frontier.py).

Only subnets better than the best known count. Those are where the linear function is above its score, which is a limit
like the others: held against it, choices that no such subnet can have are left out, ranges are narrower, and the next
function is lower; so on until that ends (optimality-based bound tightening). On networks fitted to 2,162 measured
subnets this took the gap from 1-2 points to .2-1.

Rule kept: a true bound, however loose: where training let the weights grow it may be above 100 %, and then it says
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.accuracy.encoding import ONE_HOT, hat
from ofa_edge.accuracy.mlp import MlpAccuracy
from ofa_edge.search.costs import BlockLatencies, CostTables, Floats
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.limits import Limits
from ofa_edge.search.nonadditive.additive import Additive
from ofa_edge.search.nonadditive.field import Places, uses_of
from ofa_edge.space.arch import Space

# The network adds in single precision: of a sum of some hundred products this is more than it can be off.
_SINGLE = 1e-4

# Prices of a whole limit that are tried on a function, as parts of how much its values differ.
_PRICES = (0.1, 0.2, 0.4, 0.8, 1.6)

# Relaxations at one resolution at most, and the part of the gap that each has to close for another.
_ROUNDS = 8
_WORTH = 0.1

Layers = list[tuple[Floats, Floats]]


def network_bound(
    space: Space,
    latency: BlockLatencies,
    predictor: MlpAccuracy,
    limits: Limits,
    sizes: Sequence[int],
    *,
    best: float = -np.inf,
) -> float:
    """No subnet within the limits at these resolutions has a greater base + network, or it is no greater than `best`;
    -inf where none keeps the limits.

    Args:
        best: a score that is reached.

    Raises:
        UsageError: as frontier.exact_front.
    """
    layers = [(weights.astype(np.float64), biases.astype(np.float64)) for weights, biases in predictor.layers]
    layers[-1] = (layers[-1][0], layers[-1][1] + predictor.base)
    places, tables = Places.of(space), CostTables.of(space, latency)
    shared, features = places.features(ONE_HOT)
    greatest = -np.inf
    least = best - _SINGLE * max(1.0, abs(best)) if np.isfinite(best) else best
    for size in sizes:
        at_size = hat(np.array([size]), predictor.resolutions)[0]
        known = np.concatenate([at_size, shared])
        choices = [np.pad(own, ((0, 0), (len(at_size), 0))) for own in features]
        use, of_pairs, room, runs, _ = uses_of(places, tables.at(size), limits)
        if of_pairs is not None:  # where widths are elastic, uses are of pairs of choices: ranges are without limits
            use, room = use[:0], room[:0]
        uses = [use[:, v, : len(own)] for v, own in enumerate(choices)]
        inputs = _Inputs(known, choices, uses, room).some([runs[v, : len(own)] for v, own in enumerate(choices)])
        line = _upper_line(layers, inputs, least)
        if line is None:
            continue
        additive = Additive(space, predictor.resolutions, ONE_HOT, line[1], line[0])
        front = exact_front(space, tables, additive, [size], limits)
        kept = limits.kept(front.costs)
        if kept.any():
            greatest = max(greatest, float(front.score[kept].max()))
    return max(best, greatest + _SINGLE * max(1.0, abs(greatest))) if np.isfinite(greatest) else best


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What the network can be asked at one resolution.

    Attributes:
        known: (p,) columns that all archs share.
        choices: of each variable (labels, p) what its labels add to them.
        use: of each variable (limits, labels), of the limits that are sums of single choices.
        room: (limits,) what the uses add up to at most; see field.Field.
        cut: whether the last limit is on how far a subnet may be below a function.
    """

    known: Floats
    choices: Sequence[Floats]
    use: Sequence[Floats]
    room: Floats
    cut: bool = False

    def some(self, labels: Sequence[np.ndarray]) -> _Inputs:
        """Those with some labels of each variable, as masks."""
        choices = [own[kept] for own, kept in zip(self.choices, labels, strict=True)]
        use = [own[:, kept] for own, kept in zip(self.use, labels, strict=True)]
        return _Inputs(self.known, choices, use, self.room, self.cut)

    @property
    def possible(self) -> bool:
        """Whether every variable has a label left."""
        return all(map(len, self.choices))

    def greatest(self, slope: Floats, level: Floats) -> Floats:
        """Bounds on linear functions of the columns, slopes (p, k) and levels (k,), within the limits: (k,)."""
        gains = [own @ slope for own in self.choices]
        start = level + self.known @ slope
        found = start + sum(gain.max(axis=0) for gain in gains)
        spread = sum(np.ptp(gain, axis=0) for gain in gains)
        for price in self._prices():
            paid = (gain - np.outer(price @ use, spread) for gain, use in zip(gains, self.use, strict=True))
            found = np.minimum(found, start + price @ self.room * spread + sum(gain.max(axis=0) for gain in paid))
        return np.asarray(found)

    def of_labels(self, slope: Floats, level: float) -> list[Floats]:
        """Bounds on one linear function of the columns, slope (p,), for the subnets with each label: (labels,) each."""
        gains = [own @ slope for own in self.choices]
        spread = float(sum(map(np.ptp, gains)))
        found = [np.full(len(gain), np.inf) for gain in gains]
        for price in (np.zeros(len(self.room)), *self._prices()):
            paid = [gain - price @ use * spread for gain, use in zip(gains, self.use, strict=True)]
            whole = level + self.known @ slope + price @ self.room * spread + sum(gain.max() for gain in paid)
            found = [np.minimum(bound, whole - gain.max() + gain) for bound, gain in zip(found, paid, strict=True)]
        return found

    def above(self, slope: Floats, level: float, least: float) -> _Inputs:
        """Those where a linear function is at least `least`: without the labels that none of these has, and with that
        as a limit, in place of one that was there before."""
        kept = self.some([bound >= least for bound in self.of_labels(slope, level)])
        if not kept.possible:
            return kept
        limits = len(self.room) - self.cut
        gains = [own @ slope for own in kept.choices]
        spread = float(sum(map(np.ptp, gains))) or 1.0
        use = [np.concatenate([own[:limits], -gain[None] / spread]) for own, gain in zip(kept.use, gains, strict=True)]
        room = np.append(self.room[:limits], (level + self.known @ slope - least) / spread)
        return _Inputs(self.known, kept.choices, use, room, cut=True)

    def _prices(self) -> Iterator[Floats]:
        """(limits,) each: prices on one limit, on the cut, on both."""
        limits = len(self.room) - self.cut
        for limit in range(-1, limits):
            for first in _PRICES if limit >= 0 else (0.0,):
                for second in (0.0, *_PRICES) if self.cut else (0.0,):
                    price = np.zeros(len(self.room))
                    if limit >= 0:
                        price[limit] = first
                    if self.cut:
                        price[-1] = second
                    if price.any():
                        yield price


def _upper_line(layers: Layers, inputs: _Inputs, least: float) -> tuple[Floats, float] | None:
    """slope (p,) and level of a linear function that is nowhere within the limits below the network's output, but where
    that is below `least`; None where it is everywhere."""
    found, lowest = None, np.inf
    for _ in range(_ROUNDS):
        if not inputs.possible:
            return None
        slope, level = _relaxed(layers, inputs)
        bound = float(inputs.greatest(slope[:, None], np.array([level]))[0])
        if bound < least:
            return None
        worth = bound - least < (1 - _WORTH) * (lowest - least)
        if found is None or bound < lowest:
            found, lowest = (slope, level), bound
        if not worth or not np.isfinite(least):
            break
        inputs = inputs.above(slope, level, least)
    return found


def _relaxed(layers: Layers, inputs: _Inputs) -> tuple[Floats, float]:
    """slope (p,) and level of a linear function that is nowhere within the limits below the network's output."""
    ranges: list[tuple[Floats, Floats]] = []
    for depth, (_, biases) in enumerate(layers[:-1]):
        eye = np.eye(len(biases))
        high, low = (inputs.greatest(*_backwards(layers[: depth + 1], ranges, sign * eye)) for sign in (1.0, -1.0))
        ranges.append((-low, np.maximum(high, -low)))
    slope, level = _backwards(layers, ranges, np.ones((1, 1)))
    return slope[:, 0], float(level[0])


def _backwards(layers: Layers, ranges: Sequence[tuple[Floats, Floats]], wanted: Floats) -> tuple[Floats, Floats]:
    """slopes (p, k) and levels (k,) of linear functions of the columns that are nowhere below k wanted combinations
    (outputs, k) of what the last of these layers gives before its ReLU."""
    weights, biases = layers[-1]
    slope, level = weights @ wanted, biases @ wanted
    for (weights, biases), (low, high) in zip(reversed(layers[:-1]), reversed(ranges), strict=True):
        # A ReLU that is never or always off is a line; else it is under the chord, and over 0 or over its input.
        on = np.where(low >= 0, 1.0, 0.0)
        between = (low < 0) & (high > 0)
        chord = np.where(between, high / np.where(between, high - low, 1.0), on)
        under = np.where(between, (high > -low).astype(np.float64), on)
        positive, negative = np.maximum(slope, 0), np.minimum(slope, 0)
        level = level + np.where(between, -chord * low, 0.0) @ positive
        slope = positive * chord[:, None] + negative * under[:, None]
        level = level + biases @ slope
        slope = weights @ slope
    return slope, level
