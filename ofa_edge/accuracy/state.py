"""What a fitted predictor is, as JSON fields and arrays: how it gets into a file and, with every part checked, back.

In: fields and arrays, of a predictor or out of a file that anybody may have written. Out: the same, or ValueError
naming the part that is missing, too many, or not of its type and shape.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import DEPTH_PLACES, PLACES
from ofa_edge.accuracy.ridge import LINKS, FitQuality
from ofa_edge.accuracy.validation import Validation

Shape = tuple[int, ...]

_MOST = 1 << 53  # whole numbers up to here are numbers of any other kind, too
_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A predictor's parts besides its space and resolutions."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def number(self, name: str) -> float:
        """A finite number. Raises ValueError."""
        return _number(name, self.fields.get(name))

    def count(self, name: str) -> int:
        """A whole number above 0. Raises ValueError."""
        value = self.fields.get(name)
        if type(value) is not int or not 1 <= value <= _MOST:
            raise ValueError(f"field {name!r} is not a whole number above 0")
        return value

    def object(self, name: str) -> Mapping[str, Any]:
        """A JSON object. Raises ValueError."""
        value = self.fields.get(name)
        if not isinstance(value, dict):
            raise ValueError(f"field {name!r} is not an object")
        return value

    def numbers(self, name: str) -> NDArray[np.float64]:
        """One finite number or more. Raises ValueError."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not value:
            raise ValueError(f"field {name!r} is not a list of numbers")
        return np.array([_number(name, item) for item in value])

    def quality(self) -> FitQuality:
        """The field `quality`. Raises ValueError."""
        value = self.object("quality")
        if set(value) != {field.name for field in fields(FitQuality)}:
            raise ValueError("field 'quality' has not the parts it must have")
        inner = State(value, {})
        if value["link"] not in list(LINKS) or value["terms"] not in (PLACES, DEPTH_PLACES):
            raise ValueError("field 'quality' names an unknown form")
        numbers = {name: inner.number(name) for name in ("ridge", "rmse", "spearman")}
        return FitQuality(inner.count("rows"), inner.count("subnets"), value["link"], value["terms"], **numbers)

    def validation(self) -> Validation:
        """These fields as a Validation. Raises ValueError."""
        return Validation(self.count("folds"), self.number("rmse"), self.number("spearman"))

    def checked(self, shapes: Mapping[str, Shape | None], dtype: type = np.float64) -> Mapping[str, NDArray[Any]]:
        """The arrays, which are exactly these, of these shapes (None: one axis, as long as all others of None),
        finite and of one type. Raises ValueError."""
        if missing := sorted(shapes.keys() - self.arrays.keys()):
            raise ValueError(f"array {missing[0]!r} is missing")
        if extra := sorted(self.arrays.keys() - shapes.keys()):
            raise ValueError(f"there is an unknown array {extra[0][:80]!r}")
        free = {self.arrays[name].shape for name, shape in shapes.items() if shape is None}
        if free and (len(free) > 1 or len(next(iter(free))) != 1 or next(iter(free))[0] < 1):
            raise ValueError("the errors and their scores are not two lists of one length")
        for name, shape in shapes.items():
            value = self.arrays[name]
            if shape is not None and value.shape != shape:
                raise ValueError(f"array {name!r} has shape {value.shape}, not {shape}")
            if value.dtype != dtype:
                raise ValueError(f"array {name!r} is of type {value.dtype}, not {np.dtype(dtype)}")
            if not np.isfinite(value).all():
                raise ValueError(f"array {name!r} holds a value that is not finite")
        return self.arrays


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"field {name!r} is not a number")
    return float(value)
