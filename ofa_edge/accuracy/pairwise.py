"""Predicts top-1 from every choice and every pair of choices, by ridge regression.

In: measured rows. Out: `PairwiseAccuracy`. The columns are those of the additive predictor (resolution, depths, kernel
and expand of every place, widths, stem depth), centred, and all products of two of them: that a large kernel helps less
in a deep stage, or a wide block less at a low resolution, is such a product. There are more products than rows, so the
regression is solved in its dual form: the inner product of two rows' products is the square of the rows' own. Rules
kept: closed form, seeded folds, same rows same model; the products weigh as much as the choices on the average row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import PLACES, encode, encode_arrays
from ofa_edge.accuracy.pair_tables import PairTables
from ofa_edge.accuracy.ridge import LINKS, FitQuality, best_form
from ofa_edge.accuracy.state import State
from ofa_edge.accuracy.validation import Rows, errors_by_score
from ofa_edge.errors import UsageError
from ofa_edge.quantiles import student_t
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays

Floats = NDArray[np.float64]

# The dual form needs the square of this in numbers, and its cube in operations: about a minute.
MAX_ROWS = 6000

# Archs predicted at once: their inner products with all rows stay within some tens of MB.
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class PairwiseAccuracy:
    """score(arch) = level + sum over the measured rows of dual x (kernel of the arch and the row).

    Attributes:
        rows: encoded, (n, p) of 0 and 1.
        balance: weight of the products against the choices themselves.
        dual: (n,) one factor per row.
        errors: scores, rising, and the left-out root mean square error around each.
    """

    kind: ClassVar[str] = "pairwise"
    space: Space
    resolutions: tuple[int, ...]
    quality: FitQuality
    level: float
    balance: float
    rows: Floats
    dual: Floats
    errors: tuple[Floats, Floats]

    @classmethod
    def fit_measured(cls, rows: Rows, *, seed: int = 0) -> PairwiseAccuracy:
        """Fit on measured rows.

        Args:
            seed: of the folds by which scale and ridge strength are chosen.

        Raises:
            UsageError: there are more rows than MAX_ROWS.
        """
        if len(rows) > MAX_ROWS:
            raise UsageError(
                f"a pairwise predictor is fitted on at most {MAX_ROWS:,} rows, the table has {len(rows):,}",
                hint="use --kind additive or mlp",
            )
        columns = encode(rows.space, rows.archs, rows.resolutions, PLACES)
        x = columns - columns.mean(axis=0)
        linear = x @ x.T
        balance = float(np.trace(linear) / np.trace(linear**2)) if linear.any() else 0.0
        kernel = linear + balance * linear**2
        centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
        values, vectors = np.linalg.eigh(centred)
        values = np.maximum(values, 0)
        form = best_form(vectors * np.sqrt(values), values, rows, seed)
        link = LINKS[form.link]
        target = link.forward(rows.correct, rows.n)
        dual = (vectors / (values + form.ridge)) @ (vectors.T @ (target - target.mean()))
        quality = form.quality(rows, PLACES)
        level = float(target.mean() - kernel.mean(axis=0) @ dual)
        errors = errors_by_score(form.left_out, form.left_out - target)
        return cls(rows.space, rows.resolutions, quality, level, balance, columns, dual, errors)

    # -- predictions ----------------------------------------------------------------------------
    def predict(self, archs: Sequence[Arch]) -> Floats:
        """Predicted top-1 of each arch at a measured resolution, shares (n,)."""
        return self.predict_arrays(ArchArrays.of(self.space, archs))

    def predict_arrays(self, arrays: ArchArrays) -> Floats:
        """As `predict`, of archs as arrays."""
        shares: Floats = LINKS[self.quality.link].inverse(self.scores(arrays))
        return shares

    def scores(self, arrays: ArchArrays) -> Floats:
        """The link's scale of `predict_arrays`, (n,)."""
        if np.isin(arrays.resolution, self.resolutions).all():
            return self._tables.scores(arrays)
        level, slope, bend = self.polynomial
        x = encode_arrays(self.space, arrays, self.resolutions, PLACES)
        scores: Floats = level + x @ slope + np.sum(x @ bend * x, axis=1)
        return scores

    @cached_property
    def polynomial(self) -> tuple[float, Floats, Floats]:
        """level, slope (p,) and bend (p, p) with score(x) = level + slope x + x' bend x for encoded archs x.

        The kernel l + balance l^2, with l the product of two centred rows, is of degree two in an arch's columns, and
        so is a sum of kernels: no measured row is needed any more.
        """
        slope = self.dual @ self._centred
        bend = self.balance * (self._centred.T * self.dual) @ self._centred
        bend = (bend + bend.T) / 2
        level = self.level - float(slope @ self._mean) + float(self._mean @ bend @ self._mean)
        return level, slope - 2 * bend @ self._mean, bend

    @cached_property
    def _tables(self) -> PairTables:
        return PairTables.of(self.space, self.resolutions, PLACES, *self.polynomial)

    def intervals(self, archs: Sequence[Arch], confidence: float = 0.95) -> Floats:
        """value, low and high of each arch at a measured resolution: (n, 3).

        Student's t over the left-out errors of rows with about this score, scaled by the arch's leverage.
        """
        parts = [self._bounds(archs[i : i + _BLOCK], confidence) for i in range(0, len(archs), _BLOCK)]
        shares: Floats = LINKS[self.quality.link].inverse(np.concatenate([np.zeros((0, 3)), *parts]))
        return shares

    def describe(self) -> str:
        """What the model is, in one line a person can judge."""
        q = self.quality
        return (
            f"top-1 on the accuracy table's images, predicted: ridge over choices and all pairs of choices, "
            f"{q.link} scale, {q.rows} rows of {q.subnets} subnets; left-out RMSE {100 * q.rmse:.2f} points, "
            f"Spearman {q.spearman:.3f}"
        )

    def _bounds(self, archs: Sequence[Arch], confidence: float) -> Floats:
        from scipy.linalg import cho_solve  # only intervals need it

        kernel = self._kernel(archs)
        scores = self.level + kernel @ self.dual
        own, factor, mean_leverage = self._leverages
        centred = kernel - own.mean(axis=0) - kernel.mean(axis=1)[:, None] + own.mean()
        leverage = 1 / len(self.rows) + np.sum(cho_solve(factor, centred.T) ** 2, axis=0)
        scale = np.interp(scores, *self.errors) * np.sqrt((1 + leverage) / (1 + mean_leverage))
        # Rows of one subnet share its error, so the errors count once per subnet.
        half = student_t(confidence, self.quality.subnets - 1) * scale
        return np.stack([scores, scores - half, scores + half], axis=1)

    def _kernel(self, archs: Sequence[Arch]) -> Floats:
        """(archs, rows)."""
        x = encode(self.space, archs, self.resolutions, PLACES) - self._mean
        linear = x @ self._centred.T
        return linear + self.balance * linear**2

    @cached_property
    def _mean(self) -> Floats:
        mean: Floats = self.rows.mean(axis=0)
        return mean

    @cached_property
    def _centred(self) -> Floats:
        return self.rows - self._mean

    @cached_property
    def _leverages(self) -> tuple[Floats, tuple[Floats, bool], float]:
        """Kernel of the rows, the factor of its centred form plus ridge, and the rows' mean leverage."""
        from scipy.linalg import cho_factor
        from scipy.linalg.lapack import dpotri

        linear = self._centred @ self._centred.T
        kernel = linear + self.balance * linear**2
        centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
        factor = cho_factor(centred + self.quality.ridge * np.eye(len(centred)), lower=True)
        # |A^-1 centred|^2 for A = centred + ridge, which is |1 - ridge A^-1|^2: a third of the work of solving for it.
        half, _ = dpotri(factor[0], lower=1)
        diagonal = np.diag(half)
        inverse_squared = 2 * np.sum(np.tril(half) ** 2) - np.sum(diagonal**2)
        ridge = self.quality.ridge
        squared = len(centred) - 2 * ridge * diagonal.sum() + ridge**2 * inverse_squared
        mean = float((squared + 1) / len(centred))
        return kernel, factor, mean

    # -- to a file and back ---------------------------------------------------------------------
    def state(self) -> State:
        """Everything but space and resolutions."""
        fields = {"quality": asdict(self.quality), "level": self.level, "balance": self.balance}
        arrays = {"rows": self.rows, "dual": self.dual, "error_scores": self.errors[0], "errors": self.errors[1]}
        return State(fields, arrays)

    @classmethod
    def from_state(cls, space: Space, resolutions: tuple[int, ...], state: State) -> Self:
        """Raises ValueError where the state is none of this kind for this space."""
        quality = state.quality()
        if quality.rows > MAX_ROWS:
            raise ValueError(f"it has more than {MAX_ROWS} rows")
        p = encode(space, [space.smallest(resolutions[0])], resolutions, PLACES).shape[1]
        shapes = {"rows": (quality.rows, p), "dual": (quality.rows,), "error_scores": None, "errors": None}
        arrays = state.checked(shapes)
        errors = arrays["error_scores"], arrays["errors"]
        level, balance = state.number("level"), state.number("balance")
        return cls(space, resolutions, quality, level, balance, arrays["rows"], arrays["dual"], errors)
