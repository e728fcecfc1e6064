"""A subnet with everything that is predicted of it, and whether it fits a budget.

In: a Space, models, an Arch, a Budget. Out: a Candidate, and what it uses of each limit. Rule kept: what counts is the
upper bound of a subnet's own latency and energy; a limit on what is not known is refused, never passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.errors import UsageError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BlockEnergies, BlockLatencies
from ofa_edge.search.exact.frontier import HOW_ENERGY
from ofa_edge.search.selection import predicted_json
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.space.cost import Cost

DIGITS = 9  # of shares and of ms, as fine as the front's own steps


class Latency(BlockLatencies, Protocol):
    """What choosing asks of a latency model besides its sums (latency.model.LatencyModel)."""

    def estimate(self, blocks: Sequence[Block], confidence: float = ...) -> Estimate: ...

    def margin(self, confidence: float = ...) -> float: ...


class Energy(BlockEnergies, Protocol):
    """What choosing asks of an energy model besides its sums (latency.energy_model.EnergyModel)."""

    def estimate(self, blocks: Sequence[Block], confidence: float = ...) -> Estimate: ...

    def margin(self, confidence: float = ...) -> float: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subnet with everything that is predicted of it.

    Attributes:
        energy_mj: None without a model of it.
        runs_on: how it is run, where there are several ways to (search/ways.py).
    """

    arch: Arch
    top1: Top1
    latency_ms: Estimate
    cost: Cost
    energy_mj: Estimate | None = None
    runs_on: RunsOn | None = None

    def as_json(self, space: Space) -> dict[str, Any]:
        return {
            "arch": codecs.encode(space, self.arch),
            "predicted": predicted_json(self.top1, self.latency_ms, self.cost, self.energy_mj),
            **({} if self.runs_on is None else {"runs": self.runs_on.as_json()}),
        }

    @property
    def upper_ms(self) -> float:
        """What is held against a budget."""
        return _upper(self.latency_ms)


def excess(candidate: Candidate, budget: Budget) -> float:
    """By what factor the budget would have to grow for the candidate; at most 1 where it fits.

    Raises:
        UsageError: energy is limited and the candidate's unknown.
    """
    limits = budget.searched().values()
    return max(use / limit for use, limit in zip(used(candidate, budget), limits, strict=True))


def used(candidate: Candidate, budget: Budget) -> list[float]:
    """What it uses of each limit, in the order and units of `Budget.as_json`; raises as `excess`."""
    _require_energy(candidate.energy_mj, budget)
    counts, upper = candidate.cost, _upper(candidate.latency_ms)
    found = {
        "latency_ms": upper,
        "memory_bytes": counts.memory_bytes,
        "size_bytes": counts.weight_bytes,
        "macs": counts.macs,
        "energy_mj": 0.0 if candidate.energy_mj is None else _upper(candidate.energy_mj),
    }
    return [found[field] for field in budget.searched()]


def excess_of_counts(counts: Cost, budget: Budget) -> float:
    """The same of the limits that need no model; 0 where there are none. Raises UsageError where energy is limited."""
    _require_energy(None, budget)
    shares = (
        (counts.memory_bytes, budget.memory_bytes),
        (counts.weight_bytes, budget.size_bytes),
        (counts.macs, budget.macs),
    )
    return max((use / limit for use, limit in shares if limit is not None), default=0.0)


def _upper(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high


def _require_energy(known: Estimate | None, budget: Budget) -> None:
    if known is None and budget.energy_mj is not None:
        raise UsageError("an energy limit needs the device's energies", hint=HOW_ENERGY)
