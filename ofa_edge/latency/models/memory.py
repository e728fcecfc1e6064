"""Memory: what is predicted of a network against what its process grew by when it was loaded and run.

In: a latency table whose network rows carry `peak_bytes`. Out: a MemoryFit. Rules kept: the plain prediction is the
`memory` of a budget, weights and peak activation, which is what a network needs and no runtime gets by with: the agent
holds the file, a runtime its own copies of the weights. What a runtime adds is fitted, and judged on networks that it
was not fitted on. The peak of one network in several processes differs by less than a per cent, busy or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.graph.stored import Stored
from ofa_edge.latency.models.block_model import fit_features
from ofa_edge.latency.stats import told
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space import codecs
from ofa_edge.space.arch import Space

# Three terms, and something left to judge them by.
_LEAST_NETWORKS = 5

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """Prediction over measurement, less one: mean absolute, greatest absolute, mean."""

    mape: float
    worst: float
    bias: float

    @classmethod
    def of(cls, predicted: _Floats, measured: _Floats) -> Errors:
        errors = predicted / measured - 1
        return cls(float(np.abs(errors).mean()), float(np.abs(errors).max()), float(errors.mean()))

    def as_json(self) -> dict[str, Any]:
        return {"mape_pct": 100 * self.mape, "worst_pct": 100 * self.worst, "bias_pct": 100 * self.bias}


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a runtime takes: fixed_bytes + weights_factor x weights + activation_factor x peak activation.

    Coefficients are not negative, and found by relative least squares; `errors` are of networks left out one at a time.
    """

    fixed_bytes: float
    weights_factor: float
    activation_factor: float
    errors: Errors

    def as_json(self) -> dict[str, Any]:
        return {
            "fixed_bytes": round(self.fixed_bytes),
            "weights_factor": self.weights_factor,
            "activation_factor": self.activation_factor,
            **self.errors.as_json(),
        }


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """`networks` that told their peak; `plain` None where none did, `fitted` None where they were too few."""

    networks: int
    plain: Errors | None
    fitted: Runtime | None

    def as_json(self) -> dict[str, Any]:
        """Keys `networks`, `mape_pct`, `worst_pct`, `bias_pct` (null where unknown) and `fitted`."""
        plain = dict.fromkeys(("mape_pct", "worst_pct", "bias_pct")) if self.plain is None else self.plain.as_json()
        return {"networks": self.networks, **plain, "fitted": None if self.fitted is None else self.fitted.as_json()}


def fit(table: LatencyTable, space: Space) -> MemoryFit:
    """How the prediction of memory did on a table's networks.

    Args:
        space: that of the table.
    """
    peaks: dict[str, list[float]] = {}
    archs: dict[str, Any] = {}
    for row in table.contents.of("network"):
        if (peak := told(row.get("peak_bytes")) or 0.0) > 0:
            peaks.setdefault(row["key"], []).append(peak)
            archs[row["key"]] = row["arch"]
    if not peaks:
        return MemoryFit(0, None, None)
    measured = np.array([np.median(found) for found in peaks.values()])
    stored = Stored.of(table.conditions)
    costs = [stored.cost(space.blocks(codecs.decode(space, archs[key]))) for key in peaks]
    needs = np.array([(1.0, one.memory_bytes - one.peak_activation_bytes, one.peak_activation_bytes) for one in costs])
    plain = Errors.of(needs[:, 1] + needs[:, 2], measured)
    return MemoryFit(len(measured), plain, _runtime(needs, measured))


def _runtime(needs: _Floats, measured: _Floats) -> Runtime | None:
    count = len(measured)
    if count < _LEAST_NETWORKS:
        return None
    left_out = [needs[i] @ _coefficients(np.delete(needs, i, axis=0), np.delete(measured, i)) for i in range(count)]
    fixed, weights, activation = map(float, _coefficients(needs, measured))
    return Runtime(fixed, weights, activation, Errors.of(np.array(left_out), measured))


def _coefficients(needs: _Floats, measured: _Floats) -> _Floats:
    scale = (needs / measured[:, None]).max(axis=0)  # bytes beside ones
    return np.asarray(fit_features(needs / scale, measured) / scale)
