"""Once-for-All's accuracy predictor (Cai et al., ICLR 2020, appendix A): three hidden layers on one-hot archs.

In: weights that mlp_training.py trained, or a file. Out: `MlpAccuracy`. Rule kept: predictions are numpy, so they need
no torch; the base accuracy, the mean of what was measured, is added to what the network says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import ONE_HOT, encode, encode_arrays
from ofa_edge.accuracy.state import State
from ofa_edge.accuracy.validation import Rows, Validation, errors_by_score
from ofa_edge.quantiles import student_t
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

HIDDEN = (400, 400, 400)

# Archs predicted at once, so that what a layer gives stays in the cache.
_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class MlpAccuracy:
    """top-1 = base + network(arch), as a share.

    Attributes:
        rows, subnets: what it was fitted on.
        validation: of left-out subnets, from fits of their own.
        base: mean top-1 of the rows.
        layers: (weights (in, out), biases (out,)) of each layer; the last one's bias is 0, as in the paper's code.
        errors: predicted shares, rising, and the left-out root mean square error around each.
    """

    kind: ClassVar[str] = "mlp"
    space: Space
    resolutions: tuple[int, ...]
    rows: int
    subnets: int
    validation: Validation
    base: float
    layers: tuple[tuple[Singles, Singles], ...]
    errors: tuple[Floats, Floats]

    @classmethod
    def of(cls, rows: Rows, layers: Any, scale: float, predicted: Floats, folds: int) -> MlpAccuracy:
        """Put together what was trained on rows.

        Args:
            layers: of a network trained on (top-1 - its mean) / scale.
            predicted: top-1 of each row by fits without its fold, (rows,).
        """
        *hidden, (last, zero) = layers
        return cls(
            space=rows.space,
            resolutions=rows.resolutions,
            rows=len(rows),
            subnets=rows.subnets,
            validation=Validation.of(folds, predicted, rows),
            base=float(rows.shares.mean()),
            layers=(*hidden, (last * np.float32(scale), zero)),
            errors=errors_by_score(predicted, predicted - rows.shares),
        )

    # -- predictions ----------------------------------------------------------------------------
    def predict(self, archs: Sequence[Arch]) -> Floats:
        """Predicted top-1 of each arch at a measured resolution, shares (n,)."""
        return self.predict_arrays(ArchArrays.of(self.space, archs))

    def predict_arrays(self, arrays: ArchArrays) -> Floats:
        """As `predict`, of archs as arrays."""
        said = np.empty(len(arrays))
        for first in range(0, len(arrays), _ROWS):
            some = slice(first, first + _ROWS)
            columns = encode_arrays(self.space, arrays.take(some), self.resolutions, ONE_HOT)
            said[some] = forward(self.layers, columns)
        return np.clip(self.base + said, 0.0, 1.0)

    def intervals(self, archs: Sequence[Arch], confidence: float = 0.95) -> Floats:
        """value, low and high of each arch at a measured resolution: (n, 3).

        Student's t over the left-out errors of rows with about this top-1. The network does not say how far an arch is
        from those it has seen, so an interval is as wide for an unusual subnet as for a common one.
        """
        values = self.predict(archs)
        # Rows of one subnet share its error, so the errors count once per subnet.
        half = student_t(confidence, self.subnets - 1) * np.interp(values, *self.errors)
        return np.clip(np.stack([values, values - half, values + half], axis=1), 0.0, 1.0)

    def describe(self) -> str:
        """What the model is, in one line a person can judge."""
        found = self.validation
        return (
            f"top-1 on the accuracy table's images, predicted: network of {len(HIDDEN)} hidden layers of {HIDDEN[0]} "
            f"on one-hot archs, {self.rows} rows of {self.subnets} subnets; left-out RMSE {100 * found.rmse:.2f} "
            f"points, Spearman {found.spearman:.3f}"
        )

    # -- to a file and back ---------------------------------------------------------------------
    def state(self) -> State:
        """Everything but space and resolutions."""
        fields = {
            "rows": self.rows,
            "subnets": self.subnets,
            "base": self.base,
            "validation": asdict(self.validation),
            "error_scores": self.errors[0].tolist(),
            "errors": self.errors[1].tolist(),
        }
        arrays = {}
        for i, (weights, biases) in enumerate(self.layers):
            arrays[f"layers.{i}.weights"] = weights
            arrays[f"layers.{i}.biases"] = biases
        return State(fields, arrays)

    @classmethod
    def from_state(cls, space: Space, resolutions: tuple[int, ...], state: State) -> Self:
        """Raises ValueError where the state is none of this kind for this space."""
        p = encode(space, [space.smallest(resolutions[0])], resolutions, ONE_HOT).shape[1]
        widths = [p, *HIDDEN, 1]
        shapes: dict[str, tuple[int, ...] | None] = {}
        for i, (before, after) in enumerate(pairwise(widths)):
            shapes[f"layers.{i}.weights"] = (before, after)
            shapes[f"layers.{i}.biases"] = (after,)
        arrays = state.checked(shapes, np.float32)
        layers = tuple((arrays[f"layers.{i}.weights"], arrays[f"layers.{i}.biases"]) for i in range(len(HIDDEN) + 1))
        validation = State(state.object("validation"), {}).validation()
        errors = state.numbers("error_scores"), state.numbers("errors")
        if len(errors[0]) != len(errors[1]):
            raise ValueError("the errors and their scores are not two lists of one length")
        rows, subnets, base = state.count("rows"), state.count("subnets"), state.number("base")
        return cls(space, resolutions, rows, subnets, validation, base, layers, errors)


def forward(layers: Sequence[tuple[Singles, Singles]], columns: Floats) -> Floats:
    """What the network says of encoded archs, (n,)."""
    x = columns.astype(np.float32)
    *hidden, (last, bias) = layers
    for weights, biases in hidden:
        x = x @ weights
        x += biases
        np.maximum(x, 0, out=x)
    said: Floats = (x @ last + bias)[:, 0].astype(np.float64)
    return said
