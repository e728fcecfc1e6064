"""Top-1 at input sizes that were not measured: Once-for-All's interpolation in FLOPs.

In: accuracies, measured or predicted, of one subnet at the input sizes of a coarse grid (every 16 pixels in the paper).
Out: its accuracy at a size between two of them, r0 < r < r1 (Cai et al., ICLR 2020, appendix on elastic resolution):

    Acc(r) = Acc(r0) + (Acc(r1) - Acc(r0)) x (F(r) - F(r0)) / (F(r1) - F(r0))

with F the multiply-accumulates of that very subnet at each size. Rule kept: nothing outside the grid is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.cost import cost

Floats = NDArray[np.float64]

# The paper's grid: of a space whose sizes lie closer, every size that 16 divides is measured.
GRID_STEP = 16


def measured_resolutions(resolutions: Sequence[int]) -> tuple[int, ...]:
    """Which input sizes of a space to measure: all, or where they lie 4 pixels apart those of the paper's grid."""
    sizes = sorted(set(resolutions))
    grid = tuple(r for r in sizes if r % GRID_STEP == 0)
    steps = {after - before for before, after in pairwise(sizes)}
    # Nothing is interpolated beyond the grid, so the ends must be on it.
    if steps == {4} and grid and (grid[0], grid[-1]) == (sizes[0], sizes[-1]):
        return grid
    return tuple(sizes)


def between(space: Space, arch: Arch, grid: tuple[int, ...]) -> tuple[int, int, float]:
    """The neighbours r0 <= r <= r1 of an arch's resolution in a grid, and (F(r) - F(r0)) / (F(r1) - F(r0)); the same
    size twice and 0 where it is on the grid.

    Raises:
        UsageError: the resolution lies outside the grid.
    """
    r = arch.resolution
    if r in grid:
        return r, r, 0.0
    if not grid or not grid[0] < r < grid[-1]:
        measured = f"{grid[0]}..{grid[-1]}" if grid else "nothing"
        raise UsageError(
            f"resolution {r} lies outside the accuracy table's {measured}",
            hint=f"measure it: `ofa-edge evaluate --resolutions {r} --resume`",
        )
    after = int(np.searchsorted(grid, r))
    r0, r1 = grid[after - 1], grid[after]
    f0, f, f1 = (cost(space.blocks(arch.at(size))).macs for size in (r0, r, r1))
    return r0, r1, (f - f0) / (f1 - f0)


def interpolate_all(
    space: Space, archs: Sequence[Arch], grid: tuple[int, ...], at_grid: Callable[[Sequence[Arch]], Floats]
) -> Floats:
    """Rows of values for archs at any resolution within a grid, from a function that gives them on the grid.

    Args:
        at_grid: archs on the grid -> (n, k).

    Returns:
        (n, k), each column interpolated by itself.

    Raises:
        UsageError: a resolution lies outside the grid.
    """
    found = [between(space, arch, grid) for arch in archs]
    low = at_grid([arch.at(r0) for arch, (r0, _, _) in zip(archs, found, strict=True)])
    off = [i for i, (r0, r1, _) in enumerate(found) if r0 != r1]
    if off:
        high = at_grid([archs[i].at(found[i][1]) for i in off])
        shares = np.array([found[i][2] for i in off])[:, None]
        low[off] += (high - low[off]) * shares
    return low
