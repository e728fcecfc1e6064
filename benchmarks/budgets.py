"""Random budgets: does a returned subnet ever break a limit, is every refusal right, do both exact solvers agree?

    python benchmarks/budgets.py [--count 1000] [--space ofa-lite0] [--every 20] [--seed 0]
                                 [--max-seconds S] [--json]

Each budget limits one to five of latency, memory, size, MACs and energy at what random subnets use, times a random
factor, so that some are loose, some tight and some impossible. `choose` answers it. What it returns is held against the
limits block by block, by the models' own upper bounds, and for one budget in --every the program must find the same
score. What it refuses is put to the mixed-integer program (search/exact/milp.py), which must prove that there is none,
and for one in --every the budgets that the refusal offers must work. The block times, energies and accuracies are made
up (front.py); the models are the real ones. Seconds of single answers are of CPU. Exit code 1 where anything disagrees.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.front import MOBILENET_V3, made_up_latency, made_up_rows
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.latency.models.energy_model import EnergyModel
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.plan import spread_sample
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen, choose
from ofa_edge.search.costs import CostTables
from ofa_edge.search.exact.milp import Optimum, optimum
from ofa_edge.search.models import CostModels
from ofa_edge.space import spaces as named_spaces
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0

SPACES = {space.name: space for space in (OFA_LITE0, MOBILENET_V3, named_spaces.SPACES["ofa-resnet50d"])}
# Scores are sums of terms rounded to 1e-12 in another order.
_SAME = 1e-9


@dataclass
class Tally:
    """What came out."""

    outcomes: Counter[str] = field(default_factory=Counter)
    limits: Counter[int] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"returned": [], "refused": [], "program": []})
    wrong: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        spent = {
            name: {"n": len(s), "median": float(np.median(s)), "p99": float(np.quantile(s, 0.99)), "max": max(s)}
            for name, s in self.seconds.items()
            if s
        }
        return {
            "outcomes": dict(self.outcomes),
            "limits": {str(n): count for n, count in sorted(self.limits.items())},
            "seconds": spent,
            "wrong": self.wrong,
        }


class Case:
    """A space with made-up models."""

    def __init__(self, space: Space):
        self.space = space
        self.latency: LatencyModel = made_up_latency(space)
        archs, correct = made_up_rows(space)
        self.accuracy = AdditiveAccuracy.fit_measured(Rows.of(space, archs, correct, [1000] * len(archs)))
        self.energy = made_up_energy(space, self.latency)
        self.pool = [
            self.uses(arch) for arch in spread_sample(space, space.resolutions, 2000, np.random.default_rng(3))
        ]

    def uses(self, arch: Arch) -> dict[str, float]:
        """Of each limit, by the blocks: upper bounds as they are promised."""
        blocks = self.space.blocks(arch)
        counts = cost(blocks)
        upper = [
            estimate.high or estimate.value
            for estimate in (self.latency.estimate(blocks), self.energy.estimate(blocks))
        ]
        return {
            "latency_ms": upper[0],
            "memory_bytes": counts.weight_bytes + counts.peak_activation_bytes,
            "size_bytes": counts.weight_bytes,
            "macs": counts.macs,
            "energy_mj": upper[1],
        }

    def budget(self, rng: np.random.Generator) -> Budget:
        """Of one to five limits."""
        fields = list(self.pool[0])
        limits = {}
        for j in sorted(rng.choice(len(fields), rng.integers(1, len(fields) + 1), replace=False)):
            use = self.pool[rng.integers(len(self.pool))][fields[j]] * rng.uniform(0.6, 1.3)
            limits[fields[j]] = float(use) if fields[j] in ("latency_ms", "energy_mj") else int(use)
        return Budget(**limits)  # type: ignore[arg-type]

    def choose(self, budget: Budget) -> Chosen:
        models = CostModels(self.space, self.latency, self.space.resolutions, energy=self.energy)
        return choose(models, self.accuracy, budget, inputs={}, top=0)

    def program(self, budget: Budget) -> Optimum:
        return optimum(
            self.space,
            CostTables(self.space, self.latency, self.energy),
            self.accuracy,
            self.space.resolutions,
            budget,
            self.latency.margin(),
            energy_margin=self.energy.margin(),
        )


def made_up_energy(space: Space, latency: LatencyModel) -> EnergyModel:
    """Blocks draw 2 to 4 W while they run; twelve are measured alone, and so are twelve networks."""
    rng = np.random.default_rng(2)
    blocks = space.distinct_blocks(space.resolutions)
    watts = {block.key: rng.uniform(2, 4) for block in blocks}
    some = [blocks[i] for i in rng.choice(len(blocks), 12, replace=False)]
    networks = []
    for _ in range(12):
        arch = space.sample(rng)
        mj = sum(watts[block.key] * latency.block_ms(block) for block in space.blocks(arch))
        networks.append((arch, float(mj * rng.normal(1, 0.02))))
    return EnergyModel(latency, {b.key: watts[b.key] * latency.block_ms(b) for b in some}, networks)


def check(case: Case, budget: Budget, tally: Tally, thorough: bool) -> None:
    """One budget."""
    start = time.process_time()
    try:
        chosen = case.choose(budget)
    except InfeasibleBudget as error:
        tally.seconds["refused"].append(time.process_time() - start)
        check_refusal(case, budget, error, tally, thorough)
        return
    tally.seconds["returned"].append(time.process_time() - start)
    tally.outcomes["returned"] += 1
    selection = chosen.selection
    uses, limits = case.uses(selection.arch), budget.as_json()
    if any(uses[name] > limit * (1 + 1e-12) for name, limit in limits.items()):
        tally.outcomes["broken"] += 1
        tally.wrong.append(f"{budget}: returned {selection.arch}, which uses {uses}")
    tally.outcomes["proven"] += selection.proven_optimal
    if thorough:
        start = time.process_time()
        found = case.program(budget)
        tally.seconds["program"].append(time.process_time() - start)
        tally.outcomes["compared"] += 1
        best = case.accuracy.top1(found.score)
        same = abs(best - selection.bound) <= _SAME and found.proven_optimal
        if not same:
            tally.outcomes["different"] += 1
            tally.wrong.append(f"{budget}: {selection.bound} against {best} of the program ({found})")


def check_refusal(case: Case, budget: Budget, error: InfeasibleBudget, tally: Tally, thorough: bool) -> None:
    tally.outcomes["refused"] += 1
    found = case.program(budget)
    if found.arch is None and found.proven_optimal:
        tally.outcomes["confirmed"] += 1
    else:
        tally.wrong.append(f"{budget}: refused, but the program has {found}")
    if not thorough:
        return
    offered = [limit["budget"] for limit in error.details["limits"] if limit["budget"]]
    for raised in [error.details["needed"], *offered]:
        tally.outcomes["hints tried"] += 1
        try:
            case.choose(Budget(**raised))
        except InfeasibleBudget:
            tally.wrong.append(f"{budget}: the hint's {raised} does not work")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--space", choices=sorted(SPACES), default=OFA_LITE0.name)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="stop then, and report what was done")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    case, tally = Case(SPACES[options.space]), Tally()
    rng = np.random.default_rng(options.seed)
    start, before = time.perf_counter(), time.process_time()
    for i in range(options.count):
        if time.perf_counter() - start > options.max_seconds:
            break
        budget = case.budget(rng)
        tally.limits[len(budget.as_json())] += 1
        check(case, budget, tally, thorough=i % options.every == 0)
    value = {
        "space": options.space,
        "count": tally.limits.total(),
        "total_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - before,
        **tally.as_json(),
    }
    if options.json:
        print(json.dumps(value))
    else:
        spent = f"{value['total_seconds']:.0f} s ({value['cpu_seconds']:.0f} s of CPU)"
        print(f"{options.space}: {value['count']:,} budgets in {spent}, by limits {value['limits']}")
        print("   " + ", ".join(f"{count:,} {name}" for name, count in tally.outcomes.items()))
        for name, s in value["seconds"].items():
            print(f"    {name:10} CPU: median {s['median']:.3f} s, 99 % {s['p99']:.3f} s, longest {s['max']:.3f} s")
        print("    nothing wrong" if not tally.wrong else "\n".join(tally.wrong))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
