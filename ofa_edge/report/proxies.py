"""How well one number stands for another device's clock: MACs for latency, and one device's latency for another's.

In: devices. Out: `Proxy`s and `Likeness`es, from a fixed sample of subnets of the space. Rules kept: latencies are what
the models predict, the sample is the same for every device of a space, and what is said is how ranks agree (Spearman)
and how far subnets of equal MACs lie apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge.accuracy.validation import spearman
from ofa_edge.errors import BadFile
from ofa_edge.latency.exchange.diff import Difference, diff
from ofa_edge.report.devices import Device
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.costs import FAILED, LATENCY, MACS, PER_MS
from ofa_edge.space.population import ArchArrays

SAMPLE = 1500
# MACs within this are called equal; fewer subnets than _FEWEST tell no spread.
EQUAL = 0.02
_FEWEST = 8
_COMPARED = 6  # tables of a space that are compared in pairs


@dataclass(frozen=True)
class Proxy:
    """MACs against latency on one device.

    Attributes:
        macs, latency_ms: (n,) of the sampled subnets.
        rank: Spearman's correlation of the two; NaN where all are alike.
        spread: the 95th over the 5th percentile of latency among subnets of equal MACs, less 1: the median over the
            sample; NaN where no MACs are shared by enough subnets.
        pair: two rows of nearly equal MACs that differ most, the faster first; None where there are none.
    """

    device: Device
    macs: np.ndarray
    latency_ms: np.ndarray
    rank: float
    spread: float
    pair: tuple[int, int] | None


@dataclass(frozen=True)
class Likeness:
    """Two devices: how their blocks differ, and how alike they rank subnets; either None where it cannot be told."""

    a: Device
    b: Device
    blocks: Difference | None
    rank: float | None


def proxies(found: Sequence[Device]) -> list[Proxy]:
    """One a device that has a model."""
    known = []
    for device in found:
        model = device.model
        if model is None:
            continue
        macs, ms = _sampled(device, _resolutions(device, found))
        runs = (ms > 0) & (ms < FAILED / PER_MS)
        if runs.sum() >= _FEWEST:
            known.append(_proxy(device, macs[runs], ms[runs]))
    return known


def likenesses(found: Sequence[Device]) -> list[Likeness]:
    """Every two devices of one space, of the first few of each."""
    alike = []
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            if a.table.header.space != b.table.header.space or b.series >= _COMPARED:
                continue
            try:
                blocks = None if a.table.blocks.empty or b.table.blocks.empty else diff(a.table, b.table)
            except BadFile:
                blocks = None
            alike.append(Likeness(a, b, blocks, _agreement(a, b)))
    return alike


def _agreement(a: Device, b: Device) -> float | None:
    if a.model is None or b.model is None:
        return None
    shared = sorted(set(a.model.resolutions) & set(b.model.resolutions))
    if not shared or a.model.space != b.model.space:
        return None
    one, other = _sampled(a, shared)[1], _sampled(b, shared)[1]
    runs = (one < FAILED / PER_MS) & (other < FAILED / PER_MS)
    rank = rank_correlation(one[runs], other[runs]) if runs.sum() >= _FEWEST else float("nan")
    return None if np.isnan(rank) else rank


def _resolutions(device: Device, found: Sequence[Device]) -> list[int]:
    """Those that all devices of its space have, so that they are asked the same; its own where there are none."""
    own = set(device.table.header.resolutions)
    same = [set(d.table.header.resolutions) for d in found if d.table.header.space == device.table.header.space]
    return sorted(own.intersection(*same) or own)


def _sampled(device: Device, resolutions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """MACs and ms of the sample, (SAMPLE,) each."""
    assert device.model is not None
    space = device.model.space
    archs = ArchArrays.sample(space, np.random.default_rng(0), SAMPLE, resolutions)
    rows = BatchCosts(space, device.model, resolutions).rows(archs)
    return rows[:, MACS].astype(float), rows[:, LATENCY] / PER_MS


def _proxy(device: Device, macs: np.ndarray, ms: np.ndarray) -> Proxy:
    order = np.argsort(macs, kind="stable")
    ends = np.searchsorted(macs[order], macs[order] * (1 + EQUAL), side="right")
    spreads: list[float] = []
    pair, widest = None, 1.0
    for start, end in enumerate(ends.tolist()):
        group = order[start:end]
        if len(group) < _FEWEST:
            continue
        times = ms[group]
        low, high = np.percentile(times, (5, 95))
        spreads.append(float(high / low) - 1)
        if (ratio := float(times.max() / times.min())) > widest:
            widest, pair = ratio, (int(group[times.argmin()]), int(group[times.argmax()]))
    spread = float(np.median(spreads)) if spreads else float("nan")
    return Proxy(device, macs, ms, rank_correlation(macs, ms), spread, pair)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; NaN where one of the two is constant."""
    return spearman(a, b) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
