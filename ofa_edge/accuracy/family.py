"""The predictors of top-1 as one family: fitted on a table, cross-validated alike, kept in one form of file.

In: an accuracy table and the name of a kind, or a file. Out: a `Fitted`. Kinds: `additive` (default, the one that
search can be exact about), `pairwise`, `mlp` (Once-for-All's, trained in torch). Rules kept: what comes out is a
prediction of top-1 on the table's own images and says so; the cross-validation of every kind leaves the same subnets
out together and fits again without them; a file is safetensors with a JSON header, names the table it was fitted on,
and is checked part by part before anything of it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ofa_edge import strict_json, tensor_file
from ofa_edge.accuracy.interpolation import interpolate_all
from ofa_edge.accuracy.mlp import MlpAccuracy
from ofa_edge.accuracy.pairwise import PairwiseAccuracy
from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.accuracy.state import State
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.accuracy.validation import VALIDATION_FOLDS, Rows, Validation, left_out
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import read_bytes, write_result
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays
from ofa_edge.space.spaces import named, own_definition

Floats = NDArray[np.float64]

SCHEMA = "accuracy-predictor"
VERSION = (1, 0)
KINDS = ("additive", "pairwise", "mlp")
MAX_FILE_BYTES = 1 << 30
_HEADER = "ofa-edge"
# Fields that a Fitted and the header of its file share.
_SAID = ("rows", "subnets", "table", "checkpoint", "data", "seed")


class AccuracyPredictor(Protocol):
    """Top-1 of subnets on a table's images, predicted for many archs at once."""

    @property
    def kind(self) -> str: ...

    @property
    def space(self) -> Space: ...

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those measured, rising."""
        ...

    def predict(self, archs: Sequence[Arch]) -> Floats:
        """Shares (n,) of archs at measured resolutions."""
        ...

    def predict_arrays(self, arrays: ArchArrays) -> Floats:
        """As `predict`, of archs as arrays."""
        ...

    def intervals(self, archs: Sequence[Arch], confidence: float = ...) -> Floats:
        """value, low and high (n, 3) of archs at measured resolutions."""
        ...

    def describe(self) -> str: ...

    def state(self) -> State: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A predictor and where it comes from.

    Attributes:
        validation: of subnets that were left out of the fit.
        table, checkpoint, data: of the accuracy table: hex sha256, its header's checkpoint and words.
        seed: of folds, and of the network's training.
    """

    predictor: AccuracyPredictor
    validation: Validation
    rows: int
    subnets: int
    table: str
    checkpoint: str
    data: str
    seed: int

    def estimates(self, archs: Sequence[Arch], confidence: float = 0.95) -> list[Top1]:
        """Predictions with intervals, in FLOPs between measured resolutions (interpolation.py).

        Raises:
            UsageError: an arch is not in the space, or its resolution lies outside those measured.
            BadFile: the predictor, read from a file, gives no numbers.
        """
        predictor = self.predictor
        for arch in archs:
            predictor.space.check(arch)
        with np.errstate(all="ignore"):  # what comes of it is seen below
            bounds = interpolate_all(
                predictor.space, archs, predictor.resolutions, lambda on_grid: predictor.intervals(on_grid, confidence)
            )
        if not np.isfinite(bounds).all():
            raise BadFile(
                "the predictor's numbers give no prediction, so its file is not as it was written",
                hint="make it again with `ofa-edge predictor fit`",
            )
        return [Top1(*map(float, row)) for row in bounds]


# -- fitting ------------------------------------------------------------------------------------
def fit(
    kind: str, space: Space, table: AccuracyTable, *, seed: int = 0, report: Callable[[], None] = lambda: None
) -> Fitted:
    """Fit and cross-validate one kind of predictor.

    Args:
        report: called after each of the VALIDATION_FOLDS + 1 fits.

    Raises:
        UsageError: there is no such kind, the table has too few subnets, or too many rows for this kind.
        ModuleNotFoundError: the kind needs torch, which is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no predictor {kind!r}", hint=f"use --kind {'|'.join(KINDS)}")
    rows = Rows.of_table(space, table)
    predictor, validation = _fit_mlp(rows, seed, report) if kind == "mlp" else _fit_ridge(kind, rows, seed, report)
    subnets = rows.subnets
    header = table.header
    return Fitted(predictor, validation, len(rows), subnets, table.sha256, header.checkpoint, header.data, seed)


def _fit_ridge(
    kind: str, rows: Rows, seed: int, report: Callable[[], None]
) -> tuple[AdditiveAccuracy | PairwiseAccuracy, Validation]:
    family = AdditiveAccuracy if kind == "additive" else PairwiseAccuracy
    fitted = family.fit_measured(rows, seed=seed)  # first: it says at once what it cannot do
    report()

    def predictor(part: Rows) -> Callable[[Sequence[Arch]], Floats]:
        found = family.fit_measured(part, seed=seed).predict
        report()
        return found

    return fitted, Validation.of(VALIDATION_FOLDS, left_out(rows, predictor, seed), rows)


def _fit_mlp(rows: Rows, seed: int, report: Callable[[], None]) -> tuple[MlpAccuracy, Validation]:
    from ofa_edge.accuracy import mlp_training

    fitted = mlp_training.fit(rows, seed=seed, report=report)
    return fitted, fitted.validation


# -- files --------------------------------------------------------------------------------------
class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["additive", "pairwise", "mlp"]
    space: str
    definition: dict[str, Any] | None = None
    resolutions: list[int] = Field(min_length=1)
    rows: int = Field(ge=1)
    subnets: int = Field(ge=1)
    validation: dict[str, Any]
    table: str = Field(pattern="^[0-9a-f]{64}$")
    checkpoint: str
    data: str
    seed: int = Field(ge=0)
    fields: dict[str, Any]


def save(fitted: Fitted, path: Path | str) -> str:
    """Write a predictor's file in one step (temporary file, fsync, rename); returns its hex sha256.

    Raises:
        OfaEdgeError: it cannot be written.
    """
    predictor, path = fitted.predictor, Path(path)
    state = predictor.state()
    header = {
        "schema": SCHEMA,
        "version": f"{VERSION[0]}.{VERSION[1]}",
        "kind": predictor.kind,
        "space": predictor.space.name,
        "definition": own_definition(predictor.space),
        "resolutions": list(predictor.resolutions),
        "validation": asdict(fitted.validation),
        **{name: getattr(fitted, name) for name in _SAID},
        "fields": dict(state.fields),
    }
    arrays = {name: np.ascontiguousarray(value) for name, value in sorted(state.arrays.items())}
    content = tensor_file.serialise(arrays, {_HEADER: strict_json.dumps(header)})
    write_result(path, content)
    return hashlib.sha256(content).hexdigest()


def is_one(start: bytes) -> bool:
    """Whether a file with these first 100 bytes or more is meant to be a predictor's."""
    return SCHEMA.encode() in start


def load(path: Path | str, space: Space | None = None) -> Fitted:
    """Read a predictor's file; `space` is looked up by name where it is not given.

    Raises:
        UsageError: it cannot be opened, or its space is unknown.
        BadFile: it is no predictor of a version this ofa-edge reads, or a part of it is wrong.
    """
    content = read_bytes(path, MAX_FILE_BYTES + 1)
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        return _parse(content, space)
    except (ValueError, UsageError, BadFile) as error:
        raise BadFile(
            f"{path} is not a predictor of this version: {error}", hint="make one with `ofa-edge predictor fit`"
        ) from error


def _parse(content: bytes, space: Space | None) -> Fitted:
    """Raises ValueError or UsageError, naming what is wrong."""
    try:
        arrays, metadata = tensor_file.parse(content)
        text = metadata[_HEADER]
    except (ValueError, KeyError) as error:
        raise ValueError("it does not say that it is one") from error
    value = strict_json.loads(text)
    header = _header(value)
    space = space or named(header.space, header.definition, "it")
    if space.name != header.space:
        raise ValueError(f"it is of space {header.space}, not of {space.name}")
    resolutions = tuple(header.resolutions)
    if list(resolutions) != sorted(set(resolutions)) or not set(resolutions) <= set(space.resolutions):
        raise ValueError("its resolutions are not those of its space, rising")
    state = State(header.fields, arrays)
    families: Mapping[str, type[AdditiveAccuracy | PairwiseAccuracy | MlpAccuracy]] = {
        family.kind: family for family in (AdditiveAccuracy, PairwiseAccuracy, MlpAccuracy)
    }
    predictor = families[header.kind].from_state(space, resolutions, state)
    validation = State(header.validation, {}).validation()
    more = {name: getattr(header, name) for name in _SAID}
    return Fitted(predictor, validation, **more)


def _header(value: Any) -> _Header:
    if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA:
        raise ValueError("it does not say that it is one")
    version = str(value.pop("version", None))
    if version != f"{VERSION[0]}.{VERSION[1]}":
        raise ValueError(f"its version is {version[:20]!r}, this ofa-edge reads {VERSION[0]}.{VERSION[1]}")
    try:
        return _Header.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"header field {'.'.join(map(str, first['loc']))!r}: {first['msg']}") from None
