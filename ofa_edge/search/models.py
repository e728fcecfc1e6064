"""What a search is asked with besides accuracies: what subnets of a space cost on a device, and at which sizes.

In: a Space, a latency model, resolutions, a confidence; an energy model where energy is limited; how numbers are
stored. Out: `CostModels`: limits that searches count in, costs for them, and a subnet with all that is predicted of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.graph.stored import PLAIN, Stored
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import DIGITS, Candidate, Energy, Latency
from ofa_edge.search.costs import CostTables
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space


@dataclass(frozen=True)
class CostModels:
    """What latency, energy and bytes are predicted with.

    Attributes:
        resolutions: to search at, rising; see `choose.shared_resolutions`.
        confidence: two-sided, of intervals and margins.
        energy: what a limit on energy needs.
        stored: how numbers are stored, which limits on size and memory count.
    """

    space: Space
    latency: Latency
    resolutions: tuple[int, ...]
    confidence: float = 0.95
    energy: Energy | None = None
    stored: Stored = PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple(sorted(set(self.resolutions))))

    @cached_property
    def tables(self) -> CostTables:
        """The latency, for searches."""
        return CostTables(self.space, self.latency, self.energy, self.stored)

    @property
    def margin(self) -> float:
        return self.latency.margin(self.confidence)

    @property
    def energy_margin(self) -> float:
        return 0.0 if self.energy is None else self.energy.margin(self.confidence)

    @property
    def margins(self) -> tuple[float, float]:
        """By what latency and energy are raised to their upper bounds."""
        return self.margin, self.energy_margin

    def limits(self, budget: Budget) -> Limits:
        """On what the models give as values."""
        return Limits.of(budget, *self.margins)

    def candidate(self, arch: Arch, top1: Top1) -> Candidate:
        """Rounded to what is meant, so that the last bits of a sum, which differ by machine, do not reach a file."""
        blocks = self.space.blocks(arch)
        return Candidate(
            arch,
            Top1(round(top1.value, DIGITS), round(top1.low, DIGITS), round(top1.high, DIGITS)),
            _rounded(self.latency.estimate(blocks, self.confidence)),
            self.stored.cost(blocks),
            None if self.energy is None else _rounded(self.energy.estimate(blocks, self.confidence)),
        )


def _rounded(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else round(end, DIGITS) for end in (estimate.low, estimate.high))
    return Estimate(round(estimate.value, DIGITS), low, high)
