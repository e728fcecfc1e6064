"""An upper bound on a field within its limits, by Lagrangian duality, and how to lower it.

In: a Field. Out: `Dual`: a function of multipliers whose every value is an upper bound on the score of every subnet
within the limits, and `descend`, which looks for a low one. For any multipliers

    score <= level + lambda room + t't / 2 + sum over variables of max A + sum over pairs of max B

    A = unary - lambda use + messages + mu (room - use) + |W|^2 / 2 - W t
    B = pair - messages - mu' use - use' mu + W' W

What each part is for: *messages* move score between a pair and its variables, which is the local polytope relaxation of
the field (Wainwright & Jordan, 2008, chapter 8). *lambda* prices the limits; *mu* prices them once more for every label
by itself, since a limit times "this label is taken" holds too (reformulation-linearisation, Sherali & Adams, 1990).
*W* and *t* bound the concave part of the score: for y = W' x, -|y|^2 / 2 <= t't / 2 - t'y, its tangent at t, and W free
makes this the semidefinite relaxation in low rank (Burer & Monteiro, 2003). Accuracy has diminishing returns, so that
part is what matters.

Rules kept: any multipliers give a true bound, so nothing has to converge for it; the maxima are smoothed only to find
good multipliers; the same input takes the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ofa_edge.search.costs import Floats
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.nonadditive.descent import descend
from ofa_edge.search.nonadditive.field import NEVER, Field

# Columns of W: more bound more of the concave part and cost more time.
RANK = 16

# OpenBLAS divides products of more multiplications, and longer vectors, among threads. These here are small and many:
# where other work is on the machine, waiting for threads took thirty times as long as the work.
_PRODUCT = 200_000
_VECTOR = 9_900

# Steps after which the bound is looked at.
_LOOK = 20

# Square roots of mu to begin with: at 0 they would stay.
_ROOT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Potentials:
    """The bound's parts at some multipliers.

    Attributes:
        base: what belongs to no variable.
        unary: A, (variables, labels).
        pair: B, (pairs, labels, labels), pairs in the order of np.triu_indices.
    """

    base: float
    unary: Floats
    pair: Floats

    @property
    def bound(self) -> float:
        return self.base + float(self.unary.max(axis=1).sum() + self.pair.max(axis=(1, 2)).sum())


class Dual:
    """The bound of a field as a function of its multipliers, one vector.

    Args:
        unit: scores are counted times this.
    """

    def __init__(self, field: Field, unit: float, rank: int = RANK):
        self.field, self.unit = field, unit
        variables, n = field.unary.shape
        self.i, self.j = np.triu_indices(variables, 1)
        edges, limits = len(self.i), len(field.room)
        # Sums over pairs as products: which pairs a variable is the first, or the second, of.
        self._of_i, self._of_j = ((np.arange(variables)[:, None] == e).astype(np.float64) for e in (self.i, self.j))
        alive = field.unary > NEVER / 2
        level, unary, self._centred = _centred(field, alive)
        self._level, self._unary = unit * level, np.where(alive, unit * unary, NEVER)
        never = field.forbids | ~(alive[:, :, None, None] & alive)
        pair = np.where(never, NEVER, unit * self._centred)
        self._pair = pair.transpose(0, 2, 1, 3)[self.i, self.j]
        self._pair_use = None
        if field.pair_use is not None:
            self._pair_use = field.pair_use.transpose(0, 1, 3, 2, 4)[:, self.i, self.j]
        self._whole = np.zeros((variables, variables, n, n))
        own_prices = 0 if self._pair_use is not None else limits
        others = 2 * edges * n + own_prices * variables * n
        self.rank = max(1, min(rank, (_VECTOR - others) // (variables * n), variables * n))
        self._shapes = [
            (limits,),
            (edges, n),
            (edges, n),
            (own_prices, variables, n),
            (variables, n, self.rank),
            (self.rank,),
        ]
        self._cuts = np.cumsum([int(np.prod(shape)) for shape in self._shapes])

    def start(self, labels: Ints, price: float) -> Floats:
        """Multipliers to begin with: the concave part by its tangent at a good subnet's labels (variables,), and the
        same price on all limits."""
        values, vectors = np.linalg.eigh(self.unit * self._centred.reshape(len(self._unary.ravel()), -1))
        concave = vectors[:, : self.rank] * np.sqrt(np.maximum(-values[: self.rank], 0))
        concave = concave.reshape(*self._unary.shape, self.rank)
        tangent = concave[np.arange(len(labels)), labels].sum(axis=0)
        z = [np.zeros(shape) for shape in self._shapes]
        z[0][:], z[3][:], z[4], z[5] = np.sqrt(price), _ROOT, concave, tangent
        return np.concatenate([part.ravel() for part in z])

    def at(self, z: Floats) -> Potentials:
        """The parts of the bound at multipliers."""
        return self._at(self._parts(z)[0])

    def descend(self, z: Floats, temperature: float, steps: int, target: float = -np.inf) -> tuple[Floats, float]:
        """Multipliers with a lower bound, and the bound; the given ones where they are no worse.

        Args:
            temperature: the maxima become log-sum-exps at it, and L-BFGS takes so many steps.
            target: a bound that is low enough.
        """

        def enough(step: int, x: Floats) -> bool:
            return step % _LOOK == 0 and self.at(x).bound <= target

        known = self.at(z).bound
        if known <= target:
            return z, known
        found = descend(partial(self._smooth, temperature=temperature), z, steps, enough)
        bound = self.at(found).bound
        return (found, bound) if bound < known else (z, known)

    # -- the function -----------------------------------------------------------------------------
    def _parts(self, z: Floats) -> tuple[list[Floats], Floats, Floats]:
        """price, messages to the first and to the second of each pair, mu, W and t; and the roots of price and mu.

        Prices are squares of what stands in z, so that they need no bounds: L-BFGS is quicker without, and finds better
        multipliers.
        """
        parts = [part.reshape(shape) for part, shape in zip(np.split(z, self._cuts[:-1]), self._shapes, strict=True)]
        of_price, of_mu = parts[0], parts[3]
        parts[0], parts[3] = of_price**2, of_mu**2
        return parts, of_price, of_mu

    def _factors(self, mu: Floats, w: Floats) -> tuple[Floats, Floats]:
        """Left and right factors (variables, labels, k) of what B adds to pairs."""
        if not len(mu):
            return w, w
        mu, use = np.moveaxis(mu, 0, -1), np.moveaxis(self.field.use, 0, -1)
        return np.concatenate([w, -mu, -use], axis=2), np.concatenate([w, use, mu], axis=2)

    def _at(self, parts: list[Floats]) -> Potentials:
        price, to_i, to_j, mu, w, t = parts
        field = self.field
        left, right = self._factors(mu, w)
        unary = self._unary - np.tensordot(price, field.use, 1) + self._of_i @ to_i + self._of_j @ to_j
        unary += (w**2).sum(axis=2) / 2 - w @ t
        if len(mu):
            unary += (mu * (field.room[:, None, None] - field.use)).sum(axis=0)
        pair = self._blocks(left, right)
        pair += self._pair
        pair -= to_i[:, :, None]
        pair -= to_j[:, None, :]
        if self._pair_use is not None:
            for one, use in zip(price.tolist(), self._pair_use, strict=True):
                pair -= one * use
        return Potentials(self._level + float(price @ field.room + t @ t / 2), unary, pair)

    def _smooth(self, z: Floats, temperature: float) -> tuple[float, Floats]:
        """The bound with smoothed maxima, and its gradient."""
        parts, root_of_price, root_of_mu = self._parts(z)
        _, _, _, mu, w, t = parts
        field, found = self.field, self._at(parts)
        p, of_unary = _soft(found.unary, temperature, (1,))
        q, of_pair = _soft(found.pair, temperature, (1, 2))
        left, right = self._factors(mu, w)
        by_left, by_right = self._of_factors(q, left, right)
        k = self.rank
        of_w = by_left[..., :k] + by_right[..., :k] + p[:, :, None] * (w - t)
        of_price = field.room - np.tensordot(field.use, p, 2)
        of_mu = np.zeros(mu.shape)
        if len(mu):
            limits = len(field.room)
            of_mu = p * (field.room[:, None, None] - field.use)
            of_mu += np.moveaxis(by_right[..., k + limits :] - by_left[..., k : k + limits], -1, 0)
        if self._pair_use is not None:
            of_price = of_price - np.einsum("kelm,elm->k", self._pair_use, q)
        of_t = t - np.tensordot(p, w, 2)
        of_price = 2 * root_of_price * of_price
        of_mu = 2 * root_of_mu * of_mu
        gradient = [of_price, p[self.i] - q.sum(axis=2), p[self.j] - q.sum(axis=1), of_mu, of_w, of_t]
        return found.base + of_unary + of_pair, np.concatenate([part.ravel() for part in gradient])

    def _blocks(self, left: Floats, right: Floats) -> Floats:
        """Products of the factors (variables, labels, k) of each pair, (pairs, labels, labels): as one product of all,
        which is quicker than many small ones."""
        variables, n, k = left.shape
        product = _product(left.reshape(-1, k), right.reshape(-1, k).T)
        found: Floats = product.reshape(variables, n, variables, n).transpose(0, 2, 1, 3)[self.i, self.j]
        return found

    def _of_factors(self, q: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
        """The gradients of both factors where q (pairs, labels, labels) is that of their products."""
        variables, n, k = left.shape
        self._whole[self.i, self.j] = q
        whole = self._whole.transpose(0, 2, 1, 3).reshape(variables * n, variables * n)
        of_left, of_right = _product(whole, right.reshape(-1, k)), _product(whole.T, left.reshape(-1, k))
        return of_left.reshape(left.shape), of_right.reshape(left.shape)


def _product(a: Floats, b: Floats) -> Floats:
    """a @ b, in parts that one thread multiplies."""
    rows = max(1, _PRODUCT // max(1, b.size))
    found = np.empty((len(a), b.shape[1]))
    for first in range(0, len(a), rows):
        np.matmul(a[first : first + rows], b, out=found[first : first + rows])
    return found


def _soft(values: Floats, temperature: float, axes: tuple[int, ...]) -> tuple[Floats, float]:
    """Softmax over the axes, and the sum of the log-sum-exps."""
    most = values.max(axis=axes, keepdims=True)
    found = np.exp((values - most) / temperature)
    total = found.sum(axis=axes, keepdims=True)
    return found / total, float(most.sum() + temperature * np.log(total).sum())


def _centred(field: Field, alive: np.ndarray) -> tuple[float, Floats, Floats]:
    """level, unary and pair of the same scores, the pairs' potentials with mean 0 over either label: what remains in
    them is interaction, and its concave part is the smallest."""
    share = alive / np.maximum(1, alive.sum(axis=1, keepdims=True))
    mean = np.einsum("vlwm,wm->vlw", field.pair, share)
    both = np.einsum("vl,vlw->vw", share, mean)
    pair = field.pair - mean[:, :, :, None] - np.einsum("wmv->vwm", mean)[:, None] + both[:, None, :, None]
    pair *= alive[:, :, None, None] & alive
    return field.level - float(both.sum()) / 2, field.unary + mean.sum(axis=2), pair
