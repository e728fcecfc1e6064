"""An upper bound on what an MLP predicts of any subnet within a budget, by a linear relaxation of its ReLUs.

In: an MlpAccuracy, a Space, Limits. Out: a bound on its score. How: for every ReLU two lines hold it between them over
the range its input can have; followed from the output back to the archs' columns they leave one linear function that
the network never exceeds (CROWN: Zhang et al., NeurIPS 2018), with the ranges of inner inputs bounded the same way,
within the limits by a few prices on them (Lagrange). A linear function of columns is an additive score, so its greatest
value within the limits is exact (frontier.py). Rule kept: a true bound, however loose: some points above what is found
where training kept the weights small, else often above 100 %, and then it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.accuracy.encoding import ONE_HOT, hat
from ofa_edge.accuracy.mlp import MlpAccuracy
from ofa_edge.search.costs import BlockEnergies, BlockLatencies, Costs, Floats
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.limits import Limits
from ofa_edge.search.nonadditive.additive import Additive
from ofa_edge.search.nonadditive.field import Places, uses_of
from ofa_edge.space.arch import Space

# The network adds in single precision: of a sum of some hundred products this is more than it can be off.
_SINGLE = 1e-4

# Prices of a whole limit that are tried on a function, as parts of how much its values differ.
_PRICES = (0.1, 0.2, 0.4, 0.8, 1.6)

Layers = list[tuple[Floats, Floats]]


def network_bound(
    space: Space,
    latency: BlockLatencies,
    predictor: MlpAccuracy,
    limits: Limits,
    sizes: Sequence[int],
    energy: BlockEnergies | None = None,
) -> float:
    """No subnet within the limits at these resolutions has a greater base + network; -inf where none keeps the limits.

    Raises:
        UsageError: as frontier.exact_front.
    """
    layers = [(weights.astype(np.float64), biases.astype(np.float64)) for weights, biases in predictor.layers]
    places = Places.of(space)
    shared, features = places.features(ONE_HOT)
    greatest = -np.inf
    for size in sizes:
        at_size = hat(np.array([size]), predictor.resolutions)[0]
        known = np.concatenate([at_size, shared])
        choices = [np.pad(own, ((0, 0), (len(at_size), 0))) for own in features]
        use, of_pairs, room, _, _ = uses_of(places, Costs.of(space, latency, size, energy), limits)
        # Where widths are elastic, uses are of pairs of choices, and the ranges are taken without limits.
        inputs = _Inputs(known, choices, use if of_pairs is None else use[:0], room if of_pairs is None else room[:0])
        slope, level = _upper_line(layers, inputs)
        additive = Additive(space, predictor.resolutions, ONE_HOT, level + predictor.base, slope)
        front = exact_front(space, latency, additive, [size], limits, energy)
        kept = limits.kept(front.costs)
        if kept.any():
            greatest = max(greatest, float(front.score[kept].max()))
    return greatest + _SINGLE * max(1.0, abs(greatest)) if np.isfinite(greatest) else greatest


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What the network can be asked at one resolution.

    Attributes:
        known: (p,) columns that all archs share.
        choices: of each variable (labels, p) what its labels add to them.
        use, room: as in field.Field, of the limits that are sums of single choices.
    """

    known: Floats
    choices: Sequence[Floats]
    use: Floats
    room: Floats

    def greatest(self, slope: Floats, level: Floats) -> Floats:
        """Bounds on linear functions of the columns, slopes (p, k) and levels (k,), within the limits: (k,)."""
        gains = [own @ slope for own in self.choices]
        start = level + self.known @ slope
        found = start + sum(gain.max(axis=0) for gain in gains)
        spread = sum(np.ptp(gain, axis=0) for gain in gains)
        for use, room in zip(self.use, self.room.tolist(), strict=True):
            for price in (part * spread for part in _PRICES):
                paid = (gain - np.outer(use[v, : len(gain)], price) for v, gain in enumerate(gains))
                found = np.minimum(found, start + price * room + sum(gain.max(axis=0) for gain in paid))
        return np.asarray(found)


def _upper_line(layers: Layers, inputs: _Inputs) -> tuple[Floats, float]:
    """slope (p,) and level of a linear function that is nowhere within the limits below the network's output."""
    ranges: list[tuple[Floats, Floats]] = []
    for depth, (_, biases) in enumerate(layers[:-1]):
        eye = np.eye(len(biases))
        high, low = (inputs.greatest(*_backwards(layers[: depth + 1], ranges, sign * eye)) for sign in (1.0, -1.0))
        ranges.append((-low, high))
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
