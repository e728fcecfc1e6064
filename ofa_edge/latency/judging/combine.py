"""Many measurements of a block -> one value with an honest interval.

In: all rows of a table's blocks, which of them were disturbed, and its sentinels. Out: a frame of one row a key.
Rules kept: a *segment* is one round of one session, one worker process; of one key and segment the last undisturbed
measurement counts; disturbed ones are left out where there are others, else the narrowest stands alone. A trend inside
a segment is removed, and segments are brought to one level by the blocks they share (by the sentinel where they share
too few). A measurement far above another of the same block is left out: machines slow down by a tenth or two for
seconds, without a flag and for all of a short measurement, and never speed up. What is left between segments is what a
process does to a block, and widens the interval; so does a block whose own rounds disagree by more than that. Rows of
one segment come out as they were measured, but for its trend.
Everything is by column: 100,000 rows take a fraction of a second.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ofa_edge.latency import stats
from ofa_edge.latency.stats import Drift, Sentinel, Z

# From a quantile of absolute deviations to the standard deviation of a normal. With a sixth of the rows slowed, two
# blocks in five have one, which is too near the median: the quarter is asked which rows are.
_MEDIAN_TO_STD, _QUARTER_TO_STD = stats.MAD_TO_STD, 3.1383
# A row is slowed where it is above its block's lowest by more than this many standard deviations between processes,
# and by more than so much: of 3 x 1,257 measurements on a shared server 8 to 20 % were 8 to 25 % above the lowest.
_SLOWED_Z = 5.0
_SLOWED_LEAST = 0.05
# Keys that two segments must share before their levels are compared by them: the median of 20 log ratios of 2 % each
# is good to .6 %, a sentinel's own luck in a process is 1-2 %.
_SHARED = 20
_POLISHES = 6  # of levels against keys; two segments settle in two
_FAR = 1e7  # seconds; no session is longer
_ROUND_BITS = 20  # a segment's number is session << 20 | round
_SCALED = ("min", "p10", "median", "p90", "low", "high", "mean", "std")
_AVERAGED = ("p10", "median", "p90", "mean")


def segments(frame: pd.DataFrame) -> np.ndarray:
    """The segment of each row, as a number; tables from before there were rounds have one a session. Numbers that no
    campaign writes fall together."""
    session = np.clip(frame["session"].to_numpy(float), 0, 1 << (62 - _ROUND_BITS - 1)).astype(np.int64)
    if "round" not in frame:
        return np.asarray(session << _ROUND_BITS)
    rounds = np.clip(frame["round"].fillna(0).to_numpy(float), 0, (1 << _ROUND_BITS) - 1).astype(np.int64)
    return np.asarray((session << _ROUND_BITS) + rounds)


def drift(sentinels: pd.DataFrame) -> Drift:
    """What the sentinels say about each segment; `trends` is by the numbers of `segments`."""
    columns = (segments(sentinels), sentinels["at"].to_numpy(), sentinels["median"].to_numpy())
    return stats.drift([Sentinel(int(s), float(t), float(m)) for s, t, m in zip(*columns, strict=True)])


def combine(frame: pd.DataFrame, disturbed: np.ndarray, sentinels: pd.DataFrame) -> pd.DataFrame:
    """One row a key, in the order of the rows that count.

    Args:
        frame: rows of blocks: key, session, at, n, the figures in ms, `round` where rows have one, anything else.
        disturbed: which of them were.
        sentinels: the table's.

    Returns:
        Columns of `frame` (those that are not figures: of the row that counts), `disturbed`, `rounds`, the number of
        rows in the value, and `slowed`, the number that were left out because the machine was slow.
    """
    if frame.empty:
        return frame.assign(disturbed=np.zeros(0, bool), rounds=np.zeros(0, int), slowed=np.zeros(0, int))
    rows = np.flatnonzero(_counted(frame, disturbed))
    frame = frame.iloc[rows].assign(disturbed=disturbed[rows])
    segment = segments(frame)
    key = pd.factorize(frame["key"])[0]
    trends = drift(sentinels)
    factor = _trend_factor(trends, segment, frame["at"].to_numpy(float))
    if (segment != segment[0]).any():
        logs = np.log(frame["median"].to_numpy(float) / factor)
        factor *= np.exp(_levels(logs, key, segment, trends))
    frame = frame.assign(**{c: frame[c].to_numpy(float) / factor for c in _SCALED})
    slowed = _slowed(np.log(frame["median"].to_numpy(float)), key)
    left_out = np.bincount(key, slowed).astype(np.int64)
    frame, key = frame[~slowed], key[~slowed]
    last = np.zeros(len(frame), bool)
    last[len(frame) - 1 - np.unique(key[::-1], return_index=True)[1]] = True
    counts = np.bincount(key)
    found = frame[last].assign(rounds=counts[key[last]], slowed=left_out[key[last]])
    if counts.max() > 1:
        found = found.assign(**{c: values[key[last]] for c, values in _combined(frame, key, counts).items()})
    return found.reset_index(drop=True)


def widths(frame: pd.DataFrame) -> np.ndarray:
    """Relative half-width of each row's interval."""
    return np.asarray((frame["high"].to_numpy(float) - frame["low"].to_numpy(float)) / 2 / frame["median"])


def _counted(frame: pd.DataFrame, disturbed: np.ndarray) -> np.ndarray:
    """Mask of the rows that a value is made of."""
    key = pd.factorize(frame["key"])[0]
    quiet = np.bincount(key, ~disturbed) > 0
    # Last of each key and segment where it is quiet; the narrowest of each key where nothing was.
    group = np.where(quiet[key], segments(frame), -1)
    preference = np.where(disturbed, np.where(quiet[key], -np.inf, -1 - widths(frame)), 0.0)
    order = np.lexsort((np.arange(len(frame)), preference, group, key))
    ends = np.append((np.diff(key[order]) != 0) | (np.diff(group[order]) != 0), True)
    counted = np.zeros(len(frame), bool)
    counted[order[ends]] = True
    return np.asarray(counted & (~disturbed | ~quiet[key]))


def _slowed(logs: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Mask of the rows that were taken while the machine was slow."""
    counts = np.bincount(key)
    least = np.full(len(counts), np.inf)
    np.minimum.at(least, key, logs)
    above = logs - least[key]
    apart = _apart(logs, key, counts)
    deviation = _QUARTER_TO_STD * float(np.quantile(apart, 0.25)) if len(apart) else 0.0
    return np.asarray(above > max(_SLOWED_LEAST, _SLOWED_Z * deviation))


def _apart(logs: np.ndarray, key: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How far rows are from their block's mean, as one row's deviation; of blocks with several."""
    several = counts[key] > 1
    means = np.bincount(key, logs) / np.maximum(1, counts)
    scale = np.sqrt(counts[key[several]] / (counts[key[several]] - 1))
    return np.asarray(np.abs(logs - means[key])[several] * scale)


def _trend_factor(trends: Drift, segment: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How much slower than its segment's middle the machine was at each row.

    A segment without a level of its own (one alone) has a trend around the common one."""
    factor = np.ones(len(segment))
    for number, trend in trends.trends.items():
        own = segment == number
        factor[own] = 1 + trend.slope / trend.level * np.clip(at[own] - trend.middle, -_FAR, _FAR)
    return np.clip(factor, 0.1, 10.0)  # a line carried far beyond its sentinels must not turn times around


def _levels(logs: np.ndarray, key: np.ndarray, segment: np.ndarray, trends: Drift) -> np.ndarray:
    """Log level of each row's segment; their mean over the rows is 0.

    Medians of segments against means of keys in turns (Tukey's median polish), over the keys that several segments
    have. A segment that shares too few keys takes the sentinel's level, if that has one.
    """
    numbers, place = np.unique(segment, return_inverse=True)
    shared = np.bincount(key)[key] > 1
    enough = np.bincount(place, shared, len(numbers)) >= _SHARED
    said = [trends.trends[n].level / trends.reference if n in trends.trends else 1.0 for n in numbers.tolist()]
    by_sentinel = np.log(np.array(said))
    levels = by_sentinel.copy()
    used = shared & enough[place]
    if used.any():
        rows, keys = place[used], key[used]
        of_segment = [np.flatnonzero(rows == i) for i in range(len(numbers))]
        for _ in range(_POLISHES):
            rest = logs[used] - levels[rows]
            means = np.bincount(keys, rest) / np.maximum(1, np.bincount(keys))
            over = rest - means[keys]
            levels += [float(np.median(over[own])) if len(own) else 0.0 for own in of_segment]
        # The shared ones as a whole stay where the sentinel puts them.
        levels[enough] += np.mean(by_sentinel[enough]) - np.mean(levels[enough])
    found = levels[place]
    return np.asarray(found - found.mean())


def _combined(frame: pd.DataFrame, key: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each key number. Inverse-variance weights in log space; a row's variance is its interval's and what
    a process does to a block; keys whose rows disagree by more (Birge's ratio) get the wider interval."""
    logs = np.log(frame["median"].to_numpy(float))
    own = np.maximum(widths(frame) / Z, 1e-6) ** 2
    between = _between(logs, own, key, counts)
    weight = 1 / (own + between)
    total = np.bincount(key, weight)
    middle = np.bincount(key, weight * logs) / total
    excess = np.bincount(key, weight * (logs - middle[key]) ** 2) / np.maximum(1, counts - 1)
    half = Z * np.sqrt(np.maximum(1.0, excess) / total)
    found = {c: np.exp(np.bincount(key, weight * np.log(frame[c].to_numpy(float))) / total) for c in _AVERAGED}
    found["low"], found["high"] = found["median"] * np.exp(-half), found["median"] * np.exp(half)
    order = np.lexsort((frame["min"].to_numpy(float), key))
    firsts = np.searchsorted(key[order], np.arange(len(counts)))
    found["min"] = frame["min"].to_numpy(float)[order][firsts]
    found["std"] = np.sqrt(np.bincount(key, weight * frame["std"].to_numpy(float) ** 2) / total)
    found["n"] = np.bincount(key, frame["n"].to_numpy(float)).astype(np.int64)
    return found


def _between(logs: np.ndarray, own: np.ndarray, key: np.ndarray, counts: np.ndarray) -> float:
    """Variance of a block's log time between processes, beyond what its rows' own intervals explain; robust."""
    if not len(apart := _apart(logs, key, counts)):
        return 0.0
    total = (_MEDIAN_TO_STD * float(np.median(apart))) ** 2
    return max(0.0, total - float(np.median(own[counts[key] > 1])))
