"""The one subnet for several devices and budgets, where a device has several ways to run it.

In: for each member (a budget on a device) its ways, each with its models; an accuracy model. Out: a `Chosen` for each,
all of the same subnet, and the number of the way that each is run; or InfeasibleBudget. Rules kept: exact: the greatest
of what the subnet is at least worth on any of them (predicted top-1 less the greatest drop), over all subnets and all
assignments of ways. Members are given their ways one after the other; what the best subnet under the budgets given so
far is worth bounds all that follows (branch and bound), and an assignment is left only where that bound is no better
than a subnet already found.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.candidate import DIGITS, Candidate, excess
from ofa_edge.search.choose import Chosen
from ofa_edge.search.common.together import Wanted, choose_together
from ofa_edge.search.ways import Way, growth, run_so, with_tables
from ofa_edge.space.arch import Arch


@dataclass(frozen=True, slots=True)
class Option:
    """A member run one way, and what is wanted there; its models' resolutions are those that they can tell of."""

    way: Way
    wanted: Wanted


Members = Sequence[Sequence[Option]]
# (an option each, how many alternatives) -> a Chosen each, all of the same subnet; None: they share no resolution.
_Choose = Callable[[Sequence[Option], int], list[Chosen] | None]
# Assignments that are looked at for the one nearest to being kept, where none is.
_MOST_REFUSED = 32


def choose_together_of(
    members: Members,
    accuracy: AdditiveAccuracy,
    *,
    resolutions: Callable[[Sequence[int]], tuple[int, ...]],
    seed: int = 0,
    top: int = 5,
) -> tuple[list[Chosen], list[int]]:
    """The one subnet that is best over all assignments of ways, as chosen for each member, and each member's way.

    Args:
        members: at least one way each; of equals the first counts.
        resolutions: those to search at, of those that all tables of an assignment know; raises UsageError for none.

    Raises:
        InfeasibleBudget: no subnet keeps all budgets, whatever the ways.
        UsageError: no assignment shares a resolution, or as choose_together.
    """
    start = time.perf_counter()
    unshared: list[UsageError] = []

    def choose(options: Sequence[Option], top: int) -> list[Chosen] | None:
        try:
            shared = resolutions(
                sorted(set.intersection(*(set(option.wanted.models.resolutions) for option in options)))
            )
        except UsageError as error:
            unshared.append(error)
            return None
        wanted = [option.wanted for option in options]
        return choose_together(wanted, accuracy, resolutions=shared, seed=seed, top=top)

    search = _Search(members, choose, top)
    search.assign(())
    if search.best is None:
        refusal = search.refusal()
        raise refusal if refusal is not None else unshared[0]
    assigned = [options[i] for options, i in zip(members, search.best.ways, strict=True)]
    worst = _drop(assigned)
    bound = max(search.bound, search.best.worth)
    found, ways = [], []
    for options, i, chosen in zip(members, search.best.ways, search.best.chosen, strict=True):
        number = _quickest(options, i, chosen, accuracy)
        one = run_so(_moved(chosen, options[number], accuracy), options[number].way)
        inputs, headers = with_tables([option.way for option in options], one.selection)
        selection = replace(
            one.selection,
            bound=None if bound == math.inf else round(bound + worst - options[number].way.drop, DIGITS),
            proven_optimal=one.selection.proven_optimal and bound <= search.best.worth,
            inputs=inputs,
            headers=headers,
        )
        if sum(map(len, members)) > len(members):
            said = f"the best of all assignments of the ways to run it; here {options[number].way.name}"
            selection = replace(selection, model=f"{selection.model}; {said}")
        others = run_so(chosen, options[i].way).alternatives
        found.append(Chosen(selection, others, time.perf_counter() - start))
        ways.append(number)
    return found, ways


@dataclass(frozen=True, slots=True)
class _Leaf:
    """The best subnet of one assignment."""

    ways: tuple[int, ...]
    chosen: list[Chosen]
    worth: float


@dataclass(slots=True)
class _Search:
    """Branch and bound over the members' ways.

    Attributes:
        best: of the assignments seen.
        bound: of what any subnet is worth under those of them that have one.
    """

    members: Members
    choose: _Choose
    top: int
    best: _Leaf | None = None
    bound: float = -math.inf

    def assign(self, ways: tuple[int, ...]) -> None:
        """Look at every assignment that begins so and may be better than the best."""
        place = len(ways)
        whole = place + 1 == len(self.members)
        found: list[tuple[float, int, list[Chosen]]] = []
        for i in range(len(self.members[place])):
            options = self._options((*ways, i))
            try:
                chosen = self.choose(options, self.top if whole else 0)
            except InfeasibleBudget as error:
                # No subnet by the margins, which is a proof; or those that were tried broke it by their own intervals.
                if error.details.get("factor", math.inf) <= 1:
                    self.bound = math.inf
                continue
            if chosen is not None:
                bound = chosen[0].selection.bound
                found.append((math.inf if bound is None else bound - _drop(options), i, chosen))
        for bound, i, chosen in sorted(found, key=lambda one: (-one[0], one[1])):
            if self.best is not None and bound <= self.best.worth:
                continue
            if not whole:
                self.assign((*ways, i))
                continue
            worth = chosen[0].selection.top1.value - _drop(self._options((*ways, i)))
            self.bound = max(self.bound, worth if chosen[0].selection.proven_optimal else bound)
            if self.best is None or worth > self.best.worth:
                self.best = _Leaf((*ways, i), chosen, worth)

    def _options(self, ways: Sequence[int]) -> list[Option]:
        return [options[i] for options, i in zip(self.members, ways, strict=False)]

    def refusal(self) -> InfeasibleBudget | None:
        """Of the assignments of the ways that alone need the least the one that needs the least more; None where no
        assignment shares a resolution."""
        order = [sorted(range(len(options)), key=lambda i: self._alone(options[i])) for options in self.members]
        refused = []
        for ways in itertools.islice(itertools.product(*order), _MOST_REFUSED):
            options = self._options(ways)
            try:
                self.choose(options, 0)
            except InfeasibleBudget as refusal:
                refused.append((options, refusal))
        if not refused:
            return None
        options, error = min(refused, key=lambda pair: _more(pair[1]))
        named = {option.wanted.name: option.way for option in options}
        told = []
        for one in error.details["infeasible"]:
            way = named[one["member"]]
            runs = {} if way.runs_on is None else {"runs": way.runs_on.as_json()}
            told.append({**one, "way": way.name, "table": way.table, **runs})
        return InfeasibleBudget(error.message, hint=error.hint, details=error.details | {"infeasible": told})

    def _alone(self, option: Option) -> float:
        """How much more it needs though it is the only member."""
        try:
            return math.inf if self.choose([option], 0) is None else 0.0
        except InfeasibleBudget as error:
            return _more(error)


def _drop(options: Sequence[Option]) -> float:
    return max(option.way.drop for option in options)


def _more(error: InfeasibleBudget) -> float:
    """By what factor the limits would have to grow."""
    if "factor" in error.details:
        return float(error.details["factor"])
    return max((growth(one) for one in error.details.get("infeasible", [])), default=math.inf)


def _quickest(options: Sequence[Option], assigned: int, chosen: Chosen, accuracy: AdditiveAccuracy) -> int:
    """The way that loses the least, and of equals is the fastest, of those in which the subnet keeps the budget."""
    arch, upper = chosen.selection.arch, chosen.selection.latency_ms
    rank = {assigned: (options[assigned].way.drop, upper.value if upper.high is None else upper.high)}
    for i, option in enumerate(options):
        if i != assigned and (one := _candidate(option, arch, accuracy)) is not None:
            rank[i] = option.way.drop, one.upper_ms
    return min(rank, key=lambda i: (rank[i], i))


def _moved(chosen: Chosen, option: Option, accuracy: AdditiveAccuracy) -> Chosen:
    """A choice with what is predicted of it on another table."""
    selection, inputs = chosen.selection, dict(option.wanted.inputs)
    one = _candidate(option, selection.arch, accuracy)
    if one is None or inputs == selection.inputs:
        return chosen
    moved = replace(selection, latency_ms=one.latency_ms, cost=one.cost, energy_mj=one.energy_mj, inputs=inputs)
    return replace(chosen, selection=moved)


def _candidate(option: Option, arch: Arch, accuracy: AdditiveAccuracy) -> Candidate | None:
    """The subnet run so; None where it does not keep the budget, or nothing can be said of it."""
    models = option.wanted.models
    if arch.resolution not in models.resolutions:
        return None
    if not all(math.isfinite(models.latency.block_ms(block)) for block in models.space.blocks(arch)):
        return None
    one = models.candidate(arch, accuracy.estimate(arch, models.confidence))
    return one if excess(one, option.wanted.budget) <= 1 else None
