"""Two latency tables against each other, block by block.

In: two LatencyTables, of whatever conditions. Out: a Difference. Rules kept: two blocks differ where their intervals do
not overlap, which is stricter than a test of the difference (two 95 % intervals that just touch are 2.8 standard errors
apart), so of equal tables about one block in two hundred is reported; where an interval is unknown nothing is claimed.
What all blocks have in common, one device being slower throughout, is told apart from what is left after it.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofa_edge.errors import BadFile
from ofa_edge.files import write_result
from ofa_edge.latency import stats
from ofa_edge.latency.conditions import Conditions, Mismatch
from ofa_edge.latency.table import LatencyTable

_ENDS = ("low", "high")


@dataclass(frozen=True, slots=True)
class Spread:
    """How far blocks are apart: median and 90th percentile of |b / a - 1|, and how many lie beyond both intervals."""

    median: float
    p90: float
    beyond: int

    def as_json(self) -> dict[str, Any]:
        return {"median_pct": 100 * self.median, "p90_pct": 100 * self.p90, "beyond_intervals": self.beyond}


@dataclass(frozen=True, eq=False)
class Difference:
    """What two tables differ in.

    Attributes:
        conditions: that differ, in the order of the fields; unknown ones too, unless both are.
        blocks: one row a block that both measured (the index): a, b (ms), ratio (b / a), beyond and beyond_scaled
            (their intervals do not overlap, as they are and with b over `scale`).
        only_a, only_b: keys of blocks that one of them measured.
        comparable: blocks with intervals in both tables.
        scale: median of the ratios, with its order-statistic interval (None below six blocks).
        raw, scaled: before and after b was divided by `scale`.
        networks: the same of whole networks' medians that both measured; None where there are none.
    """

    conditions: tuple[Mismatch, ...]
    blocks: pd.DataFrame
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    comparable: int
    scale: float
    scale_interval: tuple[float, float] | None
    raw: Spread
    scaled: Spread
    networks: Spread | None

    def as_json(self) -> dict[str, Any]:
        """Blocks beyond both intervals only; `differences` worst first."""
        found = self.blocks[self.blocks["beyond"]]
        order = np.argsort(-np.abs(np.log(found["ratio"].to_numpy(float))), kind="stable")
        found = found.iloc[order]
        return {
            "conditions": [mismatch._asdict() for mismatch in self.conditions],
            "blocks": {
                "both": len(self.blocks),
                "comparable": self.comparable,
                "only_a": list(self.only_a),
                "only_b": list(self.only_b),
            },
            "scale": {
                "value": self.scale,
                "low": None if self.scale_interval is None else self.scale_interval[0],
                "high": None if self.scale_interval is None else self.scale_interval[1],
            },
            "raw": self.raw.as_json(),
            "scaled": self.scaled.as_json(),
            "networks": None if self.networks is None else self.networks.as_json(),
            "differences": [
                {"key": key, "a_ms": a, "b_ms": b, "ratio": ratio, "beyond_scaled": bool(still)}
                for key, a, b, ratio, _, still in found.itertuples(name=None)
            ],
        }


def diff(a: LatencyTable, b: LatencyTable) -> Difference:
    """Compare the measured blocks of two tables.

    Raises:
        BadFile: they have no block in common.
    """
    both = a.blocks.index.intersection(b.blocks.index, sort=False)
    if both.empty:
        raise BadFile(
            f"{a.path} and {b.path} have no block in common: they are of {a.header.space} at {a.header.resolutions} and"
            f" {b.header.space} at {b.header.resolutions}",
            hint="give tables of one space with a resolution in common",
        )
    first, second = a.blocks.loc[both], b.blocks.loc[both]
    ratio = second["median"].to_numpy(float) / first["median"].to_numpy(float)
    scale = float(np.median(ratio))
    known = ~(first[["low", "high"]].isna().any(axis=1) | second[["low", "high"]].isna().any(axis=1)).to_numpy()
    beyond, still = _apart(first, second, 1.0), _apart(first, second, scale)
    blocks = pd.DataFrame(
        {
            "a": first["median"].to_numpy(float),
            "b": second["median"].to_numpy(float),
            "ratio": ratio,
            "beyond": beyond,
            "beyond_scaled": still,
        },
        index=both,
    )
    return Difference(
        conditions=differing(a.conditions, b.conditions),
        blocks=blocks,
        only_a=_only(a, b),
        only_b=_only(b, a),
        comparable=int(known.sum()),
        scale=scale,
        scale_interval=stats.median_interval(ratio.tolist()),
        raw=_spread(ratio, beyond),
        scaled=_spread(ratio / scale, still),
        networks=_networks(a, b),
    )


def differing(a: Conditions, b: Conditions) -> tuple[Mismatch, ...]:
    """The keys in which two conditions have different values, 'unknown' being one."""
    one, other = a.model_dump(mode="json"), b.model_dump(mode="json")
    keys = dict.fromkeys([*one, *other])
    return tuple(Mismatch(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key))


def write_csv(difference: Difference, out: Path) -> None:
    """Every block that both measured: key, a_ms, b_ms, ratio, beyond, beyond_scaled.

    Raises:
        OfaEdgeError: the file cannot be written.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["key", "a_ms", "b_ms", "ratio", "beyond", "beyond_scaled"])
    writer.writerows(
        [key, a, b, ratio, int(beyond), int(still)]
        for key, a, b, ratio, beyond, still in difference.blocks.itertuples(name=None)
    )
    write_result(out, lines.getvalue().encode())


def _apart(a: pd.DataFrame, b: pd.DataFrame, scale: float) -> np.ndarray:
    """Where the intervals do not overlap; comparisons with an unknown end (NaN) are False."""
    above = b["low"].to_numpy(float) / scale > a["high"].to_numpy(float)
    below = b["high"].to_numpy(float) / scale < a["low"].to_numpy(float)
    return np.asarray(above | below)


def _spread(ratio: np.ndarray, beyond: np.ndarray) -> Spread:
    change = np.abs(ratio - 1)
    return Spread(float(np.median(change)), float(np.quantile(change, 0.9)), int(beyond.sum()))


def _only(a: LatencyTable, b: LatencyTable) -> tuple[str, ...]:
    return tuple(a.blocks.index.difference(b.blocks.index, sort=False))


def _networks(a: LatencyTable, b: LatencyTable) -> Spread | None:
    """Of raw medians: the ratios to two tables' anchors are the same only where the anchors are."""
    first, second = (_by_key(table) for table in (a, b))
    both = first.index.intersection(second.index, sort=False)
    if both.empty:
        return None
    first, second = first.loc[both], second.loc[both]
    ratio = second["median"].to_numpy(float) / first["median"].to_numpy(float)
    return _spread(ratio, _apart(first, second, 1.0))


def _by_key(table: LatencyTable) -> pd.DataFrame:
    """Medians of networks with their intervals (NaN where unknown), by key.

    The figures are of one process: its interval goes with the median over all of them."""
    figures = table.networks["figures"].tolist()
    median = table.networks["median"].to_numpy(float)
    moved = median / np.array([f["median"] for f in figures], float)
    ends = {
        name: moved * [math.nan if (end := stats.told(f.get(name))) is None else end for f in figures] for name in _ENDS
    }
    found = pd.DataFrame({"median": median, **ends}, index=table.networks["key"])
    return found[~found.index.duplicated(keep="last")]
