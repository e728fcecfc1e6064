"""Predicts a subnet's top-1 from a table of measured subnets, additively, so that search can be exact.

In: a Space and measured rows (arch, correct, n). Out: `AdditiveAccuracy`: a score that is a sum of one term
per stage choice and one per resolution, and `Top1` predictions with intervals. Rules kept:

- What is predicted is top-1 on the table's own images. It is a prediction, never an accuracy: a network that
  search picks because its prediction is high is on average a little worse than predicted.
- Additive over stages, not inside them: search enumerates a stage whole, so a term may join the depth of a
  stage with the choices in it (`TERMS`). The score is linear or log-odds of top-1 (`LINKS`), both monotone, so
  the best score is the best top-1.
- Terms, link and ridge strength are the ones that predict left-out subnets best (grouped 10-fold: all
  resolutions of a subnet are left out together). The fit is closed-form and the folds are seeded: same rows,
  same coefficients.
- No extrapolation: resolutions outside those measured are refused; between two measured ones the resolution's
  term is interpolated linearly, since search needs a sum, and the interval widened by the curvature seen. What is
  asked of one subnet (`Fitted.estimates`) is interpolated in FLOPs instead, as Once-for-All does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import (
    DEPTH_PLACES,
    PLACES,
    encode,
    encode_arrays,
    hat,
    shared_columns,
    stage_columns,
    stage_width,
)
from ofa_edge.accuracy.ridge import LINKS, FitQuality, Form, best_form, principal
from ofa_edge.accuracy.state import State
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.accuracy.validation import Rows, errors_by_score
from ofa_edge.quantiles import student_t
from ofa_edge.space.arch import Arch, BlockChoice, Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays

Floats = NDArray[np.float64]

TERMS = (PLACES, DEPTH_PLACES)


@dataclass(frozen=True, slots=True)
class Top1:
    """A predicted or measured top-1, as a share: low and high bound it two-sidedly."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveAccuracy:
    """score(arch) = offset(resolution) + sum over stages of a term of the stage's choice.

    A resolution is joined by elastic widths and the stem's depth where a space has them. Build it with `fit`. Scores
    are on the link's scale; `top1` turns them into shares.
    """

    kind: ClassVar[str] = "additive"
    space: Space
    resolutions: tuple[int, ...]
    quality: FitQuality
    intercept: float
    mean: Floats
    weights: Floats
    spread: Floats  # (p, p): leverage of a centred row x is 1 / rows + x' spread x
    mean_leverage: float
    errors: tuple[Floats, Floats]  # scores, rising, and the left-out root mean square error around each

    # -- fit ------------------------------------------------------------------------------------
    @classmethod
    def fit(cls, space: Space, table: AccuracyTable, *, seed: int = 0) -> AdditiveAccuracy:
        """Fit on the rows of a table.

        Args:
            seed: of the folds.

        Raises:
            UsageError: fewer than MIN_SUBNETS different subnets.
        """
        return cls.fit_measured(Rows.of_table(space, table), seed=seed)

    @classmethod
    def fit_measured(cls, rows: Rows, *, seed: int = 0) -> AdditiveAccuracy:
        """As `fit`, of rows that are enough or a part of such; resolutions are those of `rows`."""
        best: tuple[Form, str, Floats] | None = None
        archs = ArchArrays.of(rows.space, rows.archs)
        for terms in TERMS:
            columns = encode_arrays(rows.space, archs, rows.resolutions, terms)
            form = best_form(*principal(columns - columns.mean(axis=0)), rows, seed)
            if best is None or form.rmse < best[0].rmse:
                best = form, terms, columns
        assert best is not None
        return cls._solve(rows, *best)

    @classmethod
    def _solve(cls, rows: Rows, form: Form, terms: str, columns: Floats) -> AdditiveAccuracy:
        link = LINKS[form.link]
        target = link.forward(rows.correct, rows.n)
        mean = columns.mean(axis=0)
        x = columns - mean
        gram = x.T @ x
        inverse = np.linalg.inv(gram + form.ridge * np.eye(len(gram)))
        spread = inverse @ gram @ inverse
        quality = form.quality(rows, terms)
        # Rounded, so that the last bits of a sum, which differ by machine, do not decide between subnets.
        weights = np.round(inverse @ (x.T @ (target - target.mean())), 9)
        mean_leverage = float((np.trace(spread @ gram) + 1) / len(rows))
        errors = errors_by_score(form.left_out, form.left_out - target)
        return cls(
            rows.space, rows.resolutions, quality, float(target.mean()), mean, weights, spread, mean_leverage, errors
        )

    # -- scores ---------------------------------------------------------------------------------
    def offset(self, resolution: int) -> float:
        """The part of a score that all subnets at this resolution share.

        Raises:
            UsageError: the resolution lies outside those measured.
        """
        row = hat(np.array([resolution]), self.resolutions)[0]
        part = self.weights[: len(self.resolutions)]
        return self._level + float(row @ part)

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats:
        """The terms of these choices of one stage, (n,)."""
        start = len(self.resolutions) + sum(self._widths[:stage_index])
        rows = stage_columns(self.space.stages[stage_index], values, self.quality.terms)
        scores: Floats = rows @ self.weights[start : start + self._widths[stage_index]]
        return scores

    def width_scores(self, place: int) -> Floats:
        """What each of `Space.width_choices[place]` adds: an elastic width belongs to no stage's blocks."""
        choices = self.space.width_choices[place]
        different = sorted(set(choices))  # as encoding.shared_columns has them
        if len(different) < 2:
            return np.zeros(len(choices))
        before = sum(len(set(c)) for c in self.space.width_choices[:place] if len(set(c)) > 1)
        part = self._shared_weights[before : before + len(different)]
        return part[[different.index(width) for width in choices]]

    def stem_depth_scores(self) -> Floats:
        """What each of the stem's depths adds."""
        depths = len(self.space.stem.depths)
        return self._shared_weights[-depths:] if depths > 1 else np.zeros(1)

    def shared_score(self, arch: Arch) -> float:
        """The terms of an arch's elastic widths and stem depth; 0 without any."""
        return float(shared_columns(ArchArrays.of(self.space, [arch]))[0] @ self._shared_weights)

    @property
    def _shared_weights(self) -> Floats:
        return self.weights[len(self.resolutions) + sum(self._widths) :]

    @property
    def _level(self) -> float:
        return self.intercept - float(self.mean @ self.weights)

    @property
    def _widths(self) -> list[int]:
        return [stage_width(stage, self.quality.terms) for stage in self.space.stages]

    def score(self, arch: Arch) -> float:
        """offset + the stages' terms + the shared ones: what search maximises."""
        terms = [
            self.stage_scores(s, StageArrays.of(stage, [choice]))[0]
            for s, (stage, choice) in enumerate(zip(self.space.stages, arch.stages, strict=True))
        ]
        return self.offset(arch.resolution) + float(sum(terms)) + self.shared_score(arch)

    def greatest_score(self, resolutions: Sequence[int]) -> float:
        """The score that no subnet of the space exceeds at these resolutions, whatever it costs."""
        stages = (self._greatest_stage_score(s, stage) for s, stage in enumerate(self.space.stages))
        shared = float(self.stem_depth_scores().max())
        shared += sum(float(self.width_scores(place).max()) for place in range(len(self.space.width_choices)))
        return max(map(self.offset, resolutions)) + sum(stages) + shared

    def _greatest_stage_score(self, s: int, stage: Stage) -> float:
        """The greatest of `stage_scores` over all values of a stage, of which there may be more than fit in memory.

        At one depth the terms are sums over places, so each place has its best block whatever the others have.
        """
        blocks = [BlockChoice(kernel, expand) for kernel in stage.kernels for expand in stage.expands]
        found = []
        for depth in stage.depths:
            plain = (blocks[0],) * depth
            varied = [(*plain[:i], block, *plain[i + 1 :]) for i in range(depth) for block in blocks]
            scores = self.stage_scores(s, StageArrays.of(stage, varied)).reshape(depth, len(blocks))
            found.append(scores[0, 0] + (scores.max(axis=1) - scores[0, 0]).sum())
        return float(max(found))

    def top1(self, score: float) -> float:
        """A score as a share of right answers."""
        return float(LINKS[self.quality.link].inverse(score))

    def estimate(self, arch: Arch, confidence: float = 0.95) -> Top1:
        """Prediction with an interval for a new measurement on the table's images.

        Student's t over the left-out errors of rows with about this score, scaled by the arch's leverage; at
        resolutions that were not measured, widened by the bound on linear interpolation that the curvature of
        the offsets gives.

        Raises:
            UsageError: the arch is not in the space, or its resolution lies outside those measured.
        """
        self.space.check(arch)
        score = self.score(arch)
        half = float(self._halves([arch], np.array([score]), confidence)[0]) + self._bend(arch.resolution)
        return Top1(self.top1(score), self.top1(score - half), self.top1(score + half))

    # -- many at once ---------------------------------------------------------------------------
    def predict(self, archs: Sequence[Arch]) -> Floats:
        """Predicted top-1 of each arch, shares (n,)."""
        return self.predict_arrays(ArchArrays.of(self.space, archs))

    def predict_arrays(self, arrays: ArchArrays) -> Floats:
        """As `predict`, of archs as arrays."""
        rows = encode_arrays(self.space, arrays, self.resolutions, self.quality.terms)
        shares: Floats = LINKS[self.quality.link].inverse(rows @ self.weights + self._level)
        return shares

    def intervals(self, archs: Sequence[Arch], confidence: float = 0.95) -> Floats:
        """value, low and high of each arch at a measured resolution, as `estimate` gives them: (n, 3)."""
        scores = self._rows(archs) @ self.weights + self._level
        halves = self._halves(archs, scores, confidence)
        shares: Floats = LINKS[self.quality.link].inverse(np.stack([scores, scores - halves, scores + halves], axis=1))
        return shares

    def _rows(self, archs: Sequence[Arch]) -> Floats:
        return encode(self.space, archs, self.resolutions, self.quality.terms)

    def _halves(self, archs: Sequence[Arch], scores: Floats, confidence: float) -> Floats:
        """Half the width of each interval, on the scores' scale."""
        x = self._rows(archs) - self.mean
        leverage = 1 / self.quality.rows + np.einsum("ij,ij->i", x @ self.spread, x)
        scale: Floats = np.interp(scores, *self.errors) * np.sqrt((1 + leverage) / (1 + self.mean_leverage))
        # Rows of one subnet share its error, so the errors count once per subnet.
        return student_t(confidence, self.quality.subnets - 1) * scale

    def describe(self) -> str:
        """What the model is, in one line a person can judge."""
        q = self.quality
        return (
            f"top-1 on the accuracy table's images, predicted: additive ridge over {q.terms} and resolution, "
            f"{q.link} scale, {q.rows} rows of {q.subnets} subnets; left-out RMSE {100 * q.rmse:.2f} points, "
            f"Spearman {q.spearman:.3f}"
        )

    # -- resolution -----------------------------------------------------------------------------
    def _bend(self, resolution: int) -> float:
        """Bound on the error of linear interpolation: the greatest second divided difference of the offsets
        beside the gap, times the distances to the gap's ends; 0 at measured resolutions."""
        grid = self.resolutions
        after = int(np.searchsorted(grid, resolution))
        if grid[after] == resolution:
            return 0.0
        y = [self.offset(r) for r in grid]
        slopes = np.diff(y) / np.diff(grid)
        seconds = [
            abs(slopes[i + 1] - slopes[i]) / (grid[i + 2] - grid[i])
            for i in (after - 2, after - 1)
            if 0 <= i < len(grid) - 2
        ]
        # With two measured resolutions no curvature is seen; the step between them bounds a monotone curve.
        if not seconds:
            return float(abs(y[after] - y[after - 1]) / 2)
        return float(max(seconds) * (resolution - grid[after - 1]) * (grid[after] - resolution))

    # -- to a file and back ---------------------------------------------------------------------
    def state(self) -> State:
        """Everything but space and resolutions."""
        fields = {"quality": asdict(self.quality), "intercept": self.intercept, "mean_leverage": self.mean_leverage}
        arrays = {
            "mean": self.mean,
            "weights": self.weights,
            "spread": self.spread,
            "error_scores": self.errors[0],
            "errors": self.errors[1],
        }
        return State(fields, arrays)

    @classmethod
    def from_state(cls, space: Space, resolutions: tuple[int, ...], state: State) -> Self:
        """Raises ValueError where the state is none of this kind for this space."""
        quality = state.quality()
        p = encode(space, [space.smallest(resolutions[0])], resolutions, quality.terms).shape[1]
        arrays = state.checked({"mean": (p,), "weights": (p,), "spread": (p, p), "error_scores": None, "errors": None})
        errors = arrays["error_scores"], arrays["errors"]
        return cls(
            space,
            resolutions,
            quality,
            state.number("intercept"),
            arrays["mean"],
            arrays["weights"],
            arrays["spread"],
            state.number("mean_leverage"),
            errors,
        )
