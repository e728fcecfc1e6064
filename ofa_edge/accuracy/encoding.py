"""Archs as columns of numbers: what every accuracy predictor sees of a subnet.

In: a Space and archs, one by one or as arrays, or the choices of one stage. Out: float64 arrays with one row per arch.
Rules kept: there is one encoder, so what is fitted and what is searched are the same columns; a choice is
a column that is 1 where it is taken (one-hot), and a skipped block has only zeros, as in Once-for-All's own encoders
(Cai et al., ICLR 2020, appendix A); expand ratios that are no whole numbers, elastic widths and a stem's depth are
choices like any other. The order of columns is fixed: resolutions, stages, then what stages do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.population import ArchArrays

Floats = NDArray[np.float64]

# What a stage gives columns for: its active places; these and its depth; these and every place once per depth.
ONE_HOT = "one-hot"
PLACES = "places"
DEPTH_PLACES = "depth x places"


def encode(space: Space, archs: Sequence[Arch], resolutions: tuple[int, ...], terms: str) -> Floats:
    """One row per arch: resolution, each stage's columns, elastic widths and the stem's depth.

    Raises:
        UsageError: a resolution lies outside `resolutions`.
    """
    return encode_arrays(space, ArchArrays.of(space, archs), resolutions, terms)


def encode_arrays(space: Space, arrays: ArchArrays, resolutions: tuple[int, ...], terms: str) -> Floats:
    """As `encode`, of archs as arrays: (n, columns).

    Raises:
        UsageError: a resolution lies outside `resolutions`.
    """
    parts = [hat(arrays.resolution, resolutions)]
    parts += [stage_columns(stage, arrays.stage(s), terms) for s, stage in enumerate(space.stages)]
    return np.concatenate([*parts, shared_columns(arrays)], axis=1)


def hat(resolution: NDArray[np.int64], grid: tuple[int, ...]) -> Floats:
    """Linear interpolation weights on the measured resolutions (one-hot at them): (n, len(grid)).

    Raises:
        UsageError: a resolution outside the grid.
    """
    outside = resolution[(resolution < grid[0]) | (resolution > grid[-1])]
    if len(outside):
        raise UsageError(
            f"resolution {outside[0]} lies outside the accuracy table's {grid[0]}..{grid[-1]}",
            hint=f"measure it: `ofa-edge evaluate --resolutions {outside[0]} --resume`",
        )
    between = np.arange(grid[0], grid[-1] + 1)
    weights = np.stack([np.interp(between, grid, row) for row in np.eye(len(grid))], axis=1)
    found: Floats = weights[resolution - grid[0]]
    return found


def stage_columns(stage: Stage, values: StageArrays, terms: str) -> Floats:
    """The columns of one stage for n choices: kernel and expand of every active place, for all terms but 'one-hot'
    also its depth, and with 'depth x places' those of every place once per depth. An axis of one value has no column,
    unless nothing else says that a place is active."""
    elastic_depth = len(stage.depths) > 1
    parts = []
    if elastic_depth and terms != ONE_HOT:
        parts.append((values.depth[:, None] == np.asarray(stage.depths)).astype(np.float64))
    of_code = _code_columns(stage, terms)
    places = of_code[values.code].reshape(len(values), stage.max_depth * of_code.shape[1])
    parts.append(places)
    if terms == DEPTH_PLACES and elastic_depth:
        for depth in stage.depths:
            parts.append(places[:, : depth * of_code.shape[1]] * (values.depth == depth)[:, None])
    return np.concatenate(parts, axis=1)


def _code_columns(stage: Stage, terms: str) -> Floats:
    """What one place adds: (codes, columns), by StageArrays.code; zeros where it is inactive."""
    expands = stage.expands if len(stage.expands) > 1 else ()
    says_active = terms == ONE_HOT and not expands
    kernels = stage.kernels if len(stage.kernels) > 1 or says_active else ()
    blocks = [(kernel, expand) for kernel in stage.kernels for expand in stage.expands]
    rows = [[*(kernel == k for k in kernels), *(expand == e for e in expands)] for kernel, expand in blocks]
    found = np.zeros((1 + len(blocks), len(kernels) + len(expands)))
    found[1:] = np.array(rows).reshape(len(blocks), -1)
    return found


@lru_cache(maxsize=256)
def stage_width(stage: Stage, terms: str) -> int:
    """How many columns `stage_columns` makes."""
    return len(stage_columns(stage, StageArrays.of(stage, []), terms).T)


def shared_columns(arrays: ArchArrays) -> Floats:
    """Columns of the choices that belong to no stage's blocks: each elastic width, then the stem's depth."""
    parts = [np.zeros((len(arrays), 0))]
    for place, of_value in shared_values(arrays.space):
        parts.append(of_value[arrays.stem_depth if place is None else arrays.widths[:, place]])
    return np.concatenate(parts, axis=1)


def shared_values(space: Space) -> list[tuple[int | None, Floats]]:
    """The place of each elastic width in an arch's widths, None for the stem's depth, with the columns (values, k) of
    its values by their numbers; where there is one value only it is left out."""
    found: list[tuple[int | None, Floats]] = []
    for place, choices in enumerate(space.width_choices):
        different = sorted(set(choices))  # two multipliers may round to one width
        if len(different) > 1:
            found.append((place, (np.asarray(choices)[:, None] == np.array(different)).astype(np.float64)))
    if len(space.stem.depths) > 1:
        found.append((None, np.eye(len(space.stem.depths))))
    return found
