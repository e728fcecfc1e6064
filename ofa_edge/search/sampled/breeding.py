"""How evolution makes the next generation: presets, and children that keep a constraint.

In: genes, a generator, a constraint as a function of archs as arrays, the parents. Out: rows of genes that fit. Rules
kept: it always ends. The published codes draw until a child fits; here a subnet is tried a bounded number of times, and
one that never fits is moved towards a subnet that does, gene by gene in random order, just as far as needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.sampled.genes import Genes, keys
from ofa_edge.space.population import ArchArrays, Ints, concatenate
from ofa_edge.space.sampling import ATTEMPTS

Constraint = Callable[[ArchArrays], NDArray[np.bool_]]

# How often a subnet of the first generation, and a child, is tried at most (2n - 1 times, in rounds of 1, 2, 4, ... n).
_FIRST, _CHILD = 1024, 64

# Steps in which a subnet is moved towards one that fits.
_STEPS = 16


@dataclass(frozen=True, slots=True)
class Preset:
    """How evolution goes.

    Attributes:
        population: subnets that are evaluated in a generation.
        generations: the first, drawn at random, is one of them.
        parents: how many of the best so far the next generation descends from.
        mutations: children that are a changed parent; the others are crossings of two.
        probability: of each choice of a changed parent to be drawn anew.
        whole: a crossing takes a block's kernel and expand ratio from one parent together.
        distinct: a subnet that was evaluated is not evaluated again.
    """

    name: str
    population: int
    generations: int
    parents: int
    mutations: int
    probability: float
    whole: bool
    distinct: bool

    def describe(self) -> str:
        """In words, for a model's sentence."""
        source = _SOURCES.get(self.name, self.name)
        return (
            f"evolution ({source}: population {self.population}, {self.generations} generations, {self.parents}"
            f" parents, {self.mutations} mutations with probability {self.probability:g},"
            f" {self.population - self.mutations} crossings)"
        )


# Parent ratio .25, mutation ratio .5. Its 100 first subnets and 500 rounds of children are 500 generations here: the
# children of its last round are evaluated and then left out. The resolution is a choice like any other, as in the
# tutorial of its code; the other copy there draws it anew with probability .5.
OFA = Preset("ofa", 100, 500, 25, 50, 0.1, whole=False, distinct=False)
SPOS = Preset("spos", 50, 20, 10, 25, 0.1, whole=True, distinct=True)
PRESETS = {preset.name: preset for preset in (OFA, SPOS)}
_SOURCES = {"ofa": "Once-for-All's", "spos": "Single Path One-Shot's"}


def named(preset: Preset | str) -> Preset:
    """A preset by its name.

    Raises:
        UsageError: there is none of this name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise UsageError(f"there is no evolution {preset!r}", hint=f"use one of: {', '.join(PRESETS)}")
    return PRESETS[preset]


class Breeder:
    """Makes generations of subnets that fit.

    Args:
        start: gives subnets that fit, or raises InfeasibleBudget; asked only where drawing finds too few.
    """

    def __init__(
        self,
        genes: Genes,
        rng: np.random.Generator,
        fits: Constraint,
        preset: Preset,
        start: Callable[[], ArchArrays],
    ):
        self._genes, self._rng, self._fits, self._preset, self._start = genes, rng, fits, preset, start
        self._fitting: Ints | None = None
        self._known = np.empty(0, dtype=np.int64)  # keys of what was made, where that counts

    def first(self) -> Ints:
        """Random subnets, (n, genes)."""
        return self._random(self._preset.population, _FIRST)

    def children(self, parents: Ints) -> Ints:
        """Changed and crossed parents, (n, genes); fewer than a population where all others were evaluated."""
        preset, rng, genes = self._preset, self._rng, self._genes
        mothers, fathers = (parents[rng.integers(len(parents), size=preset.population)] for _ in range(2))

        def tries(rows: Ints) -> Ints:
            changed, crossed = rows[rows < preset.mutations], rows[rows >= preset.mutations]
            return np.concatenate(
                [
                    genes.mutated(rng, mothers[changed], preset.probability),
                    genes.crossed(rng, mothers[crossed], fathers[crossed], whole=preset.whole),
                ]
            )

        made = self._made(preset.population, tries, _CHILD)
        # Where parents are so alike that no more new ones come of them, Single Path One-Shot goes on drawing.
        return np.concatenate([made, self._random(preset.population - len(made), _CHILD)])

    def _random(self, count: int, most: int) -> Ints:
        return self._made(count, lambda rows: self._genes.draw(self._rng, len(rows)), most)

    def _made(self, count: int, tries: Callable[[Ints], Ints], most: int) -> Ints:
        """Rows that fit, each the first of its tries that does.

        Args:
            tries: a try for each of these numbers of rows, which rise.
        """
        found = np.empty((count, len(self._genes)), dtype=np.int64)
        pending, repeats = np.arange(count), 1
        while len(pending) and repeats <= most:
            tried = tries(np.repeat(pending, repeats))
            numbers, good = self._judged(tried)
            good = good.reshape(-1, repeats)
            picked = good.argmax(axis=1) + np.arange(len(pending)) * repeats
            hit = self._new(numbers[picked], good.ravel()[picked])
            found[pending[hit]] = tried[picked[hit]]
            pending = pending[~hit]
            repeats *= 2
        if len(pending) == 0:
            return found
        found[pending] = self._moved(tries(pending))
        if not self._preset.distinct:
            return found
        new = np.ones(count, dtype=bool)
        new[pending] = self._new(keys(self._genes.archs(found[pending])), np.ones(len(pending), dtype=bool))
        return found[new]

    def _judged(self, rows: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Keys of subnets where these count, and which of them may be evaluated."""
        archs = self._genes.archs(rows)
        good = self._fits(archs)
        if not self._preset.distinct:
            return np.zeros(len(rows), dtype=np.int64), good
        numbers = keys(archs)
        return numbers, good & ~np.isin(numbers, self._known)

    def _new(self, numbers: Ints, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the subnets asked about are made for the first time; all of these, where that does not count."""
        if not self._preset.distinct:
            return asked
        new = np.zeros(len(numbers), dtype=bool)
        rows = np.flatnonzero(asked)
        new[rows[np.unique(numbers[rows], return_index=True)[1]]] = True
        new &= ~np.isin(numbers, self._known)
        self._known = np.concatenate([self._known, numbers[new]])
        return new

    def _moved(self, rows: Ints) -> Ints:
        """Each moved towards a subnet that fits, gene by gene in random order, until it fits itself."""
        anchors = self._anchors()
        found = anchors[self._rng.integers(len(anchors), size=len(rows))]
        turn = self._rng.random(rows.shape)
        pending = np.arange(len(rows))
        for step in range(1, _STEPS):
            mixed = np.where(turn[pending] < step / _STEPS, found[pending], rows[pending])
            good = self._fits(self._genes.archs(mixed))
            found[pending[good]] = mixed[good]
            pending = pending[~good]
            if len(pending) == 0:
                break
        return found

    def _anchors(self) -> Ints:
        if self._fitting is None:
            given = self._start()
            given = given.take(self._fits(given))
            if len(given) == 0:
                raise InfeasibleBudget("no subnet to start from fits the budget", hint="raise the budget")
            self._fitting = self._genes.rows(given)
        return self._fitting


def some_that_fit(genes: Genes, fits: Constraint, rng: np.random.Generator) -> ArchArrays:
    """The smallest subnets, and random ones, as far as they fit.

    Raises:
        InfeasibleBudget: none does.
    """
    space = genes.space
    smallest = ArchArrays.of(space, [space.smallest(r) for r in genes.resolutions])
    tried = concatenate([smallest, genes.archs(genes.draw(rng, ATTEMPTS))])
    found = tried.take(fits(tried))
    if len(found) == 0:
        raise InfeasibleBudget(
            f"neither the smallest subnets of {space.name} nor any of {ATTEMPTS:,} drawn ones fits the budget",
            hint="raise the budget",
        )
    return found
