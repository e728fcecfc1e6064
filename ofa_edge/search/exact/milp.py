"""The best subnet under several limits at once: mixed-integer programs with HiGHS, and the proof.

In: a Space, models that are sums over blocks, a Budget. Out: `Optimum`: the subnet, the bound that no subnet exceeds,
and whether the two meet. Where the exact front of a few limits has many points (frontier.py), this asks for one.

How: every resolution is a program of its own (program.py). First their linear relaxations are solved, whose multipliers
say of every choice what the score of a subnet with it is at most. A threshold a little under the greatest bound then
leaves few choices at few resolutions, and only these go to the integer solver. If it finds a subnet above the
threshold, nothing that was left out is better; else the threshold is lowered to what was found, or on and on to none.

Rules kept: a subnet is held against the limits in integers, and one that the solver's tolerance let pass is forbidden
and the program solved again; a time limit gives the best subnet so far and a bound that holds, never a false proof.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BlockLatencies
from ofa_edge.search.exact.frontier import StageScores
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.exact.program import Program
from ofa_edge.search.exact.relaxation import Relaxed, factor_of, relaxations
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.exact.top import CORE
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays

_WIDER = 6.0  # how much further from the bound each next threshold is, and how many times before all is let in
_WIDENINGS = 2
_MOST_FORBIDDEN = 50
_STDOUT = threading.Lock()


@dataclass(frozen=True, slots=True)
class Optimum:
    """What the programs found.

    Attributes:
        arch: None where no subnet was found: none keeps the limits if `proven_optimal`, else the time was over.
        score: of the subnet, as the model gives it; -inf without one.
        bound: no subnet within the limits has a higher score; -inf where there is none.
        proven_optimal: the bound is the score, up to the score's rounding.
        seconds: it took.
        programs: integer programs that were solved; resolutions beyond these were cut off by their relaxation.
    """

    arch: Arch | None
    score: float
    bound: float
    proven_optimal: bool
    seconds: float
    programs: int


def optimum(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    budget: Budget | Limits,
    margin: float = 0.0,
    *,
    energy_margin: float = 0.0,
    max_seconds: float = 60.0,
    core: int = CORE,
) -> Optimum:
    """The subnet with the highest score that keeps all limits.

    Args:
        score: at a fixed depth of a stage a sum over its places (scores.py); AdditiveAccuracy is one.
        budget: all of its limits hold; `Limits` have their margins in them.
        margin, energy_margin: latency counts (1 + margin) times, energy (1 + energy_margin) times.
        max_seconds: then the best so far is returned, with the bound so far.
        core: so many choices that lose at all are above the first threshold.

    Raises:
        UsageError: no resolution is given, or energy is limited and its model missing.
    """
    start = time.monotonic()
    limits = budget if isinstance(budget, Limits) else Limits.of(budget, margin, energy_margin)
    scores = PlaceScores.of(space, score, resolutions)
    search = _Search(scores, start + max_seconds, relaxations(space, latency, scores, limits))
    proven = search.run(core)
    bound = search.score if proven else max(search.score, *(relaxed.most for relaxed in search.relaxed))
    return Optimum(search.arch, search.score, bound, proven, time.monotonic() - start, search.programs)


# -- the search over resolutions and thresholds ---------------------------------------------------
@dataclass
class _Search:
    """The best subnet so far, and what is known of each resolution."""

    scores: PlaceScores
    deadline: float
    relaxed: list[Relaxed]
    arch: Arch | None = None
    score: float = -math.inf
    programs: int = 0

    def run(self, core: int) -> bool:
        """Returns whether what is found, or that there is nothing, is proven."""
        first = self.relaxed[0]
        if first.bound == -math.inf:
            return True
        threshold = first.bound - (first.loss_of(core) or math.inf)
        for turn in range(_WIDENINGS + 3):
            if not self._solve_above(threshold):
                return False
            if self.score >= threshold:  # both are -inf where there is nothing
                break
            if self.arch is not None:
                threshold = self.score
            else:
                wider = first.bound - _WIDER * (first.bound - threshold)
                threshold = wider if turn < _WIDENINGS and wider < threshold else -math.inf
        return True

    def _solve_above(self, threshold: float) -> bool:
        """Look for the best subnet of at least this score; False where the time was over."""
        for relaxed in self.relaxed:
            floor = max(threshold, self.score)
            if relaxed.most < floor or relaxed.most <= self.score:
                continue
            core = relaxed.above(floor)
            found = _solve(core, self.score, self.deadline)
            self.programs += 1
            if found.chosen is not None:
                arch = core.arch(found.chosen)
                reached = float(self.scores.scores(ArchArrays.of(self.scores.space, [arch]))[0])
                if reached > self.score:
                    self.arch, self.score = arch, reached
            relaxed.most = min(relaxed.most, max(floor, self.score if found.complete else found.bound))
            if not found.complete:
                return False
        return True


# -- one program ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Found:
    """The best subnet of a program, if any; the bound on its score; whether the search was complete."""

    chosen: Ints | None
    bound: float
    complete: bool


def _solve(program: Program, above: float, deadline: float) -> _Found:
    """Solve the integer program.

    Args:
        above: only a higher score is of interest; -inf is any.
    """
    forbidden: list[Ints] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or len(forbidden) > _MOST_FORBIDDEN:
            return _Found(None, math.inf, False)
        found = _highs(program, above, forbidden, left)
        if found.chosen is None or program.limits.kept(program.costs_of(found.chosen))[0]:
            return found
        forbidden.append(found.chosen)


def _highs(program: Program, above: float, forbidden: Sequence[Ints], seconds: float) -> _Found:
    """One call of the solver."""
    factor = factor_of(program)
    costs = np.append(-program.scores * factor, 0.0)
    inequalities, right = program.inequalities
    least, most = np.zeros(len(program) + 1), np.ones(len(program) + 1)
    least[-1], most[-1] = program.peak_bounds
    sums = program.layout.right
    constraints = [LinearConstraint(program.equations, sums, sums)]
    if len(right):
        constraints.append(LinearConstraint(inequalities, -np.inf, right))
    if above > -math.inf:
        constraints.append(LinearConstraint(costs[None], -np.inf, (program.constant - above) * factor))
    for earlier in forbidden:
        row = np.zeros(len(program) + 1)
        row[earlier] = 1
        constraints.append(LinearConstraint(row[None], -np.inf, len(earlier) - 1))
    with _nothing_printed():
        result = milp(
            costs,
            integrality=np.append(np.ones(len(program)), 0),
            bounds=Bounds(least, most),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": max(seconds, 0.01)},
        )
    if result.status == 2:
        return _Found(None, -math.inf, True)
    bound = result.mip_dual_bound
    bound = math.inf if bound is None or not math.isfinite(bound) else program.constant - float(bound) / factor
    chosen: Ints | None = None if result.x is None else np.flatnonzero(result.x[:-1] > 0.5).astype(np.int64)
    return _Found(chosen, bound, result.status == 0)


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """HiGHS writes a line of its own debugging ("HighsMipSolverData::transformNewIntegerFeasibleSolution ...") to the
    process' stdout when it repairs a solution, and data alone belongs there. No option keeps it back: it is a bare
    printf, and milp's `disp` (HiGHS' log_to_console) is off already. So the descriptor is turned away, by one thread at
    a time; what another thread prints meanwhile is lost with it. No command comes here: the program is a second
    opinion, of tests and benchmarks, on what exact/top.py finds."""
    with _STDOUT:
        sys.stdout.flush()
        try:
            kept = os.dup(1)
        except OSError:  # there is no stdout
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            with contextlib.suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).fflush(None)  # what C's library still holds would come out later
            os.dup2(kept, 1)
            os.close(nowhere)
            os.close(kept)
