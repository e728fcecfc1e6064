"""Archs as columns of numbers: what every accuracy predictor sees of a subnet.

In: a Space and archs, or the choices of one stage. Out: float64 arrays with one row per arch. Rules kept: a choice is
a column that is 1 where it is taken (one-hot), and a skipped block has only zeros, as in Once-for-All's own encoders
(Cai et al., ICLR 2020, appendix A); expand ratios that are no whole numbers, elastic widths and a stem's depth are
choices like any other. The order of columns is fixed: resolutions, stages, then what stages do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space, Stage
from ofa_edge.space.arrays import StageArrays

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
    parts = [hat(np.array([arch.resolution for arch in archs]), resolutions)]
    for s, stage in enumerate(space.stages):
        parts.append(stage_columns(stage, StageArrays.of(stage, [arch.stages[s] for arch in archs]), terms))
    parts.append(shared_columns(space, archs))
    return np.concatenate(parts, axis=1)


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
    columns = [np.interp(resolution, grid, np.eye(len(grid))[i]) for i in range(len(grid))]
    return np.stack(columns, axis=1)


def stage_columns(stage: Stage, values: StageArrays, terms: str) -> Floats:
    """The columns of one stage for n choices: kernel and expand of every active place, for all terms but 'one-hot'
    also its depth, and with 'depth x places' those of every place once per depth. An axis of one value has no column,
    unless nothing else says that a place is active."""
    elastic_depth = len(stage.depths) > 1
    expands = stage.expands if len(stage.expands) > 1 else ()
    says_active = terms == ONE_HOT and not expands
    kernels = stage.kernels if len(stage.kernels) > 1 or says_active else ()
    columns = [values.depth == depth for depth in stage.depths if elastic_depth and terms != ONE_HOT]
    places, kernel, expand = [], values.kernel, values.expand
    for i in range(stage.max_depth):
        places += [kernel[:, i] == k for k in kernels]
        places += [expand[:, i] == e for e in expands]
    columns += places
    if terms == DEPTH_PLACES and elastic_depth:
        per_place = len(places) // stage.max_depth
        for depth in stage.depths:
            columns += [place & (values.depth == depth) for place in places[: depth * per_place]]
    if not columns:
        return np.zeros((len(values), 0))
    return np.stack(columns, axis=1).astype(np.float64)


def stage_width(stage: Stage, terms: str) -> int:
    """How many columns `stage_columns` makes."""
    return len(stage_columns(stage, StageArrays.of(stage, []), terms).T)


def shared_columns(space: Space, archs: Sequence[Arch]) -> Floats:
    """Columns of the choices that belong to no stage's blocks: each elastic width, then the stem's depth."""
    columns = [
        [arch.widths[place] == width for arch in archs]
        for place, choices in enumerate(space.width_choices)
        for width in sorted(set(choices))  # two multipliers may round to one width
        if len(set(choices)) > 1
    ]
    if len(space.stem.depths) > 1:
        columns += [[arch.stem_depth == depth for arch in archs] for depth in space.stem.depths]
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(archs)).T
