"""What a later round measures, and for how long: pure.

In: rows of a campaign so far. Out: seconds of each block, or the blocks to measure once more. Rules kept: a block is
timed longer where its own last interval was wide, not where processes differ, which longer timing cannot mend; once
more are measured the disturbed blocks and those whose combined interval is the widest; none where the machine is
simply busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ofa_edge.latency.judging import combine
from ofa_edge.latency.plan import Effort
from ofa_edge.latency.table import disturbed_rows

# Where more blocks than this share were disturbed the machine is busy, and measuring them again changes nothing.
BUSY_SHARE = 0.3

Rows = Sequence[Mapping[str, Any]]


def seconds(blocks: Rows, number: int, effort: Effort) -> dict[str, float]:
    """Key -> how long a block is timed for in round `number`; what is not in it has no measurement yet."""
    if number == 0 or not blocks:
        return {}
    last = pd.DataFrame.from_records(blocks).drop_duplicates("key", keep="last")
    wide = disturbed_rows(last) | (combine.widths(last) > effort.block_rel) | (number >= effort.rounds)
    given = np.where(wide, effort.wide_seconds, effort.narrow_seconds)
    return dict(zip(last["key"], given.tolist(), strict=True))


def again(blocks: Rows, sentinels: Rows, effort: Effort) -> tuple[set[str], bool]:
    """Keys of the blocks to measure once more, and whether disturbed ones are among them."""
    if not blocks:
        return set(), False
    frame = pd.DataFrame.from_records(blocks)
    of_sentinel = pd.DataFrame.from_records(sentinels, columns=["session", "round", "at", "median"])
    known = combine.combine(frame, disturbed_rows(frame), of_sentinel)
    disturbed, wide = known["disturbed"].to_numpy(bool), combine.widths(known)
    if disturbed.mean() > BUSY_SHARE:
        return set(), False
    found = np.flatnonzero(disturbed | (wide > effort.block_rel))
    first = found[np.lexsort((-wide[found], ~disturbed[found]))]
    count = max(int(disturbed.sum()), round(effort.again * len(known)))
    return set(known["key"].iloc[first[:count]]), bool(disturbed.any())
